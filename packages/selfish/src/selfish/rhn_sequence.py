"""A recurrent highway layer over whole sequences, with its own gradient; the equations are in `selfish.rhn_cell`.

The inputs' part of the gates is one product for all time steps, and so is every gradient by a weight; the recurrent
products and what follows from them go highway step by highway step.

Shapes: T time steps, B batch, I inputs, H units, D recurrence depth, K blocks of gates (2 or 3).
"""

from collections.abc import Sequence
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

Optional = Tensor | None


@opaque
def rhn_sequence(
    x: Tensor,
    s0: Tensor,
    weight_ih: Tensor,
    bias_ih: Tensor | None,
    weights_hh: Sequence[Tensor],
    biases_hh: Sequence[Tensor | None],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All time steps of a layer. Under autocast, products are in its type; gates and states are of the weights' type.

    Args:
        x: ``[T, B, I]``.
        s0: ``[B, H]``, the state before the first step.
        weight_ih, bias_ih, weights_hh, biases_hh, mask: As of `selfish.rhn_cell.rhn_cell`; the mask has no gradient.

    Returns:
        The states ``[T, B, H]``, and the last one, ``[B, H]``.

    Raises:
        RuntimeError: Shapes do not fit, or there is no time step.
    """
    expect_inputs(x, weight_ih.shape[1])
    units = weights_hh[0].shape[1]
    if len(weight_ih) not in (2 * units, 3 * units):
        raise RuntimeError(f"Expected weight_ih [2H, I] or [3H, I] with H = {units}, got {list(weight_ih.shape)}")
    expect("hidden size", s0, x.shape[1], units)
    expect("mask", mask, x.shape[1], units)
    for weight, bias in zip(weights_hh, biases_hh, strict=True):
        expect("weight_hh", weight, len(weight_ih), units)
        expect("bias_hh", bias, len(weight_ih))
    dtype, wide = autocast_dtype(x.device), weight_ih.dtype
    with torch.autocast(x.device.type, enabled=False):
        results: tuple[Tensor, Tensor] = _Sequence.apply(  # type: ignore[no-untyped-call]
            dtype, x.to(wide), s0.to(wide), mask, weight_ih, bias_ih, *weights_hh, *biases_hh
        )
    return results


class _Steps(NamedTuple):
    """What the loop forward leaves."""

    gates: Tensor  # activated, [D, T, B, K H]
    inner: Tensor  # the states after each highway step but the last of a time step, [D - 1, T, B, H]
    output: Tensor  # those after the last, [T, B, H]

    def before(self, depth: int, s0: Tensor) -> list[Tensor]:
        """The states that the highway steps of a depth begin with."""
        return list(self.inner[depth - 1]) if depth else [s0, *self.output[:-1]]


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        dtype: torch.dtype | None,
        x: Tensor,
        s0: Tensor,
        mask: Optional,
        weight_ih: Tensor,
        bias_ih: Optional,
        *recurrent: Optional,
    ) -> tuple[Tensor, Tensor]:
        weights, biases = _halves(recurrent)
        s0 = s0.contiguous()
        inputs = project(x, weight_ih, bias_sum(bias_ih, biases[0]), dtype)
        steps = _forward(inputs, s0, mask, weights, biases, dtype)
        ctx.dtype, ctx.depth = dtype, len(weights)
        ctx.save_for_backward(x, s0, mask, weight_ih, *weights, *steps)
        return steps.output, steps.output[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Optional, ...]:
        x, s0, mask, weight_ih, *rest = ctx.saved_tensors
        weights, steps, dtype = rest[: ctx.depth], _Steps(*rest[ctx.depth :]), ctx.dtype
        with torch.autocast(x.device.type, enabled=False):
            by_gates, by_s0 = _backward(grad, grad_last, steps, s0, mask, weights, dtype)
            _, need_x, _, _, need_ih, need_bias, *need = ctx.needs_input_grad
            need_weights, need_biases = need[: ctx.depth], need[ctx.depth :]
            by_x = input_gradient(by_gates[0], weight_ih, dtype) if need_x else None
            by_ih = weight_gradient(by_gates[0], x, dtype) if need_ih else None
            by_bias = by_gates[0].sum((0, 1)) if need_bias else None
            by_weights: list[Optional] = []
            for depth, needed in enumerate(need_weights):
                operand = torch.stack(steps.before(depth, s0)) if needed else s0
                operand = operand if mask is None else operand * mask
                by_weights.append(weight_gradient(by_gates[depth], operand, dtype) if needed else None)
            by_biases = [g.sum((0, 1)) if needed else None for g, needed in zip(by_gates, need_biases, strict=True)]
        return None, by_x, by_s0, None, by_ih, by_bias, *by_weights, *by_biases


def _halves(recurrent: tuple[Optional, ...]) -> tuple[list[Tensor], list[Optional]]:
    depth = len(recurrent) // 2
    return [weight for weight in recurrent[:depth] if weight is not None], list(recurrent[depth:])


def _forward(
    inputs: Tensor,
    s: Tensor,
    mask: Optional,
    weights: Sequence[Tensor],
    biases: Sequence[Optional],
    dtype: torch.dtype | None,
) -> _Steps:
    """All highway steps, from the inputs' part of the first depth's gates ``[T, B, K H]``."""
    steps, batch, width = inputs.shape
    units, depth, step = s.shape[1], len(weights), operators(s)
    kept = _Steps(
        inputs.new_empty(depth, steps, batch, width),
        inputs.new_empty(depth - 1, steps, batch, units),
        inputs.new_empty(steps, batch, units),
    )
    products = [step_product(weight, batch, steps, dtype) for weight in weights]
    zeros = inputs.new_zeros(width)
    addends = [zeros if bias is None else bias.contiguous() for bias in biases]
    for t in range(steps):
        for d in range(depth):
            after = kept.inner[d, t] if d < depth - 1 else kept.output[t]
            product = products[d](s if mask is None else s * mask)
            step.rhn_forward(product, addends[d] if d else inputs[t], s, kept.gates[d, t], after)
            s = after
    return kept


def _backward(
    grad: Tensor,
    grad_last: Tensor,
    kept: _Steps,
    s0: Tensor,
    mask: Optional,
    weights: Sequence[Tensor],
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """The gradients by the gates before activation ``[D, T, B, K H]`` and by the first state."""
    depth, steps, batch, _ = kept.gates.shape
    by_gates, step = torch.empty_like(kept.gates), operators(s0)
    products = [step_product(weight.t(), batch, steps, dtype) for weight in weights]
    before = [kept.before(d, s0) for d in range(depth)]
    by_s = grad_last.clone(memory_format=torch.contiguous_format)
    for t in reversed(range(steps)):
        by_s += grad[t]
        for d in reversed(range(depth)):
            step.rhn_backward(by_s, kept.gates[d, t], before[d][t], by_gates[d, t])
            product = products[d](by_gates[d, t])
            if mask is None:
                by_s += product
            else:
                by_s.addcmul_(product, mask)
    return by_gates, by_s
