"""The recurrence of the QRNN, "forget mult" (f-pooling of Bradbury et al. 2017, arXiv 1611.01576, section 2.1).

``h_t = f_t * z_t + (1 - f_t) * h_{t-1}``: f is the share of the new value, as in the AWD-QRNN language model; the
paper's equation 3 has 1 - f in its place.

Shapes: T time steps, B batch, H units.
"""

from typing import Any

import torch
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable

from awdlm.kernels import compute_dtype, operators


@opaque
def forget_mult(f: Tensor, z: Tensor, initial: Tensor | None = None) -> Tensor:
    """All states of the recurrence, by a fused kernel with its own gradient.

    Args:
        f: ``[T, B, H]``, the share of the new value in each state, 0 to 1. Rows may lie apart, as those of a chunk do.
        z: ``[T, B, H]``, the new values, of the type of f.
        initial: ``[B, H]``, the state before the first step; zeros when absent.

    Returns:
        The states h, ``[T, B, H]``, in the type of f. The 16-bit types are computed in float32 and rounded at the end.

    Raises:
        RuntimeError: Shapes or types do not fit.
    """
    if f.dim() != 3 or z.shape != f.shape or z.dtype != f.dtype:
        shapes = f"{list(f.shape)} of {f.dtype} and {list(z.shape)} of {z.dtype}"
        raise RuntimeError(f"Expected f and z [T, B, H] of one type, got {shapes}")
    states: Tensor = _ForgetMult.apply(f, z, first_state(f, initial, f.shape[2]))  # type: ignore[no-untyped-call]
    return states


def forget_mult_loop(f: Tensor, z: Tensor, initial: Tensor | None = None) -> Tensor:
    """As `forget_mult`, step by step under autograd, in the type that f has: what the kernels are tested against."""
    state = f.new_zeros(f.shape[1:]) if initial is None else initial
    states = []
    for share, value in zip(f, z, strict=True):
        state = share * value + (1 - share) * state
        states.append(state)
    return torch.stack(states)


def first_state(like: Tensor, initial: Tensor | None, units: int) -> Tensor:
    """``initial`` in the type to compute in, or zeros, for gates ``like`` ``[T, B, .]``; RuntimeError if misshapen."""
    shape, dtype = (like.shape[1], units), compute_dtype(like.dtype)
    if initial is None:
        return like.new_zeros(shape, dtype=dtype)
    if initial.shape != shape:
        raise RuntimeError(f"Expected hidden size {shape}, got {list(initial.shape)}")
    return initial.to(dtype).contiguous()


class _ForgetMult(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, z: Tensor, initial: Tensor) -> Tensor:
        f, z = (part if part.stride(2) == 1 else part.contiguous() for part in (f, z))
        h: Tensor = operators(f.device).forget_mult_forward(f, z, initial)
        ctx.save_for_backward(f, z, h, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, z, h, initial = ctx.saved_tensors
        grads: tuple[Tensor, Tensor, Tensor] = operators(f.device).forget_mult_backward(
            grad.contiguous(), f, z, h, initial
        )
        return grads
