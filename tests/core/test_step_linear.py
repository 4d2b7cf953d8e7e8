"""The product of a recurrent step against ``F.linear``, in each of its layouts."""

import pytest
import torch
from rnncore import step_linear
from rnncore.panel_linear import PanelLinear
from rnncore.step_linear import StepLinear
from torch import Tensor
from torch.nn import functional as F

SHAPES = [(1, 1, 1), (3, 5, 7), (20, 325, 650), (20, 325, 975), (64, 33, 1)]


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near_exact_product(product: Tensor, x: Tensor, weight: Tensor) -> None:
    """Each of the K rounded additions of a sum may be off by one rounding of the sum of magnitudes."""
    exact = F.linear(x.double(), weight.double())
    eps = torch.finfo(torch.float64 if product.dtype == torch.float64 else torch.float32).eps
    bound = F.linear(x.double().abs(), weight.double().abs()) * eps * (x.shape[1] + 1)
    if product.dtype == torch.bfloat16:
        bound = bound + exact.abs() * torch.finfo(torch.bfloat16).eps
    assert bool(((product.double() - exact).abs() <= bound).all())


@pytest.fixture(params=["plain", "packed", "panels"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each layout in turn, whatever this processor would choose."""
    name: str = request.param
    if name == "packed" and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch has no oneDNN")
    if name == "panels" and not PanelLinear.available(torch.device("cpu"), torch.float32):
        pytest.skip("there are no native kernels")
    monkeypatch.setattr(step_linear, "use_packed", lambda device, dtype: name == "packed" and dtype != torch.float64)
    monkeypatch.setattr(step_linear, "_few", lambda rows, weight: name == "panels")
    return name


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_within_rounding(rows: int, inputs: int, outputs: int, dtype: torch.dtype, layout: str) -> None:
    x, weight = numbers(rows, inputs, dtype=dtype), numbers(outputs, inputs, dtype=dtype, seed=1)
    linear = StepLinear(weight, rows)
    assert linear.packed == (layout == "packed" and dtype != torch.float64)
    assert (linear.panels is not None) == (layout == "panels" and dtype != torch.bfloat16)
    product = linear(x)
    assert product.dtype == dtype
    assert_near_exact_product(product, x, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("layout")
def test_equal_inputs_give_equal_bits(dtype: torch.dtype) -> None:
    """Also with other products in between, from another instance, and from another place in memory."""
    x, weight = numbers(20, 325, dtype=dtype), numbers(650, 325, dtype=dtype, seed=1)
    linear = StepLinear(weight, 20)
    first = linear(x)
    for seed in range(2, 12):
        linear(numbers(20, 325, dtype=dtype, seed=seed))
        assert torch.equal(linear(x), first)
        moved = torch.empty(20 * 325 + seed, dtype=dtype)[seed:].view(20, 325).copy_(x)
        assert torch.equal(linear(moved), first)
    assert torch.equal(StepLinear(weight.clone(), 20)(x), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("layout")
def test_any_strides_of_the_weight(dtype: torch.dtype) -> None:
    x, weight = numbers(4, 6, dtype=dtype), numbers(6, 9, dtype=dtype, seed=1)
    assert torch.equal(StepLinear(weight.t(), 4)(x), StepLinear(weight.t().contiguous(), 4)(x))
    part = numbers(18, 6, dtype=dtype, seed=2)[4:13]
    assert_near_exact_product(StepLinear(part, 4)(x), x, part)


@pytest.mark.usefixtures("layout")
def test_products_in_bfloat16_of_float32() -> None:
    x, weight = numbers(4, 33, dtype=torch.float32), numbers(9, 33, dtype=torch.float32, seed=1)
    product = StepLinear(weight, 4, torch.bfloat16)(x)
    assert product.dtype == torch.float32
    assert torch.equal(product, product.bfloat16().float())
    assert_near_exact_product(product.bfloat16(), x.bfloat16(), weight.bfloat16())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
@pytest.mark.usefixtures("layout")
def test_adding_and_writing_the_product(wide: torch.dtype, dtype: torch.dtype | None) -> None:
    x, weight = numbers(4, 33, dtype=wide), numbers(9, 33, dtype=wide, seed=1)
    before = numbers(4, 9, dtype=wide, seed=2)
    linear, total = StepLinear(weight, 4, dtype), before.clone()
    linear.add_to(total, x)
    torch.testing.assert_close(total, before + linear(x), rtol=1e-6, atol=1e-6)
    again = before.clone()
    linear.add_to(again, x)
    assert torch.equal(again, total)
    linear.write(again, x)
    assert torch.equal(again, linear(x))


def test_no_gradient_is_recorded() -> None:
    x, weight = numbers(4, 6).requires_grad_(), numbers(9, 6, seed=1).requires_grad_()
    with torch.no_grad():
        assert not StepLinear(weight, 4)(x).requires_grad
        assert not StepLinear(weight, 400)(x).requires_grad


@pytest.mark.parametrize("failure", [RuntimeError, AttributeError])
def test_a_torch_without_the_packed_operator(monkeypatch: pytest.MonkeyPatch, failure: type[Exception]) -> None:
    """The operator is private: when it fails or is gone, the plain product takes its place."""

    def fails(*args: object) -> Tensor:
        raise failure("gone")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", fails)
    step_linear.use_packed.cache_clear()
    try:
        x, weight = numbers(4, 33, dtype=torch.bfloat16), numbers(9, 33, dtype=torch.bfloat16, seed=1)
        linear = StepLinear(weight, 4)
        assert not linear.packed
        assert_near_exact_product(linear(x), x, weight)
    finally:
        step_linear.use_packed.cache_clear()


def test_what_is_never_packed() -> None:
    assert not step_linear.use_packed("cpu", torch.float64)
    assert not step_linear.use_packed("cuda", torch.float32)
