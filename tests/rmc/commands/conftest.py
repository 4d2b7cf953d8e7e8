"""Tiny runs of the commands, and an evaluation that shares no code with theirs.

Shapes: T time steps, B columns, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from rmc import train_farthest, train_memory, train_rnn
from rmc.options import MEMORY, RNN
from rmc.saved_model import load
from rnncore import report
from torch import Tensor

Run = Callable[..., Path]

MAINS: dict[str, click.Command] = {
    "memory": train_memory.main,
    "rnn": train_rnn.main,
    "farthest": train_farthest.main,
}
EVERY = "--threads 1 --device cpu --log-interval 5 --checkpoint_interval 7"
TEXT = "--batch_size 4 --bptt 10 --emsize 16 --lr 0.01 --clip 1"
#: Sizes so small that a run takes a second; the steps of an epoch are no multiple of the checkpoints' interval.
TINY = {
    "memory": f"{TEXT} --headsize 8 --numheads 2 --keysize 4 --attmlplayers 2",
    "rnn": f"{TEXT} --nhid 16",
    "farthest": "--objects 3 --dimensions 2 --memslots 3 --headsize 8 --numheads 2 --nhid 16 --mlpsize 16 "
    "--mlplayers 2 --batch_size 40 --n_steps 30 --valid_interval 10 --test_questions 90 --lr 0.001 --clip 1",
}


@pytest.fixture(scope="module", autouse=True)
def plot() -> Iterator[Callable[..., object]]:
    """No run draws its curves, which takes longer than the rest of it; the function that would."""
    with pytest.MonkeyPatch.context() as patch:
        real = report.plot
        patch.setattr(report, "plot", lambda *_: None)
        yield real


@pytest.fixture(scope="module")
def arguments(sandbox: Path, corpus: Path) -> Callable[[str], list[str]]:
    """``arguments(task)``: the flags of a tiny run."""

    def words(task: str) -> list[str]:
        data = [] if task == "farthest" else ["--data", str(corpus), "--epochs", "4"]
        return [*data, *TINY[task].split(), *EVERY.split()]

    return words


@pytest.fixture(scope="module")
def launch(sandbox: Path, arguments: Callable[[str], list[str]]) -> Run:
    """``launch(task, *words)`` runs a command at tiny sizes in this process; gives the run directory."""
    count = 0

    def run(task: str, *words: str) -> Path:
        nonlocal count
        count += 1
        split = [part for word in words for part in word.split()]
        place = [] if {"--run_dir", "--name"} & set(split) else ["--run_dir", f"{task}{count}"]
        MAINS[task]([*arguments(task), *place, *split], standalone_mode=False)
        return sandbox / f"{task}{count}"

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
