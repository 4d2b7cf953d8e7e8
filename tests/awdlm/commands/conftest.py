"""Runs of the commands on the tiny corpus, and an evaluation that shares no code with theirs.

Shapes: T time steps, B columns, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from awdlm.finetune import main as finetune_main
from awdlm.options import TRAIN, FinetuneOptions, ModelOptions, TrainOptions, build_model
from awdlm.train import main as train_main
from rnncore import checkpoint
from rnncore.flags import from_dict
from torch import Tensor

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def plain() -> list[str]:
    """No dropout and no penalty."""
    names = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "alpha", "beta")
    return [word for name in names for word in (f"--{name}", "0")]


@pytest.fixture(scope="module")
def arguments(sandbox: Path, tiny_words: Callable[..., list[str]]) -> list[str]:
    """The corpus and small sizes, for ``awdlm-train``."""
    return tiny_words("awdlm-train")


@pytest.fixture(scope="module")
def train(arguments: list[str], runner: Callable[..., Run]) -> Run:
    """Runs of ``awdlm-train`` at small sizes."""
    return runner(train_main, arguments)


@pytest.fixture(scope="module")
def finetune(sandbox: Path, tiny_words: Callable[..., list[str]], runner: Callable[..., Run]) -> Run:
    """Runs of ``awdlm-finetune`` with small batches; the model is to be named."""
    words = tiny_words("awdlm-finetune", model="")[1:]
    return runner(finetune_main, words, "finetuned")


@pytest.fixture
def refused(arguments: list[str], refusal: Callable[[click.Command, Sequence[str]], str]) -> Callable[..., str]:
    """``refused(*words)`` runs a command that must end with status 2 and one line of error, which it returns.

    ``command`` is the command; ``awdlm-train`` gets the small sizes first.
    """

    def run(*words: str, command: click.Command = train_main) -> str:
        return refusal(command, [*arguments, *words] if command is train_main else words)

    return run


@pytest.fixture(scope="session")
def text_of(tokens_of: Callable[[Path, str], list[str]]) -> Callable[..., Tensor]:
    """``text_of(corpus, split, columns, saved)``: a split in the ids of a checkpoint, ``[T, B]``."""

    def read(corpus: Path, split: str, columns: int, saved: dict[str, Any]) -> Tensor:
        tokens = tokens_of(corpus, split)
        if saved["config"]["level"] == "character":
            tokens = ["<eos>" if letter == "\n" else letter for letter in (corpus / f"{split}.txt").read_text()]
        ids = [saved["vocabulary"].index(token) for token in tokens]
        rows = len(ids) // columns
        return torch.tensor(np.array(ids[: rows * columns]).reshape(columns, rows).T.copy())

    return read


@pytest.fixture(scope="session")
def build() -> Callable[[dict[str, Any]], Any]:
    """``build(saved)``: the model of a checkpoint, in float64, without dropout."""

    def make(saved: dict[str, Any]) -> Any:
        kind: type[ModelOptions] = TrainOptions if saved["kind"] == TRAIN else FinetuneOptions
        model = build_model(from_dict(kind, saved["config"]), len(saved["vocabulary"])).double().eval()
        model.load_state_dict(saved["model"])
        return model

    return make


def log_softmax_of_all(model: Any, states: Tensor) -> Tensor:
    """log p of every word ``[T, B, V]``, from the model's parameters: a softmax of all logits, or head and tails."""
    logits = states @ model.decoder.weight.T + model.decoder.bias
    splits = model.criterion.splits
    if not splits:
        return logits.log_softmax(2)
    tombstones = states @ model.criterion.tail_vectors.T + model.criterion.tail_bias
    head = torch.cat([logits[..., : splits[0]], tombstones], 2).log_softmax(2)
    parts = [head[..., : splits[0]]]
    for tail, (first, last) in enumerate(zip(splits, [*splits[1:], logits.shape[2]], strict=True), start=1):
        parts.append(head[..., -tail, None] + logits[..., first:last].log_softmax(2))
    return torch.cat(parts, 2)


@pytest.fixture(scope="session")
def all_log_probabilities() -> Callable[[Any, Tensor], Tensor]:
    return log_softmax_of_all


@pytest.fixture
def evaluated_by_hand(
    corpus: Path, text_of: Callable[..., Tensor], build: Callable[[dict[str, Any]], Any]
) -> Callable[[Path, str, int], float]:
    """Mean cross entropy of all targets of a split: one window, float64, the decoder applied to all words."""

    def evaluate(file: Path, split: str, columns: int) -> float:
        saved = checkpoint.load(file)
        model, text = build(saved), text_of(corpus, split, columns, saved)
        with torch.no_grad():
            states = model(text[:-1], model.initial_state(columns)).dropped[-1]
            found = log_softmax_of_all(model, states).gather(2, text[1:, :, None])
        return -float(found.mean())

    return evaluate
