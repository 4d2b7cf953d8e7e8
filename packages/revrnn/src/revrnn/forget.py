"""Forgetting with an information buffer, for one time step and with autograd: what the cells are made of.

Shapes: B batch, G units of one group, S of them stored by the caller.
"""

from typing import Any, NamedTuple

import torch
from rnncore.errors import UserError
from torch import Tensor
from torch.autograd.function import once_differentiable

from revrnn.buffer import InformationBuffer
from revrnn.fixed_point import (
    FORGET_BITS,
    STATE_LIMIT,
    forget_to_fixed,
    multiply,
    scaled,
    to_fixed,
    to_float,
    unmultiply,
)


class Fixed(NamedTuple):
    """Fixed-point numbers, int32 ``[B, G]``, and the real numbers they stand for, through which gradients flow."""

    bits: Tensor
    value: Tensor


def fixed(x: Tensor) -> Fixed:
    """Rounds real numbers to fixed-point ones; the gradient passes."""
    bits = to_fixed(x.detach())
    return Fixed(bits, x + (to_float(bits, x.dtype) - x).detach())


class _Exact(torch.autograd.Function):
    """Has the exact fixed-point value of ``h * z + u`` and the gradient of the real expression with z rounded."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor, h: Tensor, z: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(gate, h)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, h = ctx.saved_tensors
        return None, None, grads[0] * gate, grads[0] * h, grads[0]


def forget(
    h: Fixed, z: Tensor, u: Tensor, buffer: InformationBuffer | None, active: Tensor | None = None, slice_dim: int = 0
) -> Fixed:
    """``h * z + u``, exact: the bits that the product loses go to the buffer.

    Args:
        h: ``[B, G]``.
        z: Forget gate, ``[B, G]`` in (0, 1].
        u: What is added, ``[B, G]``.
        buffer: Takes the lost bits of the units from ``slice_dim`` on, ``[B, G - S]``; without it they are lost.
        active: bool ``[B]``; the other rows keep their value.
        slice_dim: S, the number of first units whose bits are lost because the caller stores them.

    Raises:
        UserError: A number leaves the fixed-point range.
    """
    gate = forget_to_fixed(z.detach())
    state, _ = multiply(h.bits, gate, None)
    if buffer is not None:
        buffer.make_room()
        exact, word = multiply(h.bits[:, slice_dim:], gate[:, slice_dim:], buffer.word)
        state = torch.cat([state[:, :slice_dim], exact], dim=1)
        buffer.word = _where(active, word, buffer.word)
        buffer.took()
    state = _where(active, state + scaled(u.detach()), h.bits.to(torch.int64))
    if bool((state.abs() >= STATE_LIMIT).any()):
        raise UserError(RANGE_MESSAGE)
    bits = state.to(torch.int32)
    value = _Exact.apply(to_float(bits, z.dtype), gate.to(z.dtype) * 2.0**-FORGET_BITS, h.value, z, u)  # type: ignore[no-untyped-call]
    return Fixed(bits, _where(active, value, h.value))


def unforget(
    h: Fixed, z: Tensor, u: Tensor, buffer: InformationBuffer, active: Tensor | None = None, saved: Tensor | None = None
) -> Fixed:
    """Undoes `forget`, given the same gate, addend and buffer; ``saved`` is the stored slice, int32 ``[B, S]``."""
    gate = forget_to_fixed(z)
    start = 0 if saved is None else saved.shape[1]
    product = (h.bits.to(torch.int64) - scaled(u))[:, start:]
    bits, word = unmultiply(product, gate[:, start:], buffer.word)
    buffer.word = _where(active, word, buffer.word)
    buffer.give_back()
    if saved is not None:
        bits = torch.cat([saved, bits], dim=1)
    bits = _where(active, bits, h.bits)
    return Fixed(bits, to_float(bits, z.dtype))


RANGE_MESSAGE = (
    "the hidden state left the fixed-point range (-256, 256): the window is too long for this model; "
    "use a smaller --bptt, a larger --max_forget or a smaller learning rate"
)


def _where(active: Tensor | None, then: Tensor | None, otherwise: Tensor) -> Tensor:
    assert then is not None
    return then if active is None else torch.where(active[:, None], then, otherwise)
