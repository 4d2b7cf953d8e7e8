"""Text written by a language model, token by token, and the flags that say how.

Shapes: P tokens of the prompt, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_options import device_problem
from rnncore.sampling import sample
from rnncore.vocabulary import Vocabulary

EOS, UNKNOWN = "<eos>", "<unk>"

#: From ids ``[T, 1]`` and a state to logits ``[T, 1, V]`` and the state after them.
Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How text is drawn; a generating command's options inherit these fields. They yield their abbreviations."""

    prompt: str = flag("", "--prompt", help="text to go on from", yields=True)
    temperature: float = flag(1.0, "--temperature", help="below 1 likelier, 0 always the likeliest", minimum=0.0)
    top_k: int | None = flag(None, "--top_k", help="only among the k likeliest tokens", minimum=1, yields=True)
    top_p: float | None = flag(
        None, "--top_p", help="only among the likeliest of this probability", above=0, maximum=1, yields=True
    )
    unknown: bool = flag(False, "--unknown", help="let the model write <unk>", yields=True)
    seed: int = flag(1111, "--seed", help="of the draws", minimum=0, maximum=2**32 - 1)
    device: str = flag("auto", "--device", help="auto, cpu, cuda or cuda:N", check=device_problem, yields=True)


def write_text(
    model: Model, state: Any, vocabulary: Vocabulary, level: str, count: int, options: GenerationOptions
) -> str:
    """The prompt and what a model writes after it.

    Args:
        model: Gives the logits of what follows.
        state: The model's state before any text, on the model's device.
        vocabulary: Of the model.
        level: ``"word"`` or ``"character"``.
        count: How many tokens to write.
        options: The prompt, and how to draw.

    Raises:
        UserError: A setting of the sampling is out of its range; the logits hold NaN; a token of the prompt is
            unknown, and the vocabulary has no ``<unk>``.
    """
    prompt = split_text(options.prompt, level)
    return join_tokens([*prompt, *_continued(model, state, prompt, vocabulary, count, options)], level)


@torch.no_grad()
def _continued(
    model: Model, state: Any, prompt: list[str], vocabulary: Vocabulary, count: int, options: GenerationOptions
) -> list[str]:
    place = _tensor_in(state).device
    generator = torch.Generator(place).manual_seed(options.seed)
    ids = [int(index) for index in vocabulary.encode([EOS, *prompt])]  # a text begins where a line ends
    inputs = torch.tensor(ids, device=place)[:, None]
    barred = [vocabulary.index(UNKNOWN)] if UNKNOWN in vocabulary and not options.unknown else []
    written: list[Tensor] = []
    for _ in range(count):
        logits, state = model(inputs, state)
        last = logits[-1].float()
        last[:, barred] = -torch.inf
        drawn = sample(
            last, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, generator=generator
        )
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


def save_text(text: str, path: Path) -> None:
    """Write a text to a file. Raises UserError, naming ``--outf``, where that fails."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --outf") from error


def _tensor_in(state: Any) -> Tensor:
    while not isinstance(state, Tensor):
        state = state[0]
    return state
