"""A run that was killed or stopped goes on as if nothing had happened, to the bit."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from revrnn import train as train_module
from revrnn.train import main
from rnncore import checkpoint

Train = Callable[..., Path]
Refused = Callable[..., str]
Rows = Callable[..., list[dict[str, Any]]]
Copy = Callable[[Path, Path], Path]

MODELS = {"revgru": ["--use_reverse"], "lstm": ["--model", "lstm"]}
FOUR_EPOCHS = ["--epochs", "4", "--checkpoint_interval", "7"]


def resume(*words: str) -> None:
    main(["--resume", *words], standalone_mode=False)


@pytest.fixture(scope="module", params=MODELS)
def undisturbed(request: pytest.FixtureRequest, train: Train) -> tuple[Path, list[str]]:
    """A run of four epochs, and its model's flags."""
    words = MODELS[request.param]
    return train(*words, *FOUR_EPOCHS), words


def test_killed_run_goes_on_to_the_bit(
    undisturbed: tuple[Path, list[str]],
    arguments: list[str],
    middle: Callable[[Path], int],
    kill_at: Callable[..., list[dict[str, Any]]],
    rows_of: Rows,
) -> None:
    whole, words = undisturbed
    fatal, run = middle(whole), Path(f"killed-{whole.name}")
    cut_off = kill_at("revrnn.train", fatal, [*arguments, *words, *FOUR_EPOCHS], run)
    assert [row["epoch"] for row in cut_off if row["event"] == "valid"] == [1, 2]
    resume(str(run))
    (resumed_at,) = re.findall(r"resumed at epoch 3, step (\d+)", (run / "log.txt").read_text())
    assert int(resumed_at) == fatal - 3
    assert rows_of(run) == rows_of(whole)
    assert rows_of(run)[: len(cut_off)] == cut_off


def test_interrupted_run_saves_and_goes_on_to_the_bit(
    undisturbed: tuple[Path, list[str]],
    train: Train,
    middle: Callable[[Path], int],
    interrupt_at: Callable[[pytest.MonkeyPatch, int], None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, words = undisturbed
    run, fatal = Path(f"interrupted-{whole.name}"), middle(whole)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, fatal)
        with pytest.raises(SystemExit) as stopped:
            train(*words, *FOUR_EPOCHS, "--run_dir", str(run))
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    out, err = capsys.readouterr()
    assert f"to go on: revrnn-train --resume {run}" in out
    assert err == ""
    assert rows_of(run)[-1]["event"] == "step"
    resume(str(run))
    assert f"resumed at epoch 3, step {fatal}" in capsys.readouterr().out
    assert rows_of(run) == rows_of(whole)


def test_interrupt_while_validating_ends_the_epoch(
    train: Train, interrupt: Callable[[], None], rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("--model", "gru", "--epochs", "2")
    real = train_module.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", lambda *words: (interrupt(), real(*words))[1])
        with pytest.raises(SystemExit):
            train("--model", "gru", "--epochs", "2", "--run_dir", "validating")
    assert rows_of(Path("validating"))[-1] == rows_of(whole, "valid")[0]
    resume("validating")
    assert rows_of(Path("validating")) == rows_of(whole)


@pytest.mark.parametrize("steps", [8, 30])
def test_max_steps_can_be_raised(steps: int, undisturbed: tuple[Path, list[str]], train: Train, rows_of: Rows) -> None:
    whole, words = undisturbed
    run = train(*words, *FOUR_EPOCHS, "--max_steps", str(steps))
    assert rows_of(run, "valid", "test")[-1]["step"] == steps
    resume(str(run), "--max_steps", str(steps + 4))
    assert rows_of(run, "valid", "test")[-1]["step"] == steps + 4
    told, expected = (
        [row for row in rows_of(each, "step", "valid") if row["step"] < steps + 4] for each in (run, whole)
    )
    assert told == expected
    resume(str(run))  # without a limit: to the end
    assert rows_of(run) == rows_of(whole)


def test_a_stop_inside_an_epoch_leaves_the_best_model(train: Train, rows_of: Rows) -> None:
    run = train("--model", "gru", "--epochs", "1")
    kept = checkpoint.load(run / "best.pt")["model"]
    (best,) = rows_of(run, "valid")
    resume(str(run), "--epochs", "2", "--max_steps", str(best["step"] + 5))
    assert rows_of(run, "valid")[-1]["loss"] < best["loss"]  # which a run without a stop never sees
    model = checkpoint.load(run / "best.pt")["model"]
    assert all(torch.equal(model[name], kept[name]) for name in kept)


def test_more_epochs_can_be_asked_for(undisturbed: tuple[Path, list[str]], train: Train, rows_of: Rows) -> None:
    whole, words = undisturbed
    run = train(*words, "--epochs", "2", "--checkpoint_interval", "7")
    resume(str(run), "--epochs", "4")
    assert rows_of(run) == rows_of(whole)


def test_a_run_that_is_complete_is_tested_again(train: Train, rows_of: Rows) -> None:
    run = train("--model", "gru", "--epochs", "1")
    before = rows_of(run)
    resume(str(run))
    assert rows_of(run) == before


@pytest.fixture(scope="module")
def stopped(train: Train) -> Path:
    """A run that has done five steps of its first epoch."""
    return train("--model", "gru", "--epochs", "1", "--max_steps", "5", "--checkpoint_interval", "2")


@pytest.mark.parametrize("place", ["directory", "last.pt", "last.previous.pt", "run_dir", "newest"])
def test_a_run_is_found(
    place: str, stopped: Path, tmp_path: Path, copy_files: Copy, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(stopped, tmp_path / "runs" / "revrnn-train" / "copy")
    words = {"directory": [str(run)], "run_dir": ["--run_dir", str(run)], "newest": []}
    resume(*words.get(place, [str(run / place)]), "--max_steps", "6")
    assert rows_of(run, "test")[-1]["step"] == 6
    first = {"last.previous.pt": 4}.get(place, 5)
    assert f"resumed at epoch 1, step {first}" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--emb_size", "32"], "was begun with --emb_size 16, not 32"),
        (["--model", "lstm"], "was begun with --model gru, not lstm"),
        (["--seed", "2"], "was begun with --seed 1111, not 2"),
        (["--amp", "bf16"], "was begun with --amp None, not bf16"),
        (["--run_dir", "elsewhere"], "leave --run_dir elsewhere out"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    words: list[str], expected: str, stopped: Path, contents: Callable[[Path], dict[Path, bytes]], refused: Refused
) -> None:
    before = contents(stopped)
    assert expected in refused("--resume", str(stopped), *words)
    assert contents(stopped) == before


def test_data_may_move_but_not_change(stopped: Path, data: Path, refused: Refused) -> None:
    resume(str(stopped), "--data", str(data), "--max_steps", "5")
    (data / "train.txt").write_text("other words " * 50)
    line = refused("--resume", str(stopped), "--data", str(data))
    assert "another vocabulary than the run to resume" in line


def test_best_model_alone_cannot_be_resumed(stopped: Path, refused: Refused) -> None:
    line = refused("--resume", str(stopped / "best.pt"))
    assert "best.pt is a model without the state of its training; resume from" in line


@pytest.mark.parametrize("place", ["nowhere", "empty", "nowhere/last.pt"])
def test_no_run_to_resume(place: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no run to resume" in refused("--resume", str(tmp_path / place))
