"""An ON-LSTM layer over whole sequences, with its own gradient; the equations are in `selfish.onlstm_cell`.

The inputs' part of the gates is one product for all time steps, and so is every gradient by a weight; only the
recurrent product and what follows from it go step by step.

Shapes: T time steps, B batch, I inputs, H units, N chunks.
"""

from typing import Any, NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfish.kernels import operators
from selfish.products import (
    bias_sum,
    expect,
    expect_inputs,
    input_gradient,
    project,
    step_product,
    weight_gradient,
)


class ONLSTMSteps(NamedTuple):
    """Outputs ``[T, B, H]``, h and c after the last step ``[B, H]``, and the distances of each step ``[T, B]``.

    The distances (of the forget gate and of the input gate) have no gradient.
    """

    output: Tensor
    h: Tensor
    c: Tensor
    forget_distance: Tensor
    input_distance: Tensor


@opaque
def onlstm_sequence(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> ONLSTMSteps:
    """All time steps of a layer. Under autocast, products are in its type; gates and states are of the weights' type.

    Args:
        x: ``[T, B, I]``.
        h0, c0: ``[B, H]``, the state before the first step.
        weight_ih, weight_hh, bias_ih, bias_hh: As of `selfish.onlstm_cell.onlstm_cell`.

    Raises:
        RuntimeError: Shapes do not fit, or there is no time step.
    """
    expect_inputs(x, weight_ih.shape[1])
    batch, (width, units) = x.shape[1], weight_hh.shape
    chunks = (width - 4 * units) // 2
    if chunks < 1 or width != 4 * units + 2 * chunks or units % chunks:
        raise RuntimeError(f"Expected weight_hh [2N + 4H, H] with N a divisor of H, got {list(weight_hh.shape)}")
    expect("weight_ih", weight_ih, width, x.shape[2])
    expect("h0", h0, batch, units)
    expect("c0", c0, batch, units)
    expect("bias_ih", bias_ih, width)
    expect("bias_hh", bias_hh, width)
    dtype, wide = autocast_dtype(x.device), weight_ih.dtype
    with torch.autocast(x.device.type, enabled=False):
        output, h, c, sums = _Sequence.apply(  # type: ignore[no-untyped-call]
            dtype, x.to(wide), h0.to(wide), c0.to(wide), weight_ih, weight_hh, bias_ih, bias_hh
        )
    return ONLSTMSteps(output, h, c, 1 - sums[:, 1] / chunks, sums[:, 0] / chunks)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        dtype: torch.dtype | None,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h0, c0 = h0.contiguous(), c0.contiguous()
        gates = project(x, weight_ih, bias_sum(bias_ih, bias_hh), dtype)
        output, cells, sums = _forward(gates, h0, c0, weight_hh, dtype)
        ctx.dtype = dtype
        ctx.save_for_backward(x, h0, c0, weight_ih, weight_hh, gates, output, cells)
        ctx.mark_non_differentiable(sums)
        return output, output[-1].clone(), cells[-1].clone(), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_h: Tensor, grad_c: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, c0, weight_ih, weight_hh, gates, output, cells = ctx.saved_tensors
        _, need_x, _, _, need_ih, need_hh, need_bias_ih, need_bias_hh = ctx.needs_input_grad
        dtype = ctx.dtype
        with torch.autocast(x.device.type, enabled=False):
            by_gates, by_h0, by_c0 = _backward(grad, grad_h, grad_c, gates, c0, cells, weight_hh, dtype)
            by_x = input_gradient(by_gates, weight_ih, dtype) if need_x else None
            by_ih = weight_gradient(by_gates, x, dtype) if need_ih else None
            by_hh = weight_gradient(by_gates, torch.cat([h0[None], output[:-1]]), dtype) if need_hh else None
            by_bias = by_gates.sum((0, 1)) if need_bias_ih or need_bias_hh else None
        by_biases = (by_bias if need_bias_ih else None, by_bias if need_bias_hh else None)
        return None, by_x, by_h0, by_c0, by_ih, by_hh, *by_biases


def _forward(
    gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """From the inputs' part of the gates, which become the activated ones, to h and c of each step.

    The third result are the sums of the master gates, input and forget, ``[T, 2, B]``.
    """
    steps, batch, units = len(gates), *h.shape
    output, cells = (gates.new_empty(steps, batch, units) for _ in range(2))
    sums, step = gates.new_empty(steps, 2, batch), operators(gates)
    product = step_product(weight, batch, steps, dtype)
    for t in range(steps):
        step.onlstm_forward(product(h), gates[t], c, cells[t], output[t], sums[t])
        h, c = output[t], cells[t]
    return output, cells, sums


def _backward(
    grad: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    gates: Tensor,
    c0: Tensor,
    cells: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by the gates before activation ``[T, B, 2N + 4H]`` and by the first h and c."""
    by_gates, step = torch.empty_like(gates), operators(gates)
    grad_h, grad_c = (part.clone(memory_format=torch.contiguous_format) for part in (grad_h, grad_c))
    product = step_product(weight.t(), len(c0), len(gates), dtype)
    for t in reversed(range(len(gates))):
        before = cells[t - 1] if t else c0
        step.onlstm_backward(grad_h + grad[t], grad_c, gates[t], before, cells[t], by_gates[t])
        grad_h = product(by_gates[t])
    return by_gates, grad_h, grad_c
