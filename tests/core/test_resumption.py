"""Which run ``--resume`` goes on with, which options it keeps, and Ctrl-C that waits for the step under way."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flags import command, flag, to_dict
from rnncore.interrupts import deferred_interrupt
from rnncore.resumption import open_resumed
from rnncore.run_directory import RunDirectory
from rnncore.run_options import RunOptions

COMMAND = "demo-train"


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Options of a command."""

    size: int = flag(8, "--nhid", help="units")
    epochs: int = flag(100, "--epochs", help="most epochs")


BEGUN_WITH = Options(size=32, epochs=4, max_steps=50, threads=1, device="cpu", amp="bf16")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only run in its place, with a last and a best checkpoint."""
    monkeypatch.chdir(tmp_path)
    made = RunDirectory.create(None, command=COMMAND, config=to_dict(BEGUN_WITH))
    state: dict[str, Any] = {"kind": COMMAND, "config": to_dict(BEGUN_WITH)}
    checkpoint.save(made.best, state)
    for number in (1, 2):
        checkpoint.save(made.last, state | {"optimizer": {}, "number": number})
    made.close()
    return made.path


def test_options_not_given_are_those_of_the_run(run: Path) -> None:
    options, directory, saved = open_resumed(Options(resume=str(run)), COMMAND, set())
    # How far to go this time, and which run that is, belongs to the call.
    assert options == replace(BEGUN_WITH, max_steps=0, resume=str(run))
    assert (directory.path, saved["number"]) == (run, 2)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (Options(resume=""), 2),
        (Options(resume="", run_dir=Path("PLACE")), 2),
        (Options(resume="PLACE", run_dir=Path("PLACE")), 2),
        (Options(resume="PLACE/last.pt"), 2),
        (Options(resume="PLACE/last.previous.pt"), 1),
    ],
)
def test_a_run_is_found_by_its_directory_or_a_checkpoint_or_as_the_newest(
    given: Options, number: int, run: Path
) -> None:
    assert given.resume is not None
    given = replace(given, resume=given.resume.replace("PLACE", str(run)), run_dir=given.run_dir and run)
    _, directory, saved = open_resumed(given, COMMAND, set())
    assert (directory.path, saved["number"]) == (run, number)


def test_where_and_how_long_may_change(run: Path) -> None:
    given = Options(resume=str(run), epochs=9, max_steps=70, threads=2, device="auto", dry_run=True)
    options, _, _ = open_resumed(given, COMMAND, {"epochs"})
    assert options == replace(given, size=32, device="cpu", amp="bf16")
    assert open_resumed(replace(given, device="cuda"), COMMAND, {"epochs"})[0].device == "cuda"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (Options(size=16), "was begun with --nhid 32, not 16"),
        (Options(epochs=9), "was begun with --epochs 4, not 9"),
        (Options(run_dir=Path("other")), "leave --run_dir other out"),
    ],
)
def test_what_makes_another_run_is_refused(given: Options, line: str, run: Path) -> None:
    with pytest.raises(UserError, match=line):
        open_resumed(replace(given, resume=str(run)), COMMAND, set())


@pytest.fixture
def resume(run: Path) -> Callable[..., Options]:
    """``resume(*words)``: the options of the run that a command line goes on with."""
    found: list[Options] = []

    @command(Options, name=COMMAND)
    def main(options: Options) -> None:
        """Goes on."""
        found.append(open_resumed(options, COMMAND, {"epochs"})[0])

    def call(*words: str) -> Options:
        main(["--resume", str(run), *words], standalone_mode=False)
        return found.pop()

    return call


def test_a_default_that_is_given_counts_as_any_value(resume: Callable[..., Options], tmp_path: Path) -> None:
    assert resume() == replace(BEGUN_WITH, max_steps=0, resume=resume().resume)
    assert resume("--epochs", "100", "--device", "auto").epochs == 100
    (tmp_path / "more.yaml").write_text("epochs: 100\ndevice: auto\n")
    for words in (["--epochs", "100", "--device", "auto"], ["--config", str(tmp_path / "more.yaml")]):
        assert (resume(*words).epochs, resume(*words).device) == (100, "auto")
    with pytest.raises(UserError, match="was begun with --nhid 32, not 8"):
        resume("--nhid", "8")


def test_a_value_that_the_run_has_too_is_no_conflict(run: Path) -> None:
    assert open_resumed(Options(resume=str(run), size=32), COMMAND, set())[0].size == 32


def test_a_checkpoint_without_training_state_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"best\.pt is a model without .* resume from .*last\.pt"):
        open_resumed(Options(resume=str(run / "best.pt")), COMMAND, set())


def test_another_command_s_run_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="is a checkpoint of demo-train, not of other-train"):
        open_resumed(Options(resume=str(run)), "other-train", set())


def test_no_run_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no run in"):
        open_resumed(Options(resume=""), COMMAND, set())
    with pytest.raises(UserError, match="nowhere holds no run to resume"):
        open_resumed(Options(resume="nowhere"), COMMAND, set())


def test_first_ctrl_c_waits_and_the_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_acts_as_always_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError), deferred_interrupt():
        raise UserError("wrong")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    seen: list[bool] = []

    def body() -> None:
        before = signal.getsignal(signal.SIGINT)
        with deferred_interrupt() as interrupt:
            seen.append(signal.getsignal(signal.SIGINT) is before and not interrupt)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True]
