"""``revrnn-train`` on a tiny corpus: what it reports is what it did."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from revrnn import train as train_module
from revrnn.options import TrainOptions, build_model
from rnncore import checkpoint
from rnncore.flags import from_dict
from torch.nn import functional as F

Train = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]


@pytest.fixture
def evaluated_by_hand(corpus: Path, tokens_of: Callable[[Path, str], list[str]]) -> ByHand:
    """Mean cross entropy of all targets of a split: one window, one softmax over all logits, in float64."""

    def evaluate(file: Path, split: str, columns: int) -> float:
        saved = checkpoint.load(file)
        model = build_model(from_dict(TrainOptions, saved["config"]), len(saved["vocabulary"])).eval()
        model.load_state_dict(saved["model"])
        ids = [saved["vocabulary"].index(token) for token in tokens_of(corpus, split)]
        rows = len(ids) // columns
        text = torch.tensor(np.array(ids[: rows * columns]).reshape(columns, rows).T.copy())
        logits, _ = model(text[:-1], model.initial_state(columns))
        return float(F.cross_entropy(logits.double().flatten(0, 1), text[1:].flatten()))

    return evaluate


@pytest.mark.parametrize("words", ["--use_reverse --lr 5", "--model gru --max_steps 7"])
def test_losses_are_of_whole_splits(words: str, train: Train, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    run = train("--epochs", "2", *words.split())
    valid = losses_of(run, "valid")
    assert min(valid) == pytest.approx(evaluated_by_hand(run / "best.pt", "valid", 10), rel=1e-5)
    assert valid[-1] == pytest.approx(evaluated_by_hand(run / "last.pt", "valid", 10), rel=1e-5)
    assert losses_of(run, "test") == [pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)]


def test_the_best_model_is_tested_not_the_last(
    train: Train, losses_of: Losses, evaluated_by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, worse = train_module.evaluate, iter([0.0, 9.0, 0.0])
    monkeypatch.setattr(train_module, "evaluate", lambda *words: real(*words) + next(worse))
    run = train("--model", "lstm", "--epochs", "2")
    (tested,) = losses_of(run, "test")
    assert tested == pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)
    assert abs(tested - evaluated_by_hand(run / "last.pt", "test", 1)) > 1e-3


def test_reversal_and_stored_states_train_alike(train: Train, losses_of: Losses) -> None:
    words = ["--log_interval", "1", "--max_steps", "10", "--lr", "1"]
    reverse, buffered, stored = (
        losses_of(train(*words, *path), "step") for path in (["--use_reverse"], ["--use_buffers"], [])
    )
    # The same states; gradients are summed in another order, in float32, over ten steps.
    assert reverse == pytest.approx(buffered, rel=4e-6)
    assert reverse == pytest.approx(stored, rel=1e-5)  # without buffers the last bits of the states differ


@pytest.mark.parametrize(("words", "expected"), [(["--use_buffers"], True), ([], False), (["--model", "gru"], False)])
def test_ratios_are_told_where_there_are_buffers(words: list[str], expected: bool, train: Train, rows_of: Rows) -> None:
    (step,) = rows_of(train(*words, "--max_steps", "5"), "step")
    assert ("actual_ratio" in step) == ("optimal_ratio" in step) == expected


def test_a_model_that_forgets_nothing(train: Train, rows_of: Rows) -> None:
    """No bit is lost: the least memory would be none, and a ratio to it is no number."""
    run = train("--use_reverse", "--max_forget", "1e-9", "--lr", "0.01", "--max_steps", "5")
    (step,) = rows_of(run, "step")
    assert step["optimal_ratio"] is None
    assert "inf times at best" in (run / "log.txt").read_text()


def rates_of(train: Train, patch: pytest.MonkeyPatch, valid_losses: list[float], *words: str) -> tuple[Path, list[int]]:
    """A run whose validation losses are given; and the epochs after which the rate was divided, from its log."""
    scripted = iter([*valid_losses, 1.0])
    patch.setattr(train_module, "evaluate", lambda *_: next(scripted))
    run = train("--model", "gru", "--nonmono", "2", "--epochs", "99", "--log_interval", "1", *words)
    text = (run / "log.txt").read_text()
    return run, [int(epoch) for epoch in re.findall(r"^epoch (\d+) .* valid .*\n.*stalls", text, re.MULTILINE)]


def test_rate_is_divided_when_the_validation_loss_stalls(
    train: Train, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Above the least but the last two: first at epoch 5. Begun anew, 3.1 to 3.3 tell nothing yet; then at epoch 9.
    valid = [3.0, 2.0, 2.5, 2.4, 2.3, 3.3, 3.1, 3.2, 3.4, 1.0]
    run, divided = rates_of(train, monkeypatch, valid, "--epochs", "10", "--lr", "8", "--lr_decay", "2")
    assert divided == [5, 9]
    rates = {row["epoch"]: row["lr"] for row in rows_of(run, "step")}
    assert rates == pytest.approx(dict.fromkeys(range(1, 6), 8.0) | dict.fromkeys(range(6, 10), 4.0) | {10: 2.0})


def test_run_stops_below_the_smallest_rate(train: Train, rows_of: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    stalls = [1.0, 1.0, 1.0, 2.0]
    run, divided = rates_of(train, monkeypatch, stalls * 3, "--lr", "1", "--lr_decay", "10")
    assert divided == [4, 8, 12]  # 0.1, 0.01 and 0.001; 0.01 itself is not below 0.01
    assert [row["event"] for row in rows_of(run)][-3:] == ["valid", "test", "end"]
    assert rows_of(run, "valid")[-1]["epoch"] == 12
    monkeypatch.setattr(train_module, "evaluate", lambda *_: 1.0)
    train_module.main(["--resume", str(run)], standalone_mode=False)
    assert rows_of(run, "valid")[-1]["epoch"] == 12  # a run that has ended stays so


def test_a_small_rate_trains_until_it_is_divided(train: Train, rows_of: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    run, divided = rates_of(train, monkeypatch, [1.0, 1.0, 1.0, 2.0], "--lr", "0.001")
    assert divided == [4]
    assert [row["epoch"] for row in rows_of(run, "valid")] == [1, 2, 3, 4]
