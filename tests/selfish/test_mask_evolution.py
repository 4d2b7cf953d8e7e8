"""Death, growth and redistribution of single tensors, against sorted lists and the original code's masks."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from selfish import evolution, redistribution, selection
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
NAMES = ["encoder.weight", *(f"rnn.weight_{w}_l{k}" for k in (0, 1) for w in ("ih", "hh")), "decoder.weight"]
LARGE = 300_000  # beyond what is sorted or permuted as a whole


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(shape: tuple[int, ...], density: float = 0.4, seed: int = 1) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    mask = torch.rand(shape, generator=source) < density
    return torch.randn(shape, generator=source) * mask, mask


# Selection.


@pytest.mark.parametrize("k", [1, 7, 1000, LARGE // 3, LARGE - 2, 2 * LARGE])
@pytest.mark.parametrize("dead", [0.0, 0.7])
def test_the_kth_smallest_of_several_tensors(k: int, dead: float) -> None:
    source = generator(2)
    values = [torch.randn(size, generator=source) for size in (LARGE, 100, LARGE)]
    values = [value * (torch.rand(value.shape, generator=source) >= dead) for value in values]
    assert selection.kth_smallest(values, k) == torch.cat(values).sort().values[k - 1]


def test_the_kth_smallest_where_the_sample_misleads() -> None:
    value = torch.arange(float(LARGE))
    value[:: (LARGE // 2**16) | 1] = -1.0
    assert selection.kth_smallest([value], LARGE // 2) == value.sort().values[LARGE // 2 - 1]


@pytest.mark.parametrize("size", [50, LARGE])
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("eligible_share", [0.003, 0.5, 1.0])
def test_a_subset_has_its_number_and_is_of_the_eligible(size: int, share: float, eligible_share: float) -> None:
    eligible = torch.rand(size, generator=generator()) < eligible_share
    number = int(share * int(eligible.sum()))
    chosen = selection.random_subset(eligible.view(-1, 10), number, generator(3))
    assert chosen.shape == (size // 10, 10)
    assert int(chosen.sum()) == number
    assert not (chosen.flatten() & ~eligible).any()


def test_every_small_subset_is_equally_likely() -> None:
    eligible = torch.tensor([True, False, True, True, True])
    source = generator(4)
    found = Counter(tuple(selection.random_subset(eligible, 2, source).tolist()) for _ in range(3000))
    assert len(found) == 6
    expected = 500
    assert sum((number - expected) ** 2 / expected for number in found.values()) < 20.5  # chi-square, 5 df, 0.1 %


@pytest.mark.parametrize("number", [LARGE // 5, 30])
def test_large_subsets_favour_no_place(number: int) -> None:
    eligible = torch.ones(LARGE, dtype=torch.bool)
    eligible[::3] = False
    source = generator(5)
    draws = max(1, 20_000 // number)
    found = sum(selection.random_subset(eligible, number, source).view(10, -1).sum(1).double() for _ in range(draws))
    expected = number * draws / 10
    assert float(((found - expected) ** 2 / expected).sum()) < 27.9  # chi-square, 9 df, 0.1 %


def test_a_subset_larger_than_what_is_eligible() -> None:
    with pytest.raises(ValueError, match="3 elements to choose from, not 4"):
        selection.random_subset(torch.ones(3, dtype=torch.bool), 4, generator())


# Death.


@pytest.mark.parametrize("shape", [(30, 20), (600, 500)])
@pytest.mark.parametrize("number", [0, 1, 100, 200])
def test_magnitude_kills_the_smallest(shape: tuple[int, int], number: int) -> None:
    weight, mask = sparse(shape)
    left = evolution.magnitude_death(weight, mask, number, generator())
    order = weight[mask].abs().sort().values
    assert torch.equal(weight[left].abs().sort().values, order[number:])
    assert not (left & ~mask).any()


def test_of_equal_weights_so_many_die_as_should() -> None:
    weight, mask = sparse((20, 30))
    weight = weight.sign()
    left = evolution.magnitude_death(weight, mask, 50, generator())
    assert int(left.sum()) == int(mask.sum()) - 50
    weight[:10] = 0  # living zeros beside the dead ones
    left = evolution.magnitude_death(weight, mask, 50, generator())
    assert int(left.sum()) == int(mask.sum()) - 50
    assert bool(left[10:].eq(mask[10:]).all())


def test_global_magnitude_ranks_parameters_together() -> None:
    (first, mask1), (second, mask2) = sparse((20, 30)), sparse((10, 50), seed=2)
    second = second / 10
    left = evolution.global_magnitude_death([first, second], [mask1, mask2], 150, generator())
    order = torch.cat([first[mask1], second[mask2]]).abs().sort().values
    assert torch.equal(torch.cat([first[left[0]], second[left[1]]]).abs().sort().values, order[150:])
    assert int(mask2.sum()) - int(left[1].sum()) > 120


def test_set_kills_the_nearest_to_zero_on_both_sides() -> None:
    weight, mask = sparse((20, 30))
    left = evolution.set_death(weight, mask, 61, generator())
    above, below = weight[mask & (weight > 0)].sort().values, weight[mask & (weight < 0)].sort().values
    assert torch.equal(weight[left & (weight > 0)].sort().values, above[31:])
    assert torch.equal(weight[left & (weight < 0)].sort().values, below[:-30])


def test_set_takes_the_rest_from_the_other_side() -> None:
    weight, mask = sparse((20, 30))
    weight = weight.abs()
    weight[0] *= -1
    negative = int((weight < 0).sum())
    left = evolution.set_death(weight, mask, 100, generator())
    assert int(mask.sum()) - int(left.sum()) == 100
    assert int((left & (weight < 0)).sum()) == 0
    assert negative < 50
    left = evolution.set_death(-weight, mask, 100, generator())
    assert int(mask.sum()) - int(left.sum()) == 100


def test_threshold_kills_what_is_not_above() -> None:
    weight = torch.tensor([0.5, -0.1, 0.1, -0.2, 0.0])
    mask = torch.tensor([True, True, True, True, False])
    assert evolution.threshold_death(weight, mask, float(weight[2])).tolist() == [True, False, False, True, False]


# Growth.


@pytest.mark.parametrize("shape", [(30, 20), (600, 500)])
def test_random_growth_is_exact(shape: tuple[int, int]) -> None:
    _, mask = sparse(shape)
    new = evolution.random_growth(mask, 57, generator())
    assert int(new.sum()) == int(mask.sum()) + 57
    assert bool(new[mask].all())


@pytest.mark.parametrize("shape", [(30, 20), (600, 500)])
def test_the_strongest_grow(shape: tuple[int, int]) -> None:
    _, mask = sparse(shape)
    score = torch.randn(shape, generator=generator(6))
    new = evolution.strongest_growth(mask, score, 57, generator())
    order = score[~mask].abs().sort(descending=True).values
    assert torch.equal(score[new & ~mask].abs().sort(descending=True).values, order[:57])
    assert bool(new[mask].all())


def test_where_nothing_is_strong_growth_is_exact_and_by_lot() -> None:
    _, mask = sparse((20, 30))
    new = evolution.strongest_growth(mask, torch.zeros(20, 30), 100, generator())
    assert int(new.sum()) == int(mask.sum()) + 100
    grown = (new & ~mask).sum(1)
    assert int((grown > 0).sum()) > 15  # not the first rows alone


# Shares.


def test_apportioned_numbers_add_up_and_fit() -> None:
    assert redistribution.apportion([1, 1, 1], 10, [9, 9, 9]) in ([4, 3, 3], [3, 4, 3], [3, 3, 4])
    assert redistribution.apportion([0.9, 0.1], 100, [50, 200]) == [50, 50]
    assert redistribution.apportion([0, 0], 7, [3, 100]) == [3, 4]
    assert redistribution.apportion([math.nan, 1.0], 7, [30, 100]) == [0, 7]
    assert redistribution.apportion([1, 0], 7, [3, 100]) == [3, 4]
    assert redistribution.apportion([1, 2], 50, [10, 20]) == [10, 20]


def test_spread_fills_in_proportion() -> None:
    assert redistribution.spread([5, 3, 2], 100, [20, 1000, 1000]) == pytest.approx([20, 48, 32])


def test_a_nearly_dense_parameter_loses_no_more_than_it_lacks() -> None:
    assert redistribution.death_rate_of(0.5, 0.1, share=0.5, parameters=4) == 0.1
    assert redistribution.death_rate_of(0.5, 0.1, share=0.25, parameters=4) == 0.5
    assert redistribution.death_rate_of(0.5, 0.3, share=0.5, parameters=4) == 0.5


# The original code.


@pytest.mark.shared
def test_the_positive_side_of_set_is_the_originals(golden: Golden) -> None:
    known = golden("masking_random")

    def of(what: str, name: str) -> Tensor:
        return known[f"SET-random-none.{what}.{name}"]

    for name in NAMES:
        weight, mask = of("weight", name), of("mask0", name).bool()
        number = math.ceil(float(known["SET-random-none.death_rate"]) * int(mask.sum()))
        left = evolution.set_death(weight, mask, number, generator())
        died = 2 * math.ceil(number / 2)
        # What was drawn again after its death cannot be told from what lived on.
        told = of("rand", name) >= died / (mask.numel() - int(mask.sum()) + died)
        new = of("mask1", name).bool()
        assert torch.equal(left[told & (weight > 0)], new[told & (weight > 0)])
        assert not torch.equal(left[told & (weight < 0)], new[told & (weight < 0)])  # it kills the most negative


@pytest.mark.shared
def test_threshold_death_and_bernoulli_growth_are_the_originals(golden: Golden) -> None:
    known = golden("masking_random")

    def of(what: str, name: str) -> Tensor:
        return known[f"threshold-random-none.{what}.{name}"]

    masks = {name: of("mask0", name).bool() for name in NAMES}
    left = {name: evolution.threshold_death(of("weight", name), mask, 0.05) for name, mask in masks.items()}
    rate = float(known["threshold-random-none.death_rate"])
    wanted = sum(math.ceil(rate * int(mask.sum())) for mask in masks.values())
    died = sum(int(mask.sum()) - int(left[name].sum()) for name, mask in masks.items())
    share = math.ceil(wanted / len(NAMES))  # the original gives every parameter the same number
    for name in NAMES:
        new = evolution.expected_growth(left[name], math.floor(died / wanted * share), of("rand", name))
        assert torch.equal(new, of("mask1", name).bool())
        assert torch.equal(of("weight", name) * new, of("weight1", name))
