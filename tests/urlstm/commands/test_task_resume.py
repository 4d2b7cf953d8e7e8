"""A run that was killed or stopped goes on as if nothing had happened, to the bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.run_log import RunLog
from torch import Tensor
from urlstm import train_adding, train_copy, train_images, train_language

Launch = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]

MAINS = {
    "adding": train_adding.main,
    "copy": train_copy.main,
    "images": train_images.main,
    "language": train_language.main,
}
#: A step past a checkpoint (every 7) and past an evaluation, at which nothing is saved.
FATAL = {"adding": 24, "copy": 24, "images": 24, "language": 31}
each_task = pytest.mark.parametrize("task", MAINS)

KILLED = """
import os, signal, sys
from rnncore.run_log import RunLog
from urlstm.train_adding import main

step, fatal = RunLog.step, int(sys.argv.pop(1))
def counted(log, *args, **kwargs):
    step(log, *args, **kwargs)
    if log.global_step == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.step = counted
main()
"""


class Crash(Exception):
    """Stands for a kill in this process."""


def at_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    step = RunLog.step

    def counted(log: RunLog, loss: Tensor, tokens: int, *, extra: Any = None) -> None:
        step(log, loss, tokens, extra=extra)
        if log.global_step == number:
            action()

    patch.setattr(RunLog, "step", counted)


def crash() -> None:
    raise Crash


def resume(task: str, run: Path, *words: str) -> None:
    MAINS[task](["--resume", str(run), *words], standalone_mode=False)


def assert_same_weights(run: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        first, second = checkpoint.load(run / name)["model"], checkpoint.load(other / name)["model"]
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def whole(launch: Launch) -> Callable[[str], Path]:
    """A run of each task that nothing disturbed."""
    found: dict[str, Path] = {}

    def run(task: str) -> Path:
        if task not in found:
            found[task] = launch(task)
        return found[task]

    return run


def test_killed_run_goes_on_to_the_bit(sandbox: Path, whole: Callable[[str], Path], rows_of: Rows) -> None:
    words = (
        "--seq_length 9 --hidden_size 8 --batch_size 50 --n_steps 40 --valid_interval 10 --threads 1 --device cpu "
        "--log_interval 5 --checkpoint_interval 7 --run_dir killed"
    )
    command = [sys.executable, "-c", KILLED, "24", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = Path("killed")
    cut_off = rows_of(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"event": "st')  # what a kill in the middle of a line leaves
    resume("adding", run)
    assert "resumed at epoch 1, step 21" in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole("adding"))
    assert rows_of(run)[: len(cut_off)] == cut_off
    assert_same_weights(run, whole("adding"))


@pytest.mark.parametrize("task", ["copy", "images", "language"])
def test_crashed_run_goes_on_to_the_bit(
    task: str, whole: Callable[[str], Path], launch: Launch, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(f"crashed-{task}")
    with monkeypatch.context() as patch:
        at_step(patch, FATAL[task], crash)
        with pytest.raises(Crash):
            launch(task, "--run_dir", str(run))
    torch.manual_seed(0)  # what came before the crash is forgotten
    resume(task, run)
    assert f"step {FATAL[task] // 7 * 7}" in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole(task))
    assert_same_weights(run, whole(task))


@each_task
def test_interrupted_run_saves_and_goes_on_to_the_bit(
    task: str,
    whole: Callable[[str], Path],
    launch: Launch,
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(f"interrupted-{task}")
    with monkeypatch.context() as patch:
        at_step(patch, FATAL[task], lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit) as stopped:
            launch(task, "--run_dir", str(run))
    assert stopped.value.code == 130
    assert f"to go on: urlstm-{task} --resume {run}" in capsys.readouterr().out
    resume(task, run)
    assert f"step {FATAL[task]}\n" in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole(task))
    assert_same_weights(run, whole(task))


@each_task
@pytest.mark.parametrize("steps", [8, 20])
def test_max_steps_can_be_raised(
    task: str, steps: int, whole: Callable[[str], Path], launch: Launch, rows_of: Rows
) -> None:
    run = Path(f"limited-{task}-{steps}")
    launch(task, "--run_dir", str(run), "--max_steps", str(steps))
    assert rows_of(run, "valid", "test")[-1]["step"] == steps
    before = rows_of(run)
    resume(task, run)  # the limit is of the call: to the end
    assert rows_of(run) == rows_of(whole(task))
    again = Path(f"again-{task}-{steps}")
    launch(task, "--run_dir", str(again), "--max_steps", str(steps))
    resume(task, again, "--max_steps", str(steps))  # complete: it is evaluated again
    assert rows_of(again) == before


def test_more_steps_and_epochs_can_be_asked_for(whole: Callable[[str], Path], launch: Launch, rows_of: Rows) -> None:
    launch("adding", "--run_dir", "short-adding", "--n_steps", "23")
    resume("adding", Path("short-adding"), "--n_steps", "40")
    assert rows_of(Path("short-adding")) == rows_of(whole("adding"))
    launch("images", "--run_dir", "short-images", "--n_epochs", "1")
    resume("images", Path("short-images"), "--n_epochs", "3")
    assert rows_of(Path("short-images")) == rows_of(whole("images"))


@pytest.mark.parametrize(
    ("task", "words", "expected"),
    [
        ("adding", "--hidden_size 9", "was begun with --hidden_size 8, not 9"),
        ("adding", "--model_type gru", "was begun with --model_type ur-lstm, not gru"),
        ("copy", "--delimiter", "was begun with --delimiter False, not True"),
        ("images", "--dataset_type p-mnist", "was begun with --dataset_type digits, not p-mnist"),
        ("language", "--reset_state", "was begun with --reset_state False, not True"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    task: str, words: str, expected: str, whole: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=expected):
        resume(task, whole(task), *words.split())


def test_a_run_of_another_command_is_refused(whole: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"is a checkpoint of urlstm-copy, not of urlstm-adding"):
        resume("adding", whole("copy"))
