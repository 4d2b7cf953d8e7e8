# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, valid-type"
"""The operators of `awdlm.eager` as Triton kernels for CUDA, each one pass over time; the docstrings are there.

A program takes ``BLOCK`` of the B * H columns through all time steps. Its loads run some steps ahead (``num_stages``),
for the recurrence would else wait for memory at each step. Without Triton the module can be imported, not used.

Shapes: T time steps, B rows, H units.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    triton = constexpr = None
else:
    constexpr = tl.constexpr

BLOCK = 128


def kernel(function: Callable[..., None]) -> Any:
    """Makes a Triton kernel that is compiled once for all window lengths."""
    return function if triton is None else triton.jit(do_not_specialize=["steps"])(function)


@kernel
def _forget_mult_forward(
    f, z, initial, h, steps, columns, units, f_step, f_row, z_step, z_row, BLOCK: constexpr
) -> None:
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    f += column // units * f_row + column % units
    z += column // units * z_row + column % units
    h += column
    state = tl.load(initial + column, mask=inside, other=0.0)
    for _ in tl.range(steps, num_stages=4):
        share = tl.load(f, mask=inside, other=0.0).to(state.dtype)
        value = tl.load(z, mask=inside, other=0.0).to(state.dtype)
        state = share * value + (1 - share) * state
        tl.store(h, state.to(h.dtype.element_ty), mask=inside)
        f += f_step
        z += z_step
        h += columns


@kernel
def _forget_mult_backward(
    grad, f, z, h, initial, grad_f, grad_z, grad_initial, steps, columns, units, f_step, f_row, z_step, z_row,
    BLOCK: constexpr,
) -> None:  # fmt: skip
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    last = (steps - 1).to(tl.int64)
    f += column // units * f_row + column % units + last * f_step
    z += column // units * z_row + column % units + last * z_step
    at = last * columns + column
    start = tl.load(initial + column, mask=inside, other=0.0)
    carry = tl.zeros([BLOCK], dtype=start.dtype)
    for _ in tl.range(steps, num_stages=4):
        share = tl.load(f, mask=inside, other=0.0).to(start.dtype)
        value = tl.load(z, mask=inside, other=0.0).to(start.dtype)
        follows = at >= columns  # another step
        before = tl.load(h + at - columns, mask=inside & follows, other=0.0).to(start.dtype)
        before = tl.where(follows, before, start)
        total = tl.load(grad + at, mask=inside, other=0.0).to(start.dtype) + carry
        tl.store(grad_f + at, (total * (value - before)).to(grad_f.dtype.element_ty), mask=inside)
        tl.store(grad_z + at, (total * share).to(grad_z.dtype.element_ty), mask=inside)
        carry = total * (1 - share)
        f -= f_step
        z -= z_step
        at -= columns
    tl.store(grad_initial + column, carry, mask=inside)


@kernel
def _biases(bias, unit, units, inside, like, BIASED: constexpr, GATED: constexpr):
    """What is added to z, f and o before activation."""
    value = tl.zeros_like(like)
    share, gate = value, value
    if BIASED:
        value = tl.load(bias + unit, mask=inside, other=0.0)
        share = tl.load(bias + units + unit, mask=inside, other=0.0)
        if GATED:
            gate = tl.load(bias + 2 * units + unit, mask=inside, other=0.0)
    return value, share, gate


@kernel
def _gates_forward(
    y, bias, initial, c, output, steps, columns, units, BIASED: constexpr, GATED: constexpr, BLOCK: constexpr
) -> None:
    parts: tl.constexpr = 3 if GATED else 2
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    y += column // units * parts * units + column % units
    at = column
    state = tl.load(initial + column, mask=inside, other=0.0)
    add_value, add_share, add_gate = _biases(bias, column % units, units, inside, state, BIASED, GATED)
    for _ in tl.range(steps, num_stages=4):
        value = tl.load(y, mask=inside, other=0.0).to(state.dtype) + add_value
        value = 2 * tl.sigmoid(2 * value) - 1  # tanh
        share = tl.sigmoid(tl.load(y + units, mask=inside, other=0.0).to(state.dtype) + add_share)
        state = share * value + (1 - share) * state
        tl.store(c + at, state, mask=inside)
        if GATED:
            gate = tl.sigmoid(tl.load(y + 2 * units, mask=inside, other=0.0).to(state.dtype) + add_gate)
            tl.store(output + at, (gate * state).to(output.dtype.element_ty), mask=inside)
        y += columns * parts
        at += columns


@kernel
def _gates_backward(
    grad, grad_last, y, bias, c, initial, grad_y, grad_initial, steps, columns, units,
    BIASED: constexpr, GATED: constexpr, BLOCK: constexpr,
) -> None:  # fmt: skip
    parts: tl.constexpr = 3 if GATED else 2
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    last = (steps - 1).to(tl.int64)
    at = last * columns + column
    gates = last * columns * parts + column // units * parts * units + column % units
    start = tl.load(initial + column, mask=inside, other=0.0)
    carry = tl.load(grad_last + column, mask=inside, other=0.0)
    add_value, add_share, add_gate = _biases(bias, column % units, units, inside, start, BIASED, GATED)
    for _ in tl.range(steps, num_stages=4):
        value = tl.load(y + gates, mask=inside, other=0.0).to(start.dtype) + add_value
        value = 2 * tl.sigmoid(2 * value) - 1  # tanh
        share = tl.sigmoid(tl.load(y + gates + units, mask=inside, other=0.0).to(start.dtype) + add_share)
        follows = at >= columns  # another step
        before = tl.load(c + at - columns, mask=inside & follows, other=0.0)
        before = tl.where(follows, before, start)
        by_output = tl.load(grad + at, mask=inside, other=0.0).to(start.dtype)
        total = by_output + carry
        if GATED:
            gate = tl.sigmoid(tl.load(y + gates + 2 * units, mask=inside, other=0.0).to(start.dtype) + add_gate)
            total = by_output * gate + carry
            by_gate = by_output * tl.load(c + at, mask=inside, other=0.0) * gate * (1 - gate)
            tl.store(grad_y + gates + 2 * units, by_gate.to(grad_y.dtype.element_ty), mask=inside)
        by_value = total * share * (1 - value * value)
        by_share = total * (value - before) * share * (1 - share)
        tl.store(grad_y + gates, by_value.to(grad_y.dtype.element_ty), mask=inside)
        tl.store(grad_y + gates + units, by_share.to(grad_y.dtype.element_ty), mask=inside)
        carry = total * (1 - share)
        gates -= columns * parts
        at -= columns
    tl.store(grad_initial + column, carry, mask=inside)


def forget_mult_forward(f: Tensor, z: Tensor, initial: Tensor) -> Tensor:
    """As `awdlm.eager.forget_mult_forward`; rows of f and z may lie apart, their units not."""
    h = torch.empty(f.shape, dtype=f.dtype, device=f.device)
    strides = (*f.stride()[:2], *z.stride()[:2])
    _launch(_forget_mult_forward, initial.numel(), f, z, initial, h, *_sizes(f, initial), *strides)
    return h


def forget_mult_backward(
    grad: Tensor, f: Tensor, z: Tensor, h: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `awdlm.eager.forget_mult_backward`."""
    grads = torch.empty_like(h), torch.empty_like(h), torch.empty_like(initial)
    strides = (*f.stride()[:2], *z.stride()[:2])
    _launch(_forget_mult_backward, initial.numel(), grad, f, z, h, initial, *grads, *_sizes(f, initial), *strides)
    return grads


def gates_forward(y: Tensor, bias: Tensor | None, initial: Tensor, output_gate: bool) -> tuple[Tensor, Tensor]:
    """As `awdlm.eager.gates_forward`."""
    c = initial.new_empty(len(y), *initial.shape)
    output = y.new_empty(c.shape if output_gate else 0)
    arguments = y, y if bias is None else bias, initial, c, output, *_sizes(y, initial)
    _launch(_gates_forward, initial.numel(), *arguments, bias is not None, output_gate)
    return c, output


def gates_backward(
    grad: Tensor, grad_last: Tensor, y: Tensor, bias: Tensor | None, c: Tensor, initial: Tensor, output_gate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `awdlm.eager.gates_backward`."""
    grad_y, grad_initial = torch.empty_like(y), torch.empty_like(initial)
    states = c, initial, grad_y, grad_initial, *_sizes(y, initial)
    arguments = grad, grad_last, y, y if bias is None else bias, *states
    _launch(_gates_backward, initial.numel(), *arguments, bias is not None, output_gate)
    grad_bias = initial.new_empty(0) if bias is None else grad_y.sum((0, 1), dtype=initial.dtype)
    return grad_y, grad_bias, grad_initial


def _sizes(like: Tensor, initial: Tensor) -> tuple[int, int, int]:
    """The steps, columns and units of a recurrence."""
    return len(like), initial.numel(), initial.shape[1]


def _launch(function: Any, columns: int, *arguments: Tensor | int) -> None:
    if triton is None:
        raise ImportError("Triton is not installed")
    if columns:
        with torch.cuda.device_of(arguments[0]):
            # Fused multiply-adds by name: leaving it open is a warning in some versions.
            function[(triton.cdiv(columns, BLOCK),)](*arguments, BLOCK, enable_fp_fusion=True)
