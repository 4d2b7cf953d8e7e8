"""The adding task against loops over its definition, and the statistics of what is drawn."""

import itertools

import pytest
import torch
from rnncore.errors import UserError
from urlstm.adding import GUESS_LOSS, adding_batch
from urlstm.random_streams import Purpose, stream


def batch(length: int, size: int, *, seed: int = 1, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return adding_batch(stream(seed, Purpose.TRAIN, step), length, size)


@pytest.mark.parametrize("length", [2, 3, 10, 11])
def test_targets_are_the_sums_of_the_marked_values(length: int) -> None:
    inputs, targets = batch(length, 300)
    assert inputs.shape == (length, 300, 2)
    for column in range(300):
        values, markers = inputs[:, column].double().unbind(1)
        marked = [step for step in range(length) if markers[step] != 0]
        assert [float(markers[step]) for step in marked] == [1.0, 1.0]
        first, second = marked
        assert first < length // 2 <= second
        assert float(targets[column]) == pytest.approx(float(values[first] + values[second]), abs=1e-6)


def test_every_position_of_a_half_is_marked_equally_often() -> None:
    length, size = 11, 20_000
    inputs, _ = batch(length, size)
    counts = inputs[..., 1].sum(1)
    for half in (range(5), range(5, 11)):
        share = 1 / len(half)
        sigma = (size * share * (1 - share)) ** 0.5
        assert [step for step in half if abs(counts[step] - size * share) > 4.5 * sigma] == []


def test_values_are_uniform_and_the_mean_is_the_best_guess() -> None:
    inputs, targets = batch(20, 50_000)
    values = inputs[..., 0].flatten().double().sort().values
    expected = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    assert float((values - expected).abs().max()) < 2 / len(values) ** 0.5  # Kolmogorov-Smirnov, p below 0.001
    assert float(targets.double().mean()) == pytest.approx(1, abs=0.01)
    assert float((targets.double() - 1).pow(2).mean()) == pytest.approx(GUESS_LOSS, rel=0.02)


def test_what_is_drawn_is_a_function_of_seed_purpose_and_step_alone() -> None:
    again, other = batch(10, 4, seed=7, step=3)[0], stream(7, Purpose.TRAIN, 4)
    batch(10, 4, seed=7, step=2)
    assert torch.equal(batch(10, 4, seed=7, step=3)[0], again)
    different = [
        again,
        adding_batch(other, 10, 4)[0],
        adding_batch(stream(7, Purpose.VALID, 3), 10, 4)[0],
        batch(10, 4, seed=8, step=3)[0],
        batch(10, 4, seed=3, step=7)[0],
    ]
    sequences = [sequence for inputs in different for sequence in inputs[..., 0].unbind(1)]
    assert not any(torch.equal(first, second) for first, second in itertools.combinations(sequences, 2))


def test_a_sequence_without_two_halves_is_refused() -> None:
    with pytest.raises(UserError, match="--seq_length 1 is too short"):
        batch(1, 4)
