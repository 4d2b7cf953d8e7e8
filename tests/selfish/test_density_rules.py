"""How dense each parameter begins."""

import math

import pytest
from rnncore.errors import UserError
from selfish.death_rate import DeathRate
from selfish.density import checked_density, density_of_sparsity, erdos_renyi, initial_counts

SHAPES = {"wide": (40, 100), "square": (60, 60), "small": (4, 5)}
SIZES = {name: math.prod(shape) for name, shape in SHAPES.items()}


def test_uniform_keeps_the_same_share_of_every_parameter() -> None:
    assert initial_counts(SHAPES, 0.33, "uniform") == {"wide": 1320, "square": 1188, "small": 7}


def test_erdos_renyi_is_in_proportion_to_rows_and_columns_and_never_above_one() -> None:
    found = erdos_renyi(SHAPES, 0.2)
    assert found["small"] == 1.0  # rows and columns alone would give it 2.1
    assert found["wide"] / found["square"] == pytest.approx((140 / 4000) / (120 / 3600))
    assert sum(found[name] * SIZES[name] for name in SHAPES) == pytest.approx(0.2 * sum(SIZES.values()))


def test_erdos_renyi_without_a_full_parameter_is_one_scale_for_all() -> None:
    found = erdos_renyi(SHAPES, 0.01)
    scales = {name: found[name] * SIZES[name] / sum(SHAPES[name]) for name in SHAPES}
    assert list(scales.values()) == pytest.approx([0.01 * sum(SIZES.values()) / (140 + 120 + 9)] * 3)


@pytest.mark.parametrize("density", [0.0, 1.0, 1.5, -0.1, math.nan, math.inf])
def test_a_density_is_above_0_and_below_1(density: float) -> None:
    with pytest.raises(UserError, match=r"--density is the share of weights kept, above 0 and below 1, not [^\n]*$"):
        checked_density(density)
    with pytest.raises(UserError, match="--density"):
        initial_counts(SHAPES, density, "ER")


@pytest.mark.parametrize("sparsity", [0.0, 1.0, math.nan])
def test_a_sparsity_is_above_0_and_below_1(sparsity: float) -> None:
    with pytest.raises(UserError, match="--sparsity is the share of weights removed"):
        density_of_sparsity(sparsity)


def test_sparsity_is_what_density_leaves() -> None:
    assert density_of_sparsity(0.67) == pytest.approx(0.33)


def test_an_unknown_rule_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="--sparse_init er is unknown; choose from uniform, ER"):
        initial_counts(SHAPES, 0.5, "er")


def test_the_cosine_is_that_of_torch_until_its_end() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, 0.005)
    rate = DeathRate(0.8, steps=50)
    for step in range(51):
        assert rate.at(step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
    assert rate.at(70) == rate.at(50) == pytest.approx(0.005)


def test_the_line_falls_evenly() -> None:
    rate = DeathRate(0.5, steps=100, decay="linear")
    assert [rate.at(step) for step in (0, 50, 100, 200)] == pytest.approx([0.5, 0.2525, 0.005, 0.005])


@pytest.mark.parametrize("start", [0.0, 1.0, 2.0, math.nan])
def test_a_death_rate_is_above_0_and_below_1(start: float) -> None:
    with pytest.raises(UserError, match="--death_rate is the share"):
        DeathRate(start, steps=1)


def test_an_unknown_decay_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="--death_rate_decay step is unknown; choose from cosine, linear"):
        DeathRate(0.5, steps=1, decay="step")
