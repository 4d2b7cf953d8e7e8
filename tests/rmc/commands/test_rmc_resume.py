"""A run goes on from the end of an epoch that is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rmc import train_memory, train_rnn
from rnncore.errors import UserError

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
MAINS = {"memory": train_memory.main, "rnn": train_rnn.main}
#: A name of each run: the task and its words.
RUNS = {
    "memory": ("memory", ""),
}


def resume(name: str, *words: str) -> None:
    MAINS[RUNS[name][0]](["--resume", *words], standalone_mode=False)


@pytest.fixture(scope="module")
def whole(launch: Run) -> Callable[[str], Path]:
    """A run that nothing disturbed."""
    found: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in found:
            found[name] = launch(*RUNS[name])
        return found[name]

    return run


def test_a_run_goes_on_from_the_epoch_that_ended_last(launch: Run, rows_of: Rows, whole: Callable[[str], Path]) -> None:
    launch("memory", "--name two --epochs 2")
    resume("memory", "2", "--name", "two", "--epochs", "4")
    assert rows_of(Path("runs/rmc-train/two")) == rows_of(whole("memory"))


def test_an_epoch_without_checkpoint_is_named(whole: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint of the end of epoch 9 \(there are: .*4\)"):
        resume("memory", "9", "--run_dir", str(whole("memory")))
