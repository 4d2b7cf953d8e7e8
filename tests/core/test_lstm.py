"""The LSTM sequence and layer against a loop under autograd and `torch.nn.LSTM`: values, gradients, bits.

Shapes: T time steps, B batch, I inputs, H units.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore import lstm_steps
from rnncore.lstm import lstm_sequence
from torch import Tensor, nn
from torch.nn import functional as F

Sequence = Callable[..., tuple[Tensor, Tensor, Tensor]]

#: T, B, I, H: single ones; more units than a vector has; more inputs and units than a panel's depth; more rows at a
#: time than have running sums.
SIZES = [(1, 1, 1, 1), (1, 3, 4, 5), (6, 1, 3, 9), (5, 7, 33, 50), (3, 13, 70, 131), (2, 100, 5, 20)]
TIGHT = {"rtol": 0, "atol": 1e-12}
NAMES = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def loop(
    x: Tensor, h: Tensor, c: Tensor, weight_ih: Tensor, weight_hh: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The equations, step by step, under autograd."""
    outputs = []
    for inputs in x:
        i, f, g, o = sum(biases, F.linear(inputs, weight_ih) + F.linear(h, weight_hh)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), h, c


def torch_layer(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.nn.LSTM` with these weights."""
    layer = nn.LSTM(x.shape[2], h.shape[1], bias=len(weights) == 4, dtype=x.dtype)
    named = dict(zip(NAMES, weights, strict=False))
    output, (h, c) = torch.func.functional_call(layer, named, (x, (h[None], c[None])))
    return output, h[0], c[0]


def arguments(
    size: tuple[int, int, int, int], dtype: torch.dtype = torch.float64, *, bias: bool = True, gain: float = 1.5
) -> list[Tensor]:
    """x, h0, c0 and weights that drive the gates through most of their range; each is a leaf."""
    steps, batch, inputs, units = size
    torch.manual_seed(sum(size))
    shapes = [(steps, batch, inputs), (batch, units), (batch, units), (4 * units, inputs), (4 * units, units)]
    shapes += [(4 * units,)] * (2 if bias else 0)
    parts = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for weight in parts[3:5]:
        weight *= gain / math.sqrt(weight.shape[1])
    return [part.to(dtype).requires_grad_() for part in parts]


def with_gradients(sequence: Sequence, parts: list[Tensor], **options: Any) -> list[Tensor]:
    """Output, h and c of a sequence, and the gradients of a weighted sum of all three by all parts."""
    results = sequence(*parts, **options)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=torch.float64).view_as(r) for r in results]
    total = sum((r.double().sin() * w).sum() for r, w in zip(results, weights, strict=True))
    assert isinstance(total, Tensor)
    return [*(r.detach() for r in results), *torch.autograd.grad(total, parts)]


def assert_close(ours: list[Tensor], theirs: list[Tensor], **tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def exactly(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# Values and gradients.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("operators")
def test_values_and_gradients_are_those_of_the_equations_and_of_torch(
    size: tuple[int, int, int, int], bias: bool
) -> None:
    parts = arguments(size, bias=bias)
    ours = with_gradients(lstm_sequence, parts)
    assert all(bool(part.any()) for part in ours)
    assert_close(ours, with_gradients(loop, parts), **TIGHT)
    assert_close(ours, with_gradients(torch_layer, parts), **TIGHT)


@pytest.mark.usefixtures("operators")
def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lstm_sequence, arguments((3, 2, 2, 3)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("operators")
def test_float32_to_its_precision(size: tuple[int, int, int, int]) -> None:
    parts = arguments(size, torch.float32)
    exact = with_gradients(loop, [part.detach().double().requires_grad_() for part in parts])
    for one, other in zip(with_gradients(lstm_sequence, parts), exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-6 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_operators_equal_the_eager_ones(native_operators: Any, dtype: torch.dtype) -> None:
    """Of one step, on a row of units that ends within a vector."""
    eps = torch.finfo(dtype).eps
    torch.manual_seed(0)
    shapes = [(3, 4 * 37)] * 3 + [(3, 37)] * 3
    product, gates, grad_gates, before, grad_h, grad_c = (3 * torch.randn(s, dtype=dtype) for s in shapes)
    results = []
    for kind in (native_operators, lstm_steps.EAGER):
        active, c, h = gates.clone(), torch.empty_like(before), torch.empty_like(before)
        kind.lstm_cell_forward(product, active, before, c, h)
        by_gates, by_c = grad_gates.clone(), grad_c.clone()
        kind.lstm_cell_backward(grad_h, by_c, active, before, c, by_gates)
        results.append([active, c, h, by_gates, by_c])
    assert_close(*results, rtol=32 * eps, atol=32 * eps)


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.usefixtures("operators")
def test_gradient_of_one_result_alone(wanted: int) -> None:
    """Of outputs, h or c; and the same again, where the graph is kept."""
    parts = arguments((4, 2, 3, 9))
    ours = lstm_sequence(*parts)[wanted].square().sum()
    first = torch.autograd.grad(ours, parts, retain_graph=True)
    assert exactly(first, torch.autograd.grad(ours, parts))
    assert_close(list(first), list(torch.autograd.grad(loop(*parts)[wanted].square().sum(), parts)), **TIGHT)


@pytest.mark.parametrize("number", range(7))
@pytest.mark.usefixtures("operators")
def test_gradient_by_one_argument_alone(number: int) -> None:
    parts = [part.detach() for part in arguments((4, 2, 3, 9))]
    parts[number].requires_grad_()
    grads = [torch.autograd.grad(run(*parts)[0].sin().sum(), parts[number]) for run in (lstm_sequence, loop)]
    assert_close(*map(list, grads), **TIGHT)


@pytest.mark.usefixtures("operators")
def test_any_strides() -> None:
    parts = arguments((5, 3, 7, 9))
    spread = [torch.stack([part.detach(), part.detach()], -1)[..., 0] for part in parts]
    spread[0] = parts[0].detach().transpose(0, 1).contiguous().transpose(0, 1)
    spread[4] = parts[4].detach().t().contiguous().t()
    assert not any(part.is_contiguous() for part in spread)
    ours = with_gradients(lstm_sequence, [part.requires_grad_() for part in spread])
    assert_close(ours, with_gradients(loop, parts), **TIGHT)


@pytest.mark.usefixtures("operators")
def test_extreme_gates_saturate() -> None:
    """However large they are: the gates are 0 or 1, g is -1 or 1, and no gradient is infinite or NaN."""
    for size in (40.0, 1e3, 1e30):
        x = torch.tensor([[[size, size, -size, size]], [[size, -size, size, -size]]], dtype=torch.float64)
        parts = [x, torch.zeros(1, 1), torch.zeros(1, 1), torch.eye(4), torch.zeros(4, 1)]
        parts = [part.double().requires_grad_() for part in parts]
        output, h, c = lstm_sequence(*parts)
        torch.testing.assert_close(output.flatten().tolist(), [math.tanh(-1.0), 0.0], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(c.item(), 1.0, rtol=1e-14, atol=0)
        grads = torch.autograd.grad(output.sum() + h.sum() + c.sum(), parts)
        assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.usefixtures("operators")
def test_a_nan_stays_in_its_row() -> None:
    parts = arguments((4, 3, 3, 9))
    with torch.no_grad():
        parts[0][1, 2, 0] = math.nan
        output, _, c = lstm_sequence(*parts)
    expected = torch.zeros(4, 3, 9, dtype=torch.bool)
    expected[1:, 2] = True
    assert torch.equal(output.isnan(), expected)
    assert torch.equal(c.isnan(), expected[-1])


def test_what_is_kept_for_the_gradient() -> None:
    """Besides arguments and outputs: the activated gates and c of each step."""
    steps, batch, _, units = size = (5, 3, 7, 11)
    kept: list[Tensor] = []
    parts = arguments(size)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output, _, _ = lstm_sequence(*parts)
    known = {part.data_ptr() for part in [*parts, output]}
    assert sum(tensor.numel() for tensor in kept if tensor.data_ptr() not in known) == 5 * steps * batch * units


def test_what_changes_before_backward_is_noticed() -> None:
    for number in (0, 3, 4):
        parts = arguments((3, 2, 4, 5))
        output, _, _ = lstm_sequence(*parts)
        with torch.no_grad():
            parts[number] += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


def test_second_derivatives_are_refused() -> None:
    parts = arguments((3, 2, 4, 5))
    (grad,) = torch.autograd.grad(lstm_sequence(*parts)[0].square().sum(), parts[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# Bits.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [1, 3, 19])
@pytest.mark.usefixtures("native_operators")
def test_two_windows_are_one_to_the_bit(cut: int, dtype: torch.dtype) -> None:
    for size in [(20, 1, 40, 30), (20, 10, 300, 200)]:
        x, h, c, *weights = arguments(size, dtype)
        output, *last = lstm_sequence(x, h, c, *weights)
        first, *between = lstm_sequence(x[:cut], h, c, *weights)
        second, *end = lstm_sequence(x[cut:], *between, *weights)
        assert exactly([torch.cat([first, second]), *end], [output, *last])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("native_operators")
def test_rows_of_a_batch_do_not_touch_each_other(dtype: torch.dtype) -> None:
    """Not in a bit: a row's results are those that it has alone."""
    x, h, c, *weights = arguments((6, 20, 70, 50), dtype)
    output, _, last = lstm_sequence(x, h, c, *weights)
    for row in (slice(0, 1), slice(7, 12), slice(19, 20)):
        alone, _, end = lstm_sequence(x[:, row], h[row], c[row], *weights)
        assert exactly([alone, end], [output[:, row], last[row]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("native_operators")
def test_threads_change_no_bit(set_threads: Callable[[int], None], dtype: torch.dtype) -> None:
    """Of outputs, states, and the gradients by these; the others are products of torch's libraries."""
    parts, results = arguments((10, 20, 300, 260), dtype), []
    for threads in (1, 2):
        set_threads(threads)
        results.append(with_gradients(lstm_sequence, parts))
    assert exactly(results[0][:3], results[1][:3])
    assert exactly(results[0][4:6], results[1][4:6])
    eps = torch.finfo(dtype).eps
    assert_close(results[0], results[1], rtol=0, atol=500 * eps)


@pytest.mark.usefixtures("operators")
def test_the_same_again_to_the_bit() -> None:
    for dtype in (None, torch.bfloat16):
        parts = arguments((12, 20, 200, 130), torch.float32)
        assert exactly(*(with_gradients(lstm_sequence, parts, dtype=dtype) for _ in range(2)))


# Mixed precision.


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("size", [(1, 1, 3, 4), (20, 20, 130, 60), (10, 5, 40, 600)], ids=str)
@pytest.mark.usefixtures("operators")
def test_products_in_bfloat16(size: tuple[int, int, int, int]) -> None:
    """A product's operands and result are each rounded to 2^-9 of themselves; everything else is in float32."""
    parts = arguments(size, torch.float32, gain=1.0)
    exact = with_gradients(lstm_sequence, parts)
    ours = with_gradients(lstm_sequence, parts, dtype=torch.bfloat16)
    assert all(part.dtype == torch.float32 for part in ours)
    distances = [distance(one, other) for one, other in zip(ours, exact, strict=True)]
    assert max(distances[:3]) < 0.01
    assert max(distances[3:]) < 0.03
    assert min(distances) > 1e-5, "what was computed in float32 throughout would be closer"


@pytest.mark.usefixtures("operators")
def test_narrow_inputs_and_their_gradient() -> None:
    x, *rest = arguments((4, 3, 8, 6), torch.float32)
    narrow = x.detach().bfloat16().requires_grad_()
    ours = with_gradients(lstm_sequence, [narrow, *rest], dtype=torch.bfloat16)
    wide = with_gradients(lstm_sequence, [narrow.detach().float().requires_grad_(), *rest], dtype=torch.bfloat16)
    assert ours[3].dtype == torch.bfloat16
    assert exactly(ours, [*wide[:3], wide[3].bfloat16(), *wide[4:]])
