"""A run of ``revrnn-nmt-train`` that was killed or stopped goes on as if nothing had happened, to the bit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from revrnn.translation.train import main

Train = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]

FOUR_EPOCHS = ["-epochs", "4", "--checkpoint_interval", "7", "-dropouti", "0.3", "-dropouts", "0.2", "-wdrop", "0.1"]


def resume(*words: str) -> None:
    main(["--resume", *words], standalone_mode=False)


@pytest.fixture(scope="module", params=["revgru", "plain"])
def undisturbed(request: pytest.FixtureRequest, train: Train, reversible: Callable[[str], list[str]]) -> Any:
    """A run of four epochs, and its model's flags."""
    words = [*reversible("revgru"), "-use_reverse"] if request.param == "revgru" else ["-encoder_model", "Vanilla"]
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
    cut_off = kill_at("revrnn.translation.train", fatal, [*arguments, *words, *FOUR_EPOCHS], run)
    resume(str(run))
    (resumed_at,) = re.findall(r"resumed at epoch 3, step (\d+)", (run / "log.txt").read_text())
    assert int(resumed_at) == fatal - 3
    assert rows_of(run) == rows_of(whole)
    assert rows_of(run)[: len(cut_off)] == cut_off
    for split in ("valid", "test"):
        name = f"{split}.translated.txt"
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_interrupted_run_goes_on_to_the_bit(
    undisturbed: tuple[Path, list[str]],
    train: Train,
    middle: Callable[[Path], int],
    interrupt_at: Callable[[pytest.MonkeyPatch, int], None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, words = undisturbed
    run = Path(f"interrupted-{whole.name}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, middle(whole))
        with pytest.raises(SystemExit) as stopped:
            train(*words, *FOUR_EPOCHS, "--run_dir", str(run))
    assert stopped.value.code == 130
    assert f"to go on: revrnn-nmt-train --resume {run}" in capsys.readouterr().out
    resume(str(run))
    assert rows_of(run) == rows_of(whole)


def test_steps_can_be_limited(undisturbed: tuple[Path, list[str]], train: Train, rows_of: Rows) -> None:
    whole, words = undisturbed
    run = train(*words, *FOUR_EPOCHS, "--max_steps", "8")
    assert rows_of(run, "valid", "test")[-1]["step"] == 8
    resume(str(run))
    assert rows_of(run) == rows_of(whole)


def test_what_would_make_it_another_run_is_refused(undisturbed: tuple[Path, list[str]], refusal: Any) -> None:
    whole, _ = undisturbed
    assert "was begun with -rnn_size 16, not 18" in refusal(main, ["--resume", str(whole), "-rnn_size", "18"])
    best = str(whole / "best.pt")
    assert "is a model without the state of its training" in refusal(main, ["--resume", best])


def test_the_best_epoch_is_kept(train: Train, rows_of: Rows) -> None:
    """An epoch that makes it worse leaves the best model and its translations."""
    run = train("-epochs", "2")
    best = rows_of(run, "test")[0]["loss"]
    worse = train("-epochs", "4", "-start_decay_at", "1", "-learning_rate_decay", "1", "-max_grad_norm", "0",
                  "-optim", "sgd", "-learning_rate", "9")  # fmt: skip
    losses = [row["loss"] for row in rows_of(worse, "valid")]
    assert losses.index(min(losses)) < 3
    assert best > 0
