"""One direction of one layer over whole sequences, with its own gradient.

The input's part of the gates is one product for all time steps, and so is every gradient by a weight; only the
recurrent product and what follows from it go step by step (`urlstm.kernels`).

Shapes: N rows of all time steps, B of the longest, I inputs, H units, K blocks.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.lstm import lstm_sequence, weight_gradient
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from urlstm import kernels
from urlstm.gates import Unit

#: Fewest units of an LSTM for which mixed precision is the faster.
NARROW_UNITS = 512


class Weights(NamedTuple):
    """Of one direction of a layer: ``ih [K H, I]``, ``hh [K H, H]``, ``bias [K H]`` of all, and a GRU's ``bias_hh``
    ``[K H]``, which goes to the recurrent product."""

    ih: Tensor
    hh: Tensor
    bias: Tensor | None
    bias_hh: Tensor | None = None


@opaque
def run(
    unit: Unit, x: Tensor, h0: Tensor, c0: Tensor | None, weights: Weights, rows: list[int], *, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs over sequences.

    Products are computed in autocast's type, all else in that of ``x``.

    Args:
        unit: Which equations; not ``torch``.
        x: ``[N, I]``, of any floating type; 16-bit ones are slow on CPU.
        h0: ``[B, H]``.
        c0: ``[B, H]``; None for a GRU.
        weights: Of the layer.
        rows: How many rows each time step has, never rising, as in a ``PackedSequence``.
        reverse: Whether it goes from the last time step to the first.

    Returns:
        The hidden states ``[N, H]``, the last hidden state and the last cell ``[B, H]`` (of a GRU empty).
    """
    setting = (unit, rows, reverse, autocast_dtype(x.device))
    cell = h0.new_empty(0) if c0 is None else c0
    with torch.autocast(x.device.type, enabled=False):
        results: tuple[Tensor, Tensor, Tensor] = _Sequence.apply(setting, x, h0, cell, *weights)  # type: ignore[no-untyped-call]
    return results


def run_lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weights: list[Tensor], rows: list[int], *, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """As `run`, by the core's LSTM with the weights of torch's; every time step has as many rows.

    With few units products are not in autocast's type: its steps would cost more than its products save.
    """
    x = x.reshape(len(rows), rows[0], x.shape[1])
    bias_ih, bias_hh = weights[2:] or (None, None)
    dtype = autocast_dtype(x.device) if h0.shape[1] >= NARROW_UNITS else None
    output, h, c = lstm_sequence(x.flip(0) if reverse else x, h0, c0, weights[0], weights[1], bias_ih, bias_hh, dtype)
    return (output.flip(0) if reverse else output).flatten(0, 1), h, c


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        setting: tuple[Unit, list[int], bool, torch.dtype | None],
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        ih: Tensor,
        hh: Tensor,
        bias: Tensor | None,
        bias_hh: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        unit, rows, reverse, dtype = setting
        gates = _linear(x, ih, bias, dtype)
        if bias_hh is None:
            bias_hh = gates.new_zeros(gates.shape[1])
        h0, c0 = h0.contiguous(), c0.contiguous()
        out, cells, h, c = kernels.forward(unit, gates, hh, dtype, bias_hh, h0, c0, rows, reverse)
        ctx.setting = setting
        ctx.save_for_backward(x, h0, c0, ih, hh, gates, cells, out)
        return out, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        unit, rows, reverse, dtype = ctx.setting
        x, h0, c0, ih, hh, gates, cells, out = ctx.saved_tensors
        gru, units = unit == "refine-gru", h0.shape[1]
        h_before = _before(out, h0, rows, reverse)
        by_gates, by_h0, by_c0 = kernels.backward(
            unit,
            grad.contiguous(),
            grad_h.contiguous(),
            grad_c.contiguous(),
            gates,
            cells,
            h_before if gru else _before(cells, c0, rows, reverse),
            hh,
            dtype,
            rows,
            reverse,
        )
        _, need_x, _, _, need_ih, need_hh, need_bias, need_bias_hh = ctx.needs_input_grad
        by_x = _product(by_gates, ih, dtype) if need_x else None
        by_ih = _weight_gradient(by_gates, x, dtype) if need_ih else None
        by_bias = by_gates.sum(0) if need_bias else None
        if gru:  # the candidate's part of the recurrent product went through the reset gate
            by_gates[:, 2 * units : 3 * units] *= gates[:, :units]
        by_hh = _weight_gradient(by_gates, h_before, dtype) if need_hh else None
        return None, by_x, by_h0, by_c0, by_ih, by_hh, by_bias, by_gates.sum(0) if need_bias_hh else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """``x @ weight.T + bias``, the product in a type that may be narrower, as a tensor of x's type."""
    if dtype is None:
        return F.linear(x, weight, bias)
    product = F.linear(x.to(dtype), weight.to(dtype)).to(x.dtype)
    return product if bias is None else product.add_(bias)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``a @ b`` in a type that may be narrower, as a tensor of a's type."""
    return a @ b if dtype is None else (a.to(dtype) @ b.to(dtype)).to(a.dtype)


def _weight_gradient(grad: Tensor, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`weight_gradient` in a type that may be narrower, as a tensor of grad's type."""
    return weight_gradient(grad, x) if dtype is None else weight_gradient(grad.to(dtype), x.to(dtype)).to(grad.dtype)


def _before(states: Tensor, first: Tensor, rows: list[int], reverse: bool) -> Tensor:
    """The state that each row's step began with, ``[N, H]``, from those that the steps ended with."""
    if rows[0] == rows[-1]:
        past = len(states) - rows[0]
        return torch.cat([states[rows[0] :], first] if reverse else [first, states[:past]])
    steps = torch.split(states, rows)
    if reverse:
        later = [*steps[1:], first[:0]]
        return torch.cat([torch.cat([b, first[len(b) : len(a)]]) for a, b in zip(steps, later, strict=True)])
    return torch.cat([first, *(a[: len(b)] for a, b in pairwise(steps))])
