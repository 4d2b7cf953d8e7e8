"""Dropout masks; locked and embedding dropout, values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore.dropout import LockedDropout, WeightDrop, embedded_dropout, embedding_mask, locked_mask, weight_mask
from rnncore.errors import UserError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

T, B, I = 6, 3, 4


class LargestResult(TorchDispatchMode):
    """The number of elements of the largest new tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(result is given or result._base is given for given in args):
            self.elements = max(self.elements, result.numel())
        return result


# Masks


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_drops_with_probability_p_and_scales(p: float, dtype: torch.dtype, device: torch.device) -> None:
    mask = weight_mask(torch.empty(700, 300, dtype=dtype, device=device), p, generator=seeded(device, 1))
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, torch.ones((), dtype=dtype).div(1 - p).item()}
    sigma = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs((mask == 0).double().mean().item() - p) < 4 * sigma


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_elements_of_a_mask_are_independent(p: float) -> None:
    """Neighbours share random words; two masks in a row share a generator: neither shows."""
    generator = seeded("cpu", 2)
    first, second = (locked_mask(500, 400, p, dtype=torch.float64, generator=generator).flatten() for _ in range(2))
    pairs = [(first, second), *((first[lag:], first[:-lag]) for lag in (1, 2, 3, 4, 7, 8, 16, 400))]
    for one, other in pairs:
        correlation = torch.corrcoef(torch.stack([one, other]))[0, 1].item()
        assert abs(correlation) < 4 / one.numel() ** 0.5


def seeded(device: torch.device | str, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_mask_follows_from_the_generator(p: float, device: torch.device) -> None:
    draw: Callable[..., Tensor] = lambda **source: embedding_mask(1000, p, device=device, **source)  # noqa: E731
    assert torch.equal(draw(generator=seeded(device, 3)), draw(generator=seeded(device, 3)))
    assert not torch.equal(draw(generator=seeded(device, 3)), draw(generator=seeded(device, 4)))
    torch.manual_seed(5)
    first, second = draw(), draw()
    torch.manual_seed(5)
    assert torch.equal(draw(), first)
    assert not torch.equal(first, second)


def test_mask_shapes_and_extremes() -> None:
    assert locked_mask(3, 7, 0.5).shape == (1, 3, 7)
    assert embedding_mask(11, 0.5).shape == (11, 1)
    assert torch.equal(locked_mask(3, 7, 0.0), torch.ones(1, 3, 7))
    assert torch.equal(weight_mask(torch.empty(9, 9), 1e-9), torch.ones(9, 9))
    assert not weight_mask(torch.empty(9, 9), 1 - 1e-9).any()


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_bad_probability_is_a_clear_error(p: float) -> None:
    for use in (
        lambda: LockedDropout(p),
        lambda: WeightDrop(nn.Linear(2, 2), ["weight"], p),
        lambda: locked_mask(1, 1, p),
    ):
        with pytest.raises(UserError, match="at least 0 and below 1"):
            use()


# Locked dropout


def test_locked_dropout_uses_one_mask_for_all_time_steps(device: torch.device) -> None:
    torch.manual_seed(0)
    input = torch.randn(T, B, 50, dtype=torch.float64, device=device, requires_grad=True)
    dropout = LockedDropout(0.4)
    torch.manual_seed(1)
    output = dropout(input)
    torch.manual_seed(1)
    mask = locked_mask(B, 50, 0.4, device=device, dtype=torch.float64)
    assert torch.equal(output, input * mask)
    weights = torch.randn_like(output)
    output.backward(weights)
    assert torch.equal(input.grad, weights * mask)
    assert not torch.equal(mask[0, 0], mask[0, 1])


def test_locked_dropout_is_the_identity_in_evaluation_and_at_zero() -> None:
    input = torch.randn(T, B, I)
    assert LockedDropout(0.5).eval()(input) is input
    assert LockedDropout(0.0)(input) is input
    with pytest.raises(ValueError, match="time, batch, features"):
        LockedDropout(0.5)(input[0])


# Embedding dropout


def test_embedding_dropout_is_that_of_the_whole_matrix(device: torch.device) -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 4, dtype=torch.float64, device=device, requires_grad=True)
    ids = torch.tensor([[9, 0, 3], [9, 5, 5]], device=device)
    mask = embedding_mask(10, 0.5, dtype=torch.float64, device=device, generator=seeded(device, 1))
    mask[9] = 2.0
    upstream = torch.randn(2, 3, 4, dtype=torch.float64, device=device)

    output = embedded_dropout(weight, ids, mask=mask)
    expected = (weight * mask)[ids]
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output, weight, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, weight, upstream)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-14)
    assert not gradient.is_sparse
    assert gradient[9].abs().min() > 0, "the last word of the vocabulary learns"
    assert gradient[1].abs().max() == 0
    assert torch.autograd.gradcheck(lambda w: embedded_dropout(w, ids, mask=mask), (weight,), fast_mode=False)


def test_embedding_dropout_draws_its_own_mask() -> None:
    weight = torch.ones(2000, 3)
    ids = torch.arange(2000).view(20, 100)
    output = embedded_dropout(weight, ids, 0.3, generator=seeded("cpu", 0))
    mask = embedding_mask(2000, 0.3, generator=seeded("cpu", 0))
    assert torch.equal(output, mask[ids].expand(-1, -1, 3))
    assert torch.equal(embedded_dropout(weight, ids), weight[ids])


def test_embedding_dropout_copies_no_matrix() -> None:
    weight = torch.ones(1000, 50, requires_grad=True)
    with LargestResult() as largest:
        embedded_dropout(weight, torch.zeros(2, 3, dtype=torch.int64), 0.5)
    assert largest.elements == 1000
