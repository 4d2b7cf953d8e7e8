"""Text written by a language model, token by token.

Shapes: P tokens of the prompt, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnncore.sampling import sample
from rnncore.vocabulary import Vocabulary

EOS, UNKNOWN = "<eos>", "<unk>"

#: From ids ``[T, 1]`` and a state to logits ``[T, 1, V]`` and the state after them.
Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


@torch.no_grad()
def write(
    model: Model,
    state: Any,
    prompt: list[str],
    count: int,
    vocabulary: Vocabulary,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    unknown: bool = False,
    generator: torch.Generator,
) -> list[str]:
    """Writes ``count`` tokens that follow a prompt.

    Args:
        model: Gives the logits of what follows.
        state: The model's state before any text.
        prompt: Tokens; ``<eos>`` is put before them, as a text begins where a line ends.
        count: How many tokens to write.
        vocabulary: Of the model.
        temperature, top_k, top_p: As of `rnncore.sampling.sample`.
        unknown: Whether ``<unk>`` may be written.
        generator: Of the draws, on the model's device.

    Raises:
        UserError: A setting of the sampling is out of its range; the logits hold NaN.
    """
    ids = [int(index) for index in vocabulary.encode([EOS, *prompt])]
    inputs = torch.tensor(ids, device=generator.device)[:, None]
    barred = [vocabulary.index(UNKNOWN)] if UNKNOWN in vocabulary and not unknown else []
    written: list[Tensor] = []
    for _ in range(count):
        logits, state = model(inputs, state)
        last = logits[-1].float()
        last[:, barred] = -torch.inf
        drawn = sample(last, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        written.append(drawn)
        inputs = drawn[None]
    return vocabulary.decode(torch.cat(written).tolist())


def split_text(text: str, level: str) -> list[str]:
    """The tokens of a text: words, or characters at ``level`` ``"character"``; a line end is ``<eos>``."""
    if level == "character":
        return [EOS if character == "\n" else character for character in text]
    return text.replace("\n", f" {EOS} ").split()


def join_tokens(tokens: list[str], level: str) -> str:
    """The text of tokens, without line ends before and after it: the inverse of `split_text`."""
    parts = ["\n" if token == EOS else token for token in tokens]
    if level == "character":
        return "".join(parts).strip("\n")
    return " ".join(parts).replace(" \n", "\n").replace("\n ", "\n").strip("\n")
