"""The copy task against loops over its definition, and its baseline against a guesser."""

import math

import pytest
import torch
from rnncore.errors import UserError
from torch.nn import functional as F
from urlstm.copying import copy_batch, memoryless_loss
from urlstm.random_streams import Purpose, stream


def batch(lag: int, size: int, *, delimiter: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return copy_batch(stream(5, Purpose.TRAIN), lag, size, delimiter=delimiter)


@pytest.mark.parametrize("lag", [1, 2, 30])
@pytest.mark.parametrize("delimiter", [False, True])
def test_sequences_are_as_defined(lag: int, delimiter: bool) -> None:
    inputs, targets = batch(lag, 50, delimiter=delimiter)
    assert inputs.shape == targets.shape == (lag + 20, 50)
    for ids, answers in zip(inputs.t().tolist(), targets.t().tolist(), strict=True):
        symbols = ids[:10]
        assert all(1 <= symbol <= 8 for symbol in symbols)
        end = [0] * (lag - 1) + [9] + [0] * 10 if delimiter else [0] * lag + [9] * 10
        assert ids[10:] == end
        assert answers == [0] * (lag + 10) + symbols
        # The first answer comes `lag` steps after the last symbol was read.
        assert next(step for step, answer in enumerate(answers) if answer) - 10 == lag


def test_every_symbol_is_equally_likely_at_every_place() -> None:
    size = 16_000
    inputs, _ = batch(1, size)
    sigma = (size / 8 * 7 / 8) ** 0.5
    for row in inputs[:10]:
        counts = torch.bincount(row, minlength=10)
        assert counts[0] == counts[9] == 0
        assert float((counts[1:9] - size / 8).abs().max()) < 4.5 * sigma


@pytest.mark.parametrize("lag", [1, 30, 480])
def test_baseline_is_the_loss_of_who_knows_all_but_the_symbols(lag: int) -> None:
    _, targets = batch(lag, 20)
    logits = torch.full((lag + 20, 20, 10), -math.inf, dtype=torch.float64)
    logits[: lag + 10, :, 0] = 0
    logits[lag + 10 :, :, 1:9] = 0
    every = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    last = F.cross_entropy(logits[-10:].flatten(0, 1), targets[-10:].flatten())
    assert memoryless_loss(lag) == pytest.approx(float(every), rel=1e-12)
    assert memoryless_loss(lag, recall_only=True) == pytest.approx(float(last), rel=1e-12)


def test_a_gap_of_no_steps_is_refused() -> None:
    with pytest.raises(UserError, match="--time_lag must be at least 1, not 0"):
        batch(0, 4)
