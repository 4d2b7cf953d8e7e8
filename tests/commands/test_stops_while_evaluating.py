"""Where a run of a language model can be stopped and found again, and what becomes of its best model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from rnncore.evaluation import evaluate

Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def two_epochs(language_model: Any) -> Path:
    return language_model.run("--epochs", "2", "--batch_size", "8")


def test_ctrl_c_while_validating_ends_the_epoch(
    language_model: Any,
    two_epochs: Path,
    interrupt: Callable[[], None],
    replace_everywhere: Callable[..., None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(f"validating-{language_model.name}")
    with monkeypatch.context() as patch:
        replace_everywhere(patch, evaluate, lambda *words, **more: (interrupt(), evaluate(*words, **more))[1])
        with pytest.raises(SystemExit):
            language_model.run("--epochs", "2", "--batch_size", "8", "--run_dir", str(run))
    assert rows_of(run)[-1] == rows_of(two_epochs, "valid")[0]
    language_model.resume(run)
    assert rows_of(run) == rows_of(two_epochs)


def test_a_stop_inside_an_epoch_leaves_the_best_model(
    language_model: Any, replace_everywhere: Callable[..., None], rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is better there, which a run without a stop never sees."""
    losses = iter([3.0, 3.0, 2.0, 2.0])  # of the epoch, the test, the stop, the test
    replace_everywhere(monkeypatch, evaluate, lambda *_, **__: next(losses))
    run = language_model.run("--epochs", "1", "--batch_size", "8")
    kept = checkpoint.load(run / "best.pt")["model"]
    (best,) = rows_of(run, "valid")
    language_model.resume(run, "--epochs", "2", "--max_steps", str(best["step"] + 5))
    assert rows_of(run, "valid")[-1]["loss"] < best["loss"]
    model = checkpoint.load(run / "best.pt")["model"]
    assert all(torch.equal(model[name], kept[name]) for name in kept)


@pytest.fixture(scope="module")
def stopped(language_model: Any) -> Path:
    """A run that has done five steps of its first epoch."""
    return language_model.run("--max_steps", "5", "--checkpoint_interval", "2")


@pytest.mark.parametrize("place", ["directory", "last.pt", "last.previous.pt", "run_dir", "newest"])
def test_a_run_is_found(
    place: str,
    language_model: Any,
    stopped: Path,
    tmp_path: Path,
    copy_files: Callable[[Path, Path], Path],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(stopped, tmp_path / "runs" / language_model.name / "copy")
    words = {"directory": [str(run)], "run_dir": ["--run_dir", str(run)], "newest": []}
    language_model.resume(*words.get(place, [str(run / place)]), "--max_steps", "6")
    assert rows_of(run, "test")[-1]["step"] == 6
    first = {"last.previous.pt": 4}.get(place, 5)
    assert f"resumed at epoch 1, step {first}" in (run / "log.txt").read_text()
