"""The non-monotone trigger, averaged parameters and the scaled learning rate."""

from collections.abc import Iterator

import pytest
import torch
from rnncore.asgd import AveragedParameters, NonMonotone, scaled_lr
from rnncore.errors import UserError


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """torch.optim.ASGD keeps its averaging weight in the default dtype; the comparison needs it in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def quadratic(seed: int) -> tuple[list[torch.nn.Parameter], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(5, 3), (7,), ()]]
    return parameters, torch.randn(200, generator=generator)


def train(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, noise: torch.Tensor
) -> Iterator[None]:
    """Noisy steps on a quartic, one for each number of ``noise``."""
    for value in noise:
        optimizer.zero_grad()
        sum(((parameter - value) ** 2).sum() + 0.1 * (parameter**4).sum() for parameter in parameters).backward()
        optimizer.step()
        yield


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean(0)


@pytest.mark.parametrize("foreach", [False, True])
def test_sgd_with_averages_is_torch_asgd(foreach: bool) -> None:
    ours, noise = quadratic(0)
    theirs, _ = quadratic(0)
    asgd = torch.optim.ASGD(theirs, lr=0.01, lambd=0, t0=0, weight_decay=1e-2, foreach=foreach)
    averaged = AveragedParameters(ours)
    averaged.start()
    sgd = torch.optim.SGD(ours, lr=0.01, weight_decay=1e-2)
    for _ in zip(train(ours, sgd, noise), train(theirs, asgd, noise), strict=True):
        averaged.update()
        for average, own, their in zip(averaged.averages, ours, theirs, strict=True):
            torch.testing.assert_close(own, their, rtol=0, atol=1e-12)
            torch.testing.assert_close(average, asgd.state[their]["ax"], rtol=0, atol=1e-12)


def test_the_average_is_the_mean_of_all_iterates_but_the_first() -> None:
    parameters, noise = quadratic(1)
    averaged = AveragedParameters(parameters)
    averaged.start()
    seen: list[torch.Tensor] = []
    for _ in train(parameters, torch.optim.SGD(parameters, lr=0.01), noise[:20]):
        averaged.update()
        seen.append(parameters[0].detach().clone())
    torch.testing.assert_close(averaged.averages[0], mean(seen[1:]), rtol=0, atol=1e-14)


def test_averages_are_swapped_in_and_out() -> None:
    parameters, noise = quadratic(2)
    averaged = AveragedParameters(parameters)
    averaged.start()
    for _ in train(parameters, torch.optim.SGD(parameters, lr=0.01), noise[:10]):
        averaged.update()
    own = [parameter.detach().clone() for parameter in parameters]
    addresses = [parameter.data_ptr() for parameter in parameters]
    assert not torch.equal(own[0], averaged.averages[0])

    with averaged.swapped_in():
        assert all(map(torch.equal, parameters, averaged.averages))
        assert addresses == [parameter.data_ptr() for parameter in parameters]
    assert all(map(torch.equal, parameters, own))

    with pytest.raises(KeyError), averaged.swapped_in():
        raise KeyError
    assert all(map(torch.equal, parameters, own))


def test_nothing_happens_before_start_and_after_stop() -> None:
    parameters, _ = quadratic(3)
    averaged = AveragedParameters(parameters)
    before = parameters[0].detach().clone()
    averaged.update()
    with averaged.swapped_in():
        assert torch.equal(parameters[0], before)
    assert not averaged.active
    averaged.start()
    assert averaged.active
    averaged.stop()
    averaged.update()
    assert averaged.state_dict() == {"steps": 0, "averages": []}


def test_start_again_forgets_the_past() -> None:
    parameters, noise = quadratic(4)
    averaged = AveragedParameters(parameters)
    averaged.start()
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    seen: list[torch.Tensor] = []
    for step, _ in enumerate(train(parameters, optimizer, noise[:12])):
        if step == 6:
            averaged.start()
        averaged.update()
        seen.append(parameters[1].detach().clone())
    torch.testing.assert_close(averaged.averages[1], mean(seen[7:]), rtol=0, atol=1e-14)


def test_saved_and_resumed_in_the_middle() -> None:
    parameters, noise = quadratic(5)
    averaged = AveragedParameters(parameters)
    averaged.start()
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    for _ in train(parameters, optimizer, noise[:5]):
        averaged.update()
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    resumed = AveragedParameters(copies)
    resumed.load_state_dict(averaged.state_dict())
    for _ in train(parameters, optimizer, noise[5:9]):
        averaged.update()
    for _ in train(copies, torch.optim.SGD(copies, lr=0.01), noise[5:9]):
        resumed.update()
    assert resumed.steps == averaged.steps == 9
    assert all(map(torch.equal, resumed.averages, averaged.averages))

    resumed.load_state_dict(AveragedParameters(copies).state_dict())
    assert not resumed.active
    with pytest.raises(UserError, match="another model"):
        AveragedParameters(copies[:2]).load_state_dict(averaged.state_dict())


def test_trigger_against_the_published_condition() -> None:
    losses = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    for patience in (1, 2, 5):
        trigger = NonMonotone(patience)
        history: list[float] = []
        for loss in losses:
            expected = len(history) > patience and loss > min(history[:-patience])
            assert trigger.update(loss) == expected
            history.append(loss)


def test_trigger_by_hand() -> None:
    trigger = NonMonotone(2)
    assert [trigger.update(loss) for loss in [5, 4, 3, 3.5, 3.5, 2.9, 3.1]] == [False] * 6 + [True]
    eager = NonMonotone(0)
    assert [eager.update(loss) for loss in [5, 4, 4, 4.1]] == [False, False, False, True]
    with pytest.raises(ValueError, match="patience"):
        NonMonotone(-1)


def test_trigger_resumes() -> None:
    first = NonMonotone(2)
    for loss in [5.0, 4.0, 3.0]:
        first.update(loss)
    second = NonMonotone(2)
    second.load_state_dict(first.state_dict())
    assert [second.update(5.5), second.history] == [True, [5.0, 4.0, 3.0, 5.5]]
    assert first.history == [5.0, 4.0, 3.0]


def test_scaled_lr_steps_that_much_further_and_is_restored() -> None:
    parameters, _ = quadratic(6)
    captured_rate = torch.tensor(2.0)
    groups = [{"params": parameters[:1], "lr": 30.0}, {"params": parameters[1:], "lr": captured_rate}]
    optimizer = torch.optim.SGD(groups, foreach=False)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in parameters]
    with scaled_lr(optimizer, 0.5):
        optimizer.step()
    torch.testing.assert_close(parameters[0].detach(), before[0] - 15, rtol=0, atol=1e-13)
    torch.testing.assert_close(parameters[1].detach(), before[1] - 1, rtol=0, atol=1e-13)
    with pytest.raises(KeyError), scaled_lr(optimizer, 0.1):
        raise KeyError
    assert optimizer.param_groups[0]["lr"] == 30.0
    assert optimizer.param_groups[1]["lr"] is captured_rate
    assert captured_rate.item() == 2.0
