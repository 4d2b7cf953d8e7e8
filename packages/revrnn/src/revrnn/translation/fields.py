"""torchtext 0.6, behind one module: vocabularies from its Field, batches of like lengths from its BucketIterator.

torchtext is imported when it is first needed: it takes seconds.
"""

import random
from collections.abc import Sequence
from typing import Any

from rnncore.errors import UserError

from revrnn.translation.encoded import Pairs

UNKNOWN_WORD, PADDING_WORD, BEGIN_WORD, END_WORD = "<unk>", "<blank>", "<s>", "</s>"


def torchtext_data() -> Any:
    """The module ``torchtext.data``. Raises UserError where torchtext is missing or not of version 0.6."""
    try:
        from torchtext import data
    except ImportError:
        raise UserError("translation needs the package torchtext, version 0.6: install torchtext==0.6.0") from None
    if not hasattr(data, "BucketIterator"):
        raise UserError("translation needs torchtext 0.6; later versions have no Field and BucketIterator")
    return data


def build_vocabulary(texts: Sequence[Sequence[str]], *, target: bool, largest: int, min_frequency: int) -> list[str]:
    """The words of texts, the most frequent first, after the special ones.

    Args:
        texts: Tokens of each sentence.
        target: Whether the vocabulary begins and ends sentences, too.
        largest: How many words at most, special ones aside.
        min_frequency: How often a word must be there.
    """
    data = torchtext_data()
    field = data.Field(
        unk_token=UNKNOWN_WORD,
        pad_token=PADDING_WORD,
        init_token=BEGIN_WORD if target else None,
        eos_token=END_WORD if target else None,
    )
    field.build_vocab(texts, max_size=largest, min_freq=max(1, min_frequency))
    return list(field.vocab.itos)


def epoch_batches(pairs: Pairs, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The numbers of the pairs of each batch of an epoch, in random order, pairs of like lengths together.

    A function of its arguments alone, whatever was drawn before, so that a resumed epoch has the same batches.
    """
    data = torchtext_data()
    examples = []
    for number in range(len(pairs)):
        example = data.Example()
        example.number, example.length = number, (len(pairs.source[number]), len(pairs.target[number]))
        examples.append(example)
    before = random.getstate()
    random.seed(f"{seed} {epoch}")
    try:
        iterator = data.BucketIterator(
            data.Dataset(examples, []),
            batch_size,
            sort_key=lambda example: example.length,
            train=True,
            shuffle=True,
            sort_within_batch=True,
            repeat=False,
            device="cpu",
        )
        iterator.create_batches()
        return [[example.number for example in batch] for batch in iterator.batches]
    finally:
        random.setstate(before)


def sorted_batches(lengths: Sequence[Any], batch_size: int) -> list[list[int]]:
    """Numbers in batches of like lengths, the longest first; always the same."""
    order = sorted(range(len(lengths)), key=lambda number: lengths[number], reverse=True)
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
