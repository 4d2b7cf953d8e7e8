"""Finetuning that was stopped goes on, and copies of the best model are kept by runs that go on."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from awdlm import training as training_module
from awdlm.finetune import main as finetune_main
from awdlm.train import main as train_main
from rnncore import checkpoint

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]


def resume(*words: str, main: click.Command = train_main) -> None:
    main(["--resume", *words], standalone_mode=False)


@pytest.fixture(scope="module")
def trained(train: Run, sandbox: Path) -> Path:
    """A model to finetune."""
    train("--epochs", "2", "--lr", "3", "--save", "PTB.pt")
    return sandbox / "PTB.pt"


def test_interrupt_while_the_model_to_finetune_is_validated(
    finetune: Run, trained: Path, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, real = ["--save", str(trained), "--epochs", "1"], training_module.evaluate
    whole = finetune(*words)
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "evaluate", lambda *words: (signal.raise_signal(signal.SIGINT), real(*words))[1])
        with pytest.raises(SystemExit):
            finetune(*words, "--run_dir", "beginning")
    assert rows_of(Path("beginning")) == rows_of(whole)[:1]
    resume("beginning", main=finetune_main)
    assert rows_of(Path("beginning")) == rows_of(whole)


def test_finetuning_that_has_stalled_stays_finished(
    finetune: Run, trained: Path, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])  # of the start, three epochs, the test text
    monkeypatch.setattr(training_module, "evaluate", lambda *_: next(losses))
    run = finetune("--save", str(trained), "--nonmono", "1", "--epochs", "9")
    assert rows_of(run, "valid")[-1]["epoch"] == 3
    assert "the validation loss stalls: done" in (run / "log.txt").read_text()
    before = rows_of(run)
    monkeypatch.setattr(training_module, "evaluate", lambda *_: 1.0)
    for more in ([], ["--epochs", "20"]):
        resume(str(run), *more, main=finetune_main)
        assert rows_of(run) == before


def test_what_the_run_itself_saved_is_no_predecessor(train: Run, sandbox: Path) -> None:
    run = train("--epochs", "1", "--max_steps", "5", "--save", "own.pt")
    resume(str(run))
    assert {path.name for path in sandbox.glob("own*")} == {"own.pt"}
    assert torch.equal(*(checkpoint.load(file)["model"]["decoder.bias"] for file in (run / "best.pt", Path("own.pt"))))


def test_a_copy_of_the_best_model_can_be_asked_for_later(train: Run) -> None:
    run = train("--epochs", "1")
    resume(str(run), "--save", "later.pt")
    best, copy = (checkpoint.load(file)["model"] for file in (run / "best.pt", Path("later.pt")))
    assert all(torch.equal(best[name], copy[name]) for name in best)
