"""A run that was killed or stopped goes on as if nothing had happened, to the bit."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rmc import train_farthest, train_memory, train_rnn
from rnncore import checkpoint
from rnncore.errors import UserError

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
MAINS = {"memory": train_memory.main, "rnn": train_rnn.main, "farthest": train_farthest.main}
#: A name of each run: the task and its words.
RUNS = {
    "memory": ("memory", ""),
    "adaptive": ("memory", "--adaptivesoftmax --cutoffs 5 12 --patience 0 --lr 0.3"),
    "rnn": ("rnn", "--nlayers 2"),
    "farthest": ("farthest", ""),
    "lstm": ("farthest", "--model lstm"),
}
each_run = pytest.mark.parametrize("name", RUNS)
each_text = pytest.mark.parametrize("name", ["memory", "adaptive", "rnn"])


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


def fatal_step(run: Path, middle: Callable[[Path], int]) -> int:
    return 24 if "farthest" in run.name else middle(run)


def assert_same_state(run: Path, other: Path) -> None:
    for file in ("last.pt", "best.pt"):
        ours, theirs = (dict(leaves(checkpoint.load(each / file))) for each in (run, other))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if "/config/" in name or "/log/" in name:
                continue
            same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            assert same, name


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, part in value.items() for leaf in leaves(part, f"{name}/{key}")]


@each_run
def test_killed_run_goes_on_to_the_bit(
    name: str,
    whole: Callable[[str], Path],
    arguments: Callable[[str], list[str]],
    middle: Callable[[Path], int],
    kill_at: Callable[..., list[dict[str, Any]]],
    rows_of: Rows,
) -> None:
    task, words = RUNS[name]
    run, fatal = Path(f"killed-{name}"), fatal_step(whole(name), middle)
    module = {"memory": "rmc.train_memory", "rnn": "rmc.train_rnn", "farthest": "rmc.train_farthest"}[task]
    cut_off = kill_at(module, fatal, [*arguments(task), *words.split()], run)
    resume(name, str(run))
    (resumed_at,) = re.findall(r"resumed at epoch \d, step (\d+)", (run / "log.txt").read_text())
    assert int(resumed_at) == fatal - 3
    assert rows_of(run) == rows_of(whole(name))
    assert rows_of(run)[: len(cut_off)] == cut_off
    assert_same_state(run, whole(name))


@each_run
def test_interrupted_run_saves_and_goes_on_to_the_bit(
    name: str,
    whole: Callable[[str], Path],
    launch: Run,
    middle: Callable[[Path], int],
    interrupt_at: Callable[[pytest.MonkeyPatch, int], None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, fatal = Path(f"interrupted-{name}"), fatal_step(whole(name), middle)
    with monkeypatch.context() as patch:
        interrupt_at(patch, fatal)
        with pytest.raises(SystemExit) as stopped:
            launch(*RUNS[name], f"--run_dir {run}")
    assert stopped.value.code == 128 + signal.SIGINT
    assert f"--resume {run}" in capsys.readouterr().out
    resume(name, str(run))
    assert f"step {fatal}\n" in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole(name))
    assert_same_state(run, whole(name))


@each_run
@pytest.mark.parametrize("steps", [8, 20])
def test_max_steps_can_be_raised(
    name: str, steps: int, whole: Callable[[str], Path], launch: Run, rows_of: Rows
) -> None:
    run = Path(f"limited-{name}-{steps}")
    launch(*RUNS[name], f"--run_dir {run} --max_steps {steps}")
    assert rows_of(run, "valid", "test")[-1]["step"] == steps
    before = rows_of(run)
    resume(name, str(run))  # the limit is of the call: to the end
    assert rows_of(run) == rows_of(whole(name))
    assert_same_state(run, whole(name))
    again = Path(f"again-{name}-{steps}")
    launch(*RUNS[name], f"--run_dir {again} --max_steps {steps}")
    resume(name, str(again), "--max_steps", str(steps))  # complete: it is evaluated again
    assert rows_of(again) == before


@each_text
def test_a_run_goes_on_from_the_end_of_its_best_epoch(
    name: str, whole: Callable[[str], Path], copy_files: Callable[[Path, Path], Path], rows_of: Rows
) -> None:
    run = copy_files(whole(name), Path(f"epochs-{name}"))
    (file,) = run.glob("epoch*.pt")
    valid = rows_of(run, "valid")
    best = min(valid, key=lambda row: row["loss"])["epoch"]
    assert file.name == f"epoch{best}.pt"
    resume(name, str(best), "--run_dir", str(run))
    assert f"resumed at epoch {best}," in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole(name))
    assert_same_state(run, whole(name))


def test_a_run_goes_on_from_the_epoch_that_ended_last(launch: Run, rows_of: Rows, whole: Callable[[str], Path]) -> None:
    launch("memory", "--name two --epochs 2")
    resume("memory", "2", "--name", "two", "--epochs", "4")
    assert rows_of(Path("runs/rmc-train/two")) == rows_of(whole("memory"))


def test_an_epoch_without_checkpoint_is_named(whole: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint of the end of epoch 9 \(there are: .*4\)"):
        resume("memory", "9", "--run_dir", str(whole("memory")))


def test_more_epochs_and_steps_can_be_asked_for(launch: Run, rows_of: Rows, whole: Callable[[str], Path]) -> None:
    launch("rnn", "--nlayers 2 --epochs 1 --run_dir short")
    resume("rnn", "short", "--epochs", "4")
    assert rows_of(Path("short")) == rows_of(whole("rnn"))
    launch("farthest", "--n_steps 13 --run_dir short-farthest")
    resume("farthest", "short-farthest", "--n_steps", "30")
    assert rows_of(Path("short-farthest")) == rows_of(whole("farthest"))


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("memory", "--memslots 2", "was begun with --memslots 1, not 2"),
        ("memory", "--variant sonnet", "was begun with --variant port, not sonnet"),
        ("rnn", "--model GRU", "was begun with --model LSTM, not GRU"),
        ("farthest", "--objects 4", "was begun with --objects 3, not 4"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    name: str, words: str, expected: str, whole: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=expected):
        resume(name, str(whole(name)), *words.split())


def test_another_vocabulary_is_refused(whole: Callable[[str], Path], data: Path) -> None:
    (data / "test.txt").write_text("new words\n" * 40)
    with pytest.raises(UserError, match="has another vocabulary than the run to resume; give its --data"):
        resume("memory", str(whole("memory")), "--data", str(data))


def test_a_run_of_another_command_is_refused(whole: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"is a checkpoint of rmc-train, not of rmc-train-rnn"):
        resume("rnn", str(whole("memory")))
