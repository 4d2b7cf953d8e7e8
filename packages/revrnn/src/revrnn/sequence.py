"""A stack of reversible layers as one autograd function over whole sequences.

Shapes: T time steps, B batch, I inputs, H units of the last layer, G units of one group of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from rnncore.errors import UserError
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable

from revrnn.buffer import InformationBuffer
from revrnn.fixed_point import HIDDEN_BITS, STATE_LIMIT, to_fixed, to_float
from revrnn.forget import RANGE_MESSAGE
from revrnn.window import Layer, Weights, Window, spans


@dataclass(frozen=True, kw_only=True)
class Stack:
    """How a stack of layers runs.

    ``kind``: ``"gru"`` or ``"lstm"``; ``reversible``: states are rebuilt for the gradient instead of stored;
    ``buffered``: information buffers are kept (reversal implies it); ``slices``: how many first units of the last
    layer's two hidden groups are saved at each step instead of buffered; ``masks``: one ``[1, B, H]`` or None for each
    layer.
    """

    kind: str
    max_forget: float
    reversible: bool = False
    buffered: bool = False
    slices: tuple[int, int] = (0, 0)
    masks: Sequence[Tensor | None] = ()
    dtype: torch.dtype | None = None
    count_bits: bool = False

    def window(
        self,
        weights: Sequence[Weights],
        state: Sequence[Sequence[Tensor]],
        active: Tensor | None,
        buffers: Sequence[InformationBuffer | None] = (),
    ) -> Window:
        """Begins a window from int32 groups ``[B, G]`` of each layer; ``buffers``, of each layer, are gone on with."""
        masks = self.masks or [None] * len(weights)
        buffers = buffers or [None] * len(weights)
        layers = [
            Layer(
                self.kind,
                layer.map(torch.Tensor.detach),
                groups,
                max_forget=self.max_forget,
                buffered=self.buffered or self.reversible,
                slices=self.slices if layer is weights[-1] else (0, 0),
                buffer=buffer,
                mask=mask,
                dtype=self.dtype,
            )
            for layer, groups, mask, buffer in zip(weights, state, masks, buffers, strict=True)
        ]
        return Window(layers, active, self.count_bits)


class _Sequence(torch.autograd.Function):
    """Inputs: the input, then each layer's state groups (real numbers), then each layer's weights, all flattened."""

    @staticmethod
    def forward(
        ctx: Any, stack: Stack, box: list[Any], active: Tensor | None, keep: bool, x: Tensor, *flat: Tensor | None
    ) -> tuple[Tensor, ...]:
        state, buffers = box
        layers, groups = len(state), len(state[0])
        tensors = flat[layers * groups :]
        weights = [Weights(*cast(Any, tensors[3 * k : 3 * k + 3])) for k in range(layers)]
        window = stack.window(weights, state, active, buffers)
        outputs = torch.cat([window.forward(span, x[slice(*span)], keep) for span in spans(len(x))])
        window.check()
        last = [group for layer in window.layers for group in layer.state]
        ctx.window, ctx.reversible = window, stack.reversible
        ctx.save_for_backward(x, *flat)  # the weights too, so that a change of theirs before backward is seen
        box[:] = [[[group.clone() for group in layer.state] for layer in window.layers], window]
        return outputs, *(to_float(group, x.dtype) for group in last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, *_), window = ctx.saved_tensors, ctx.window
        if window is None:
            raise RuntimeError("the states of a reversible sequence were rebuilt and used up; run forward again")
        ctx.window = None
        totals = [total for layer in window.layers for total in layer.grad_state]
        for total, grad in zip(totals, grads[1:], strict=True):
            total += grad
        grad_x = torch.empty_like(x)
        for span in reversed(spans(len(x))):
            rows = slice(*span)
            if ctx.reversible:
                window.reverse(span, x[rows])
            grad_x[rows] = window.backward(grads[0][rows])
        return None, None, None, None, grad_x, *totals, *(grad for layer in window.layers for grad in layer.grads)


@opaque
def run(
    stack: Stack,
    x: Tensor,
    state: Sequence[Sequence[Tensor]],
    weights: Sequence[Weights],
    active: Tensor | None = None,
    buffers: Sequence[InformationBuffer | None] = (),
) -> tuple[Tensor, list[list[Tensor]], list[list[Tensor]], Window]:
    """Runs a stack of layers over sequences.

    Args:
        stack: How.
        x: ``[T, B, I]``, float32 or float64.
        state: Each layer's groups ``[B, G]``: int32 fixed-point numbers, or real numbers, which are rounded and
            through which the gradient flows.
        weights: Each layer's.
        active: bool ``[T, B]``, false where a sequence has ended: its state stays.
        buffers: Each layer's, to be gone on with; new ones when absent.

    Returns:
        The last layer's outputs ``[T, B, H]``; the last state as real numbers, with gradient, and as int32 numbers,
        exact; and the window, for its bits.
    """
    fixed = [[g if g.dtype == torch.int32 else _to_fixed_in_range(g.detach()) for g in groups] for groups in state]
    real = [to_float(g, x.dtype) if g.dtype == torch.int32 else g for groups in state for g in groups]
    box: list[Any] = [fixed, buffers]
    flat = [weight for layer in weights for weight in layer]
    keep = torch.is_grad_enabled() and not stack.reversible
    outputs, *last = _Sequence.apply(stack, box, active, keep, x, *real, *flat)  # type: ignore[no-untyped-call]
    count = len(state[0])
    values = [last[k : k + count] for k in range(0, len(last), count)]
    return outputs, values, box[0], box[1]


def _to_fixed_in_range(x: Tensor) -> Tensor:
    if not bool((x.abs() * 2**HIDDEN_BITS < STATE_LIMIT).all()):
        raise UserError(RANGE_MESSAGE)
    return to_fixed(x)
