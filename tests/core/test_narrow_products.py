"""Transposes in a narrower type, and the products of a linear map on them."""

import math

import pytest
import torch
from rnncore import transposed as module
from rnncore.narrow_products import narrow_linear
from rnncore.transposed import transposed
from torch import Tensor
from torch.nn import functional as F

BF16 = torch.bfloat16


@pytest.fixture(params=["native", "torch"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The native pass, then torch's operators."""
    if request.param == "torch":
        monkeypatch.setattr(module, "_native", lambda x: False)
    elif not module._native(torch.zeros(1, 1)):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return str(request.param)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, BF16])
@pytest.mark.parametrize("sizes", [(1, 1), (32, 64), (77, 131), (0, 5), (5, 0)])
def test_transposed(sizes: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(sizes[0], 2 * sizes[1]).to(dtype)
    for part in (x[:, : sizes[1]], x[:, ::2], x[:, : sizes[1]].t()):
        found = transposed(part, BF16)
        assert found.is_contiguous()
        assert torch.equal(found, part.t().to(BF16))
    assert torch.equal(transposed(x, dtype), x.t())


def test_rounding_of_what_is_not_finite(kind: str) -> None:
    large = torch.finfo(torch.float32).max
    x = torch.tensor([[math.nan, -math.nan, math.inf, -math.inf, large, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1e-45]])
    found = transposed(x, BF16)[:, 0]
    torch.testing.assert_close(found, x[0].to(BF16), rtol=0, atol=0, equal_nan=True)
    assert math.copysign(1, found[7].item()) == -1


@pytest.mark.usefixtures("kind")
def test_a_linear_map_and_its_gradients() -> None:
    """Operands are rounded, sums are not: against the products of the rounded operands in float64."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 33, 20, requires_grad=True), torch.randn(50, 20, requires_grad=True)
    grad = torch.randn(4, 33, 50).to(BF16)
    output = narrow_linear(x, weight, BF16)
    assert output.dtype == BF16

    def exact(part: Tensor) -> Tensor:
        return part.detach().to(BF16).double().requires_grad_()

    leaves = exact(x), exact(weight)
    expected = F.linear(*leaves)
    torch.testing.assert_close(output.double(), expected, rtol=2**-7, atol=1e-3)
    found = torch.autograd.grad(output, (x, weight), grad)
    assert [part.dtype for part in found] == [torch.float32, torch.float32]
    for ours, theirs in zip(found, torch.autograd.grad(expected, leaves, grad.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=1e-3)
    assert torch.equal(torch.autograd.grad(narrow_linear(x, weight, BF16), weight, grad)[0], found[1])
    alone = torch.autograd.grad(narrow_linear(x.detach(), weight, BF16), weight, grad)[0]
    assert torch.equal(alone, found[1])
