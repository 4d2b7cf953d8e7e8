"""The fused gates of a QRNN layer: every kind of operators against the equations, values and gradients."""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from awdlm import triton_kernels
from awdlm.forget_mult import forget_mult_loop
from awdlm.gates import compose_gates, qrnn_gates
from awdlm.kernels import compute_dtype
from torch import Tensor

SIZES = [(1, 1, 1), (7, 3, 5), (4, 2, 600)]  # the last is more than a block of any kernel
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TIGHT = {"rtol": 1e-12, "atol": 1e-12}

Gates = Callable[..., tuple[Tensor, Tensor]]
loop: Gates = partial(compose_gates, recurrence=forget_mult_loop)


def before_activation(
    sizes: tuple[int, int, int], output_gate: bool, device: torch.device, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """y ``[T, B, 3H or 2H]`` and a first state ``[B, H]``."""
    torch.manual_seed(sum(sizes))
    steps, batch, units = sizes
    y = 2 * torch.randn(steps, batch, (3 if output_gate else 2) * units, dtype=torch.float64)
    initial = torch.randn(batch, units, dtype=torch.float64)
    return y.to(device, dtype), initial.to(device, compute_dtype(dtype))


def with_gradients(gates: Gates, y: Tensor, initial: Tensor | None, output_gate: bool) -> list[Tensor]:
    """Output, last state, and the gradients of a weighted sum of both by y and the first state."""
    leaves = [None if part is None else part.detach().clone().requires_grad_() for part in (y, initial)]
    results = gates(*leaves, output_gate=output_gate)
    total = sum(
        (part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype, device=part.device).view_as(part)).double().sum()
        for part in results
    )
    assert isinstance(total, Tensor)
    total.backward()
    grads = [leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None]
    return [*(part.detach() for part in results), *grads]


def exactly(pairs: Any) -> bool:
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_are_those_of_the_equations(
    backend: SimpleNamespace, sizes: tuple[int, int, int], output_gate: bool, start: bool
) -> None:
    y, initial = before_activation(sizes, output_gate, backend.device)
    arguments = (y, initial if start else None, output_gate)
    ours, theirs = with_gradients(qrnn_gates, *arguments), with_gradients(loop, *arguments)
    assert len(ours) == len(theirs) == (4 if start else 3)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_bias_is_added_before_activation(
    backend: SimpleNamespace, sizes: tuple[int, int, int], output_gate: bool
) -> None:
    found = []
    for fused in (True, False):
        y, initial = (part.requires_grad_() for part in before_activation(sizes, output_gate, backend.device))
        bias = torch.linspace(-1, 2, y.shape[2], dtype=y.dtype, device=y.device).requires_grad_()
        if fused:
            output, last = qrnn_gates(y, initial, bias=bias, output_gate=output_gate)
        else:
            output, last = loop(y + bias, initial, output_gate=output_gate)
        loss = (output * torch.linspace(1, 2, output.numel(), dtype=y.dtype, device=y.device).view_as(output)).sum()
        grads = torch.autograd.grad(loss + last.square().sum(), (y, initial, bias))
        found.append([output.detach(), last.detach(), *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_of_narrow_gates_is_not_rounded(backend: SimpleNamespace, dtype: torch.dtype) -> None:
    """Nor is its gradient, which sums what the gates' gradient is before it is rounded."""
    y, initial = before_activation((30, 2, 9), True, backend.device, dtype)
    bias = torch.linspace(-1, 2, 27, device=backend.device, requires_grad=True)
    output, last = qrnn_gates(y, initial, bias=bias)
    exact, exact_last = loop(y.double() + bias.double(), initial.double())
    torch.testing.assert_close(output.double(), exact, rtol=backend.rounding * torch.finfo(dtype).eps, atol=1e-6)
    torch.testing.assert_close(last.double(), exact_last, rtol=0, atol=1e-6)
    (grad,) = torch.autograd.grad(output.float().sum(), bias)
    (expected,) = torch.autograd.grad(exact.sum(), bias)
    assert grad.dtype == torch.float32
    rounded_first = backend.operators is triton_kernels
    torch.testing.assert_close(grad, expected, rtol=1e-2 if rounded_first else 1e-5, atol=1e-4)


def test_the_equations_by_hand() -> None:
    y = torch.tensor([[[0.3, -1.2, 0.7]], [[-0.4, 0.6, 2.0]]], dtype=torch.float64)
    c, outputs = 0.25, []
    for z, f, o in y[:, 0].tolist():
        share = 1 / (1 + math.exp(-f))
        c = share * math.tanh(z) + (1 - share) * c
        outputs.append(c / (1 + math.exp(-o)))
    output, last = loop(y, torch.tensor([[0.25]], dtype=torch.float64))
    assert output.flatten().tolist() == pytest.approx(outputs, rel=1e-14)
    assert last.item() == pytest.approx(c, rel=1e-14)


@pytest.mark.parametrize("output_gate", [True, False])
def test_gradients_are_those_of_finite_differences(backend: SimpleNamespace, output_gate: bool) -> None:
    inputs = [part.requires_grad_() for part in before_activation((3, 2, 3), output_gate, backend.device)]
    assert torch.autograd.gradcheck(partial(qrnn_gates, output_gate=output_gate), inputs)


@pytest.mark.parametrize("wanted", [0, 1])
def test_gradient_of_one_result_alone(backend: SimpleNamespace, wanted: int) -> None:
    """Of the output, or of the last state; and the same again, where the graph is kept."""
    grads = []
    for gates in (qrnn_gates, loop):
        y, initial = (part.requires_grad_() for part in before_activation((5, 2, 7), True, backend.device))
        value = gates(y, initial)[wanted].square().sum()
        grads.append(torch.autograd.grad(value, (y, initial), retain_graph=True))
        assert exactly(zip(grads[-1], torch.autograd.grad(value, (y, initial)), strict=True))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_narrow_types(backend: SimpleNamespace, dtype: torch.dtype, output_gate: bool) -> None:
    """Outputs are rounded once; the state is float32, in which everything is computed, after many steps too."""
    y, initial = before_activation((100, 2, 9), output_gate, backend.device, dtype)
    ours = with_gradients(qrnn_gates, y, initial, output_gate)
    exact = with_gradients(loop, y.double(), initial.double(), output_gate)
    assert [part.dtype for part in ours] == [dtype, torch.float32, dtype, torch.float32]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=backend.rounding * eps, atol=1e-6)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours[2].double(), exact[2], rtol=2 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_two_windows_are_one_to_the_bit(backend: SimpleNamespace, cut: int, dtype: torch.dtype) -> None:
    y, initial = before_activation((7, 3, 37), True, backend.device, dtype)
    output, last = qrnn_gates(y, initial)
    first, between = qrnn_gates(y[:cut], initial)
    second, end = qrnn_gates(y[cut:], between)
    assert exactly([(torch.cat([first, second]), output), (end, last)])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # NumPy's, in Triton's interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_gates_saturate(backend: SimpleNamespace, dtype: torch.dtype) -> None:
    """However large they are: z is -1 or 1, the other gates 0 or 1, and no gradient is infinite or NaN."""
    for size in (40.0, 1e3, 1e30, math.inf):
        signs = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]], dtype=dtype, device=backend.device)
        y = (size * signs)[:, None].requires_grad_()
        output, last = qrnn_gates(y)
        torch.testing.assert_close(output.flatten().tolist(), [-1.0, -1.0, 0.0], rtol=0, atol=1e-15)
        (output.sum() + last.sum()).backward()
        assert last.item() == 1
        assert y.grad is not None
        torch.testing.assert_close(y.grad, torch.zeros_like(y), rtol=0, atol=1e-15)


def test_a_nan_stays_in_its_column(backend: SimpleNamespace) -> None:
    y, initial = before_activation((4, 2, 3), True, backend.device)
    y[1, 0, 4] = math.nan  # f of row 0, unit 1
    output, last = qrnn_gates(y, initial)
    expected = torch.zeros(4, 2, 3, dtype=torch.bool)
    expected[1:, 0, 1] = True
    assert torch.equal(output.isnan().cpu(), expected)
    assert torch.equal(last.isnan().cpu(), expected[-1])


def test_threads_change_nothing(native_operators: Any, set_threads: Callable[[int], None]) -> None:
    y, initial = before_activation((70, 20, 131), True, torch.device("cpu"), torch.float32)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        bias = torch.linspace(-1, 1, y.shape[2], requires_grad=True)
        with_bias = qrnn_gates(y, initial, bias=bias)[0].sum()
        results.append([*with_gradients(qrnn_gates, y, initial, True), *torch.autograd.grad(with_bias, bias)])
    assert exactly(zip(*results, strict=True))


@pytest.mark.parametrize("gates", [qrnn_gates, compose_gates])
def test_what_does_not_fit_is_refused(gates: Gates) -> None:
    for y, initial, message in [
        (torch.zeros(2, 3, 7), None, r"Expected gates \[T, B, 3H\], got \[2, 3, 7\]"),
        (torch.zeros(2, 6), None, r"Expected gates \[T, B, 3H\], got \[2, 6\]"),
        (torch.zeros(0, 3, 6), None, "Expected sequence length to be larger than 0 in RNN"),
        (torch.zeros(2, 3, 6), torch.zeros(3, 3), r"Expected hidden size \(3, 2\), got \[3, 3\]"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            gates(y, initial)
    with pytest.raises(RuntimeError, match=r"Expected bias \[6\], got \[5\]"):
        gates(torch.zeros(2, 3, 6), bias=torch.zeros(5))
