"""Tiny runs of the commands, and an evaluation that shares no code with theirs.

Shapes: T time steps, B columns, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from rmc import train_farthest, train_memory, train_rnn
from rmc.options import MEMORY, RNN
from rmc.saved_model import load
from torch import Tensor

Run = Callable[..., Path]

MAINS: dict[str, click.Command] = {
    "memory": train_memory.main,
    "rnn": train_rnn.main,
    "farthest": train_farthest.main,
}
NAMES = {"memory": "rmc-train", "rnn": "rmc-train-rnn", "farthest": "rmc-nth-farthest"}


@pytest.fixture(scope="module")
def arguments(sandbox: Path, tiny_words: Callable[..., list[str]]) -> Callable[[str], list[str]]:
    """``arguments(task)``: the flags of a tiny run."""
    return lambda task: tiny_words(NAMES[task])


@pytest.fixture(scope="module")
def launch(sandbox: Path, arguments: Callable[[str], list[str]], runner: Callable[..., Run]) -> Run:
    """``launch(task, *words)`` runs a command at tiny sizes in this process; gives the run directory."""
    runs = {task: runner(main, arguments(task), task) for task, main in MAINS.items()}

    def run(task: str, *words: str) -> Path:
        split = [part for word in words for part in word.split()]
        if "--name" not in split:
            return runs[task](*split)
        MAINS[task]([*arguments(task), *split], standalone_mode=False)
        return sandbox / "runs" / NAMES[task] / split[split.index("--name") + 1]

    return run


@pytest.fixture
def refused(
    arguments: Callable[[str], list[str]], refusal: Callable[[click.Command, Sequence[str]], str]
) -> Callable[..., str]:
    """``refused(task, *words)``: a tiny run that must end with status 2 and one line of error, which it returns."""
    return lambda task, *words: refusal(MAINS[task], [*arguments(task), *words])


@pytest.fixture
def evaluated_by_hand(corpus: Path, tokens_of: Callable[[Path, str], list[str]]) -> Callable[[Path, str, str], float]:
    """``evaluated_by_hand(file, task, split)``: the mean cross entropy of all targets of a split.

    One window, float64, step by step where the layer is a memory, the probabilities of all words.
    """

    def evaluate(file: Path, task: str, split: str) -> float:
        saved = load(file, MEMORY if task == "memory" else RNN)
        model = saved.model.double()
        ids = [saved.vocabulary.index(token) for token in tokens_of(corpus, split)]
        rows = len(ids) // 32
        text = torch.tensor(np.array(ids[: rows * 32]).reshape(32, rows).T.copy())
        with torch.no_grad():
            x = model.embedding(text[:-1])
            options: dict[str, Any] = {"return_attention": True} if task == "memory" else {}
            output: Tensor = model.recurrent(x, **options)[0]
            found = model.softmax.log_probabilities(model.projection(output).flatten(0, 1))
        return -float(found.gather(1, text[1:].reshape(-1, 1)).mean())

    return evaluate
