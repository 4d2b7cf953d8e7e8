"""Averages of each weight's own age, against a loop over weights and the original code's numbers."""

from collections.abc import Callable

import pytest
import torch
from rnncore.asgd import AveragedParameters
from rnncore.errors import UserError
from selfish import sparse_asgd
from selfish.sparse_asgd import SparseASGD, SparseAverages
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 0.0, "atol": 1e-9}
CASES = {
    "a": {"lr": 0.5, "lambd": 0.0, "t0": 0, "weight_decay": 1.2e-6},
    "b": {"lr": 0.3, "lambd": 1e-2, "alpha": 0.75, "t0": 3, "weight_decay": 1e-2},
}


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_twelve_steps_of_the_original(case: str, golden: Golden) -> None:
    known = golden("sparse_asgd")
    w, b = known["w0"].clone().requires_grad_(), known["b0"].clone().requires_grad_()
    masks = {"w": known["mask0"].clone()}
    with torch.no_grad():
        w.mul_(masks["w"])
    optimizer = SparseASGD({"w": w, "b": b}.items(), masks, **CASES[case])
    for step in range(12):
        if step == 6:
            masks["w"] = known["mask1"].clone()
            with torch.no_grad():
                w.mul_(masks["w"])
            optimizer.remask()
        w.grad, b.grad = known["grad_w"][step], known["grad_b"][step]
        optimizer.step()
        averages = optimizer.averages
        torch.testing.assert_close(w.detach(), known[f"{case}.w"][step], **EXACT)
        torch.testing.assert_close(b.detach(), known[f"{case}.b"][step], **EXACT)
        torch.testing.assert_close(averages.averages["w"], known[f"{case}.w_ax"][step], **EXACT)
        torch.testing.assert_close(averages.averages["b"], known[f"{case}.b_ax"][step], **EXACT)
        alive = averages.steps_alive("w")
        assert torch.equal(alive, known[f"{case}.w_step"][step])
        mu = 1 / (alive - 1).clamp_min(1)
        torch.testing.assert_close(mu, known[f"{case}.w_mu"][step], **EXACT)


def test_every_weight_has_the_mean_of_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of a weight since it grew is the mean of its values after the second and every later step."""
    monkeypatch.setattr(sparse_asgd, "_CHUNK", 7)  # several pieces
    source = torch.Generator().manual_seed(1)
    weight = torch.zeros(4, 5, dtype=torch.float64)
    masks = {"w": (torch.rand(4, 5, generator=source) < 0.5).double()}
    averages = SparseAverages([("w", weight)], masks)
    values: list[list[float]] = [[] for _ in range(20)]
    averages.start()
    for step in range(30):
        weight.copy_(torch.randn(4, 5, generator=source, dtype=torch.float64) * masks["w"])
        averages.update()
        for place, (alive, value) in enumerate(zip(masks["w"].flatten(), weight.flatten().tolist(), strict=True)):
            values[place] = [*values[place], value] if alive else []
        expected = [0.0 if not seen else sum(seen[1:] or seen) / len(seen[1:] or seen) for seen in values]
        found = averages.averages["w"].flatten()
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        if step % 5 == 4:
            masks["w"] = (torch.rand(4, 5, generator=source) < 0.5).double()
            weight.mul_(masks["w"])
            averages.remask()
            for place, alive in enumerate(masks["w"].flatten()):
                values[place] = values[place] if alive else []


def test_of_a_dense_parameter_it_is_the_cores_average() -> None:
    weight, masked = torch.zeros(3), torch.zeros(3)
    dense, sparse = AveragedParameters([weight]), SparseAverages([("w", weight), ("m", masked)], {"m": torch.ones(3)})
    dense.start()
    sparse.start()
    for step in range(9):
        weight.fill_(step**2)
        masked.fill_(step**2)
        dense.update()
        sparse.update()
        assert torch.equal(sparse.averages["w"], dense.averages[0])
        torch.testing.assert_close(sparse.averages["m"], dense.averages[0])


def test_averages_are_swapped_in_and_out_and_inactive_ones_do_nothing() -> None:
    weight = torch.ones(2, 2)
    averages = SparseAverages([("w", weight)], {"w": torch.eye(2)})
    averages.update()
    averages.remask()
    assert not averages.active
    assert averages.averages == {}
    with averages.swapped_in():
        assert bool(weight.eq(1).all())
    averages.start()
    weight.fill_(3)
    with averages.swapped_in():
        assert bool(weight.eq(1).all())
    assert bool(weight.eq(3).all())
    averages.stop()
    assert averages.averages == {}


def test_averages_of_other_parameters_are_refused() -> None:
    first = SparseAverages([("w", torch.ones(2, 2))], {"w": torch.eye(2)})
    first.start()
    second = SparseAverages([("v", torch.ones(2, 2))], {"v": torch.eye(2)})
    with pytest.raises(UserError, match="other sparse parameters"):
        second.load_state_dict(first.state_dict())
    third = SparseAverages([("w", torch.ones(3, 2))], {"w": torch.ones(3, 2)})
    with pytest.raises(UserError, match="another model's"):
        third.load_state_dict(first.state_dict())


def test_a_loaded_optimizer_goes_on() -> None:
    def parts() -> tuple[Tensor, SparseASGD]:
        weight = torch.ones(2, 2).mul_(torch.eye(2)).requires_grad_()
        return weight, SparseASGD([("w", weight)], {"w": torch.eye(2)}, lr=0.1, lambd=0.1)

    def step(weight: Tensor, optimizer: SparseASGD, times: int) -> None:
        for number in range(times):
            weight.grad = torch.full((2, 2), 1.0 + number)
            optimizer.step()

    weight, optimizer = parts()
    step(weight, optimizer, 5)
    state, value = optimizer.state_dict(), weight.detach().clone()
    other, resumed = parts()
    with torch.no_grad():
        other.copy_(value)
    resumed.load_state_dict(state)
    step(other, resumed, 5)
    step(weight, optimizer, 5)
    assert torch.equal(weight, other)
    assert torch.equal(optimizer.averages.averages["w"], resumed.averages.averages["w"])


def test_negative_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        SparseASGD([("w", torch.ones(2, 2, requires_grad=True))], {}, lr=-1.0)
