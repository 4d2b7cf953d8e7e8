"""The native product of a recurrent step against the exact one."""

import pytest
import torch
from rnncore.panel_linear import PanelLinear
from torch import Tensor

SHAPES = [(1, 1, 1), (3, 5, 7), (20, 325, 650), (7, 130, 64), (130, 33, 65), (2, 0, 3), (0, 4, 3)]


@pytest.fixture(params=[torch.float32, torch.float64])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    if not PanelLinear.available(torch.device("cpu"), found):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return found


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", ["rows", "columns", "neither"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_product_within_rounding(rows: int, inputs: int, outputs: int, layout: str, dtype: torch.dtype) -> None:
    """Each of the K rounded additions of a sum may be off by one rounding of the sum of magnitudes."""
    x, weight = numbers(rows, inputs, dtype=dtype), numbers(outputs, inputs, dtype=dtype, seed=1)
    if layout == "columns":
        weight = weight.t().contiguous().t()
    elif layout == "neither":
        weight = weight.repeat_interleave(2, 0).repeat_interleave(3, 1)[::2, ::3]
    product = PanelLinear(weight)(x)
    assert product.shape == (rows, outputs)
    assert product.dtype == dtype
    bound = x.double().abs() @ weight.double().abs().t() * torch.finfo(dtype).eps * (inputs + 1)
    assert bool(((product.double() - x.double() @ weight.double().t()).abs() <= bound).all())


def test_bits_of_a_row_depend_neither_on_the_others_nor_on_threads(dtype: torch.dtype) -> None:
    x, weight = numbers(31, 90, dtype=dtype), numbers(200, 90, dtype=dtype, seed=1)
    linear, threads = PanelLinear(weight), torch.get_num_threads()
    product = linear(x)
    assert torch.equal(linear(x[4:5]), product[4:5])
    assert torch.equal(linear(x.t().contiguous().t()), product)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(linear(x), product)
    finally:
        torch.set_num_threads(threads)


def test_wrong_shapes_and_types_are_refused(dtype: torch.dtype) -> None:
    linear = PanelLinear(numbers(5, 4, dtype=dtype))
    with pytest.raises(RuntimeError, match="laid out for other sizes"):
        linear(numbers(2, 3, dtype=dtype))
    with pytest.raises(RuntimeError, match="the weight's type"):
        linear(numbers(2, 4, dtype=dtype).to(torch.float64 if dtype == torch.float32 else torch.float32))
    with pytest.raises(RuntimeError, match=r"weight \[N, K\]"):
        PanelLinear(numbers(5, dtype=dtype))


def test_what_it_is_not_for() -> None:
    assert not PanelLinear.available(torch.device("cpu"), torch.bfloat16)
    assert not PanelLinear.available(torch.device("cuda"), torch.float32)
