"""Sampling against distributions filtered by brute force in plain Python."""

import math

import pytest
import torch
from rnncore.errors import UserError
from rnncore.sampling import sample

LOGITS = [0.3, 2.0, -1.0, 1.4, 2.0, -math.inf, 0.9, -3.0]
DRAWS = 20_000
# The 99.9 % quantiles of the chi-square distribution for 1 to 7 degrees of freedom.
CHI_SQUARE = [10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322]


def filtered(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> dict[int, float]:
    """The documented steps, one id after the other."""
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))
    order = order[: top_k if top_k is not None else len(order)]
    weights = {index: math.exp(logits[index] / temperature) for index in order}
    total = sum(weights.values())
    kept: dict[int, float] = {}
    for index in order:
        if kept and sum(kept.values()) >= (top_p if top_p is not None else 2.0):
            break
        kept[index] = weights[index] / total
    return {index: share / sum(kept.values()) for index, share in kept.items() if share > 0}


def draws(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[int]:
    rows = torch.tensor(logits).expand(DRAWS, len(logits))
    generator = torch.Generator().manual_seed(11)
    ids = sample(rows, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return torch.bincount(ids, minlength=len(logits)).tolist()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (1.0, 100, 1.0),
        (0.5, None, None),
        (3.0, None, None),
        (1.0, 1, None),
        (1.0, 2, None),
        (1.0, 3, None),
        (2.0, 5, None),
        (1.0, None, 1e-9),
        (1.0, None, 0.31),
        (1.0, None, 0.6),
        (1.0, None, 0.95),
        (0.7, 4, 0.8),
        (5.0, 3, 0.5),
    ],
)
def test_draws_follow_the_filtered_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    expected = filtered(LOGITS, temperature, top_k, top_p)
    counts = draws(LOGITS, temperature, top_k, top_p)
    assert {index for index, count in enumerate(counts) if count} == set(expected)
    if len(expected) > 1:
        distance = sum((counts[index] - DRAWS * p) ** 2 / (DRAWS * p) for index, p in expected.items())
        assert distance < CHI_SQUARE[len(expected) - 2]


def test_the_check_can_fail() -> None:
    counts = draws(LOGITS, 1.1, None, None)
    distance = sum((counts[i] - DRAWS * p) ** 2 / (DRAWS * p) for i, p in filtered(LOGITS, 1.0, None, None).items())
    assert distance > CHI_SQUARE[5]


def test_nucleus_keeps_the_fewest_that_reach_p() -> None:
    quarters = [math.log(p) for p in (0.125, 0.5, 0.25, 0.125)]  # powers of two: the sums are exact
    for top_p, kept in ((0.5, {1}), (0.51, {1, 2}), (0.75, {1, 2}), (0.76, {0, 1, 2}), (0.876, {0, 1, 2, 3})):
        counts = draws(quarters, 1.0, None, top_p)
        assert {index for index, count in enumerate(counts) if count} == kept


def test_equal_logits_are_kept_from_the_left() -> None:
    counts = draws([1.0] * 50, 1.0, 3, None)
    assert {index for index, count in enumerate(counts) if count} == {0, 1, 2}


def test_temperature_zero_takes_the_largest() -> None:
    generator = torch.Generator().manual_seed(1)
    untouched = generator.get_state()
    logits = torch.randn(2, 3, 17, generator=torch.Generator().manual_seed(2))
    ids = sample(logits, temperature=0, top_k=5, top_p=0.1, generator=generator)
    assert ids.tolist() == [[max(range(17), key=row.__getitem__) for row in rows] for rows in logits.tolist()]
    assert sample(torch.tensor([1.0, 3.0, 3.0]), temperature=0, top_k=None, top_p=None, generator=generator) == 1
    assert torch.equal(generator.get_state(), untouched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_extreme_temperatures(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 90.0, 2.0, -math.inf]], dtype=dtype).expand(600, 4)
    generator = torch.Generator().manual_seed(3)
    cold = sample(logits, temperature=1e-300, top_k=None, top_p=None, generator=generator)
    assert cold.tolist() == [1] * 600
    hot = sample(logits, temperature=1e300, top_k=None, top_p=None, generator=generator)
    counts = torch.bincount(hot, minlength=4).tolist()
    assert counts[3] == 0
    assert sum((count - 200) ** 2 / 200 for count in counts[:3]) < CHI_SQUARE[1]


def test_rows_are_drawn_each_from_its_own_logits() -> None:
    chosen = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(4))
    logits = torch.full((4, 5, 9), -math.inf).scatter(-1, chosen.unsqueeze(-1), 0.0)
    before = logits.clone()
    ids = sample(logits, temperature=1.0, top_k=2, top_p=0.9, generator=torch.Generator().manual_seed(5))
    assert torch.equal(ids, chosen)
    assert ids.dtype == torch.int64
    assert torch.equal(logits, before)
    alone = sample(logits[0, 0], temperature=1.0, top_k=None, top_p=None, generator=torch.Generator().manual_seed(5))
    assert alone.shape == ()
    assert alone == chosen[0, 0]


def test_the_generator_decides() -> None:
    logits = torch.zeros(100, 10)

    def once(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = sample(logits, temperature=1.0, top_k=None, top_p=None, generator=generator).tolist()
        return ids

    assert once(1) == once(1)
    assert once(1) != once(2)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "message"),
    [
        (-0.1, None, None, "--temperature must be 0 .* not -0.1"),
        (math.nan, None, None, "--temperature .* not nan"),
        (math.inf, None, None, "--temperature .* not inf"),
        (1.0, 0, None, "--top_k must be at least 1, not 0"),
        (0.0, -3, None, "--top_k must be at least 1, not -3"),
        (1.0, None, 0.0, "--top_p must lie above 0 and at most at 1, not 0.0"),
        (1.0, None, 1.5, "--top_p .* not 1.5"),
        (1.0, None, math.nan, "--top_p .* not nan"),
    ],
)
def test_bad_settings(temperature: float, top_k: int | None, top_p: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample(torch.zeros(3), temperature=temperature, top_k=top_k, top_p=top_p, generator=torch.Generator())


@pytest.mark.parametrize("logits", [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits(logits: list[float], temperature: float) -> None:
    with pytest.raises(UserError, match="the logits hold NaN or infinity"):
        sample(torch.tensor(logits), temperature=temperature, top_k=None, top_p=None, generator=torch.Generator())
