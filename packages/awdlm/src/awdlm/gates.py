"""The gates of a QRNN layer around its recurrence (Bradbury et al. 2017, arXiv 1611.01576, section 2.1).

Shapes: T time steps, B batch, H units, K = 3 parts of the gates z, f, o, or 2 without output gate.
"""

from collections.abc import Callable
from typing import Any

import torch
from rnncore.opaque import opaque
from torch import Tensor
from torch.autograd.function import once_differentiable

from awdlm.forget_mult import first_state, forget_mult
from awdlm.kernels import operators


@opaque
def qrnn_gates(
    y: Tensor, initial: Tensor | None = None, *, bias: Tensor | None = None, output_gate: bool = True
) -> tuple[Tensor, Tensor]:
    """What a QRNN layer computes after its linear map, in one fused kernel with its own gradient.

    ``z, f, o = tanh(y_z), sigmoid(y_f), sigmoid(y_o)``, ``c_t = f_t * z_t + (1 - f_t) * c_{t-1}``, and ``o_t * c_t`` is
    the output. Only y and c are kept for the gradient.

    Args:
        y: ``[T, B, K H]``. The 16-bit types are computed in float32.
        initial: ``[B, H]``, the state c before the first step; zeros when absent.
        bias: ``[K H]``, added to y; in float32 to 16-bit ones.
        output_gate: Whether y has the part o; without it the output is c.

    Returns:
        The output ``[T, B, H]`` in the type of y, and the last state c ``[B, H]`` (float32 for 16-bit y).

    Raises:
        RuntimeError: The shapes do not fit, or there is no time step.
    """
    initial = first_state(y, initial, check_gates(y, output_gate))
    bias = _checked_bias(y, bias, initial.dtype)
    output, last = _Gates.apply(y, bias, initial, output_gate)  # type: ignore[no-untyped-call]
    return output, last


def compose_gates(
    y: Tensor,
    initial: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    output_gate: bool = True,
    zoneout: Callable[[Tensor], Tensor] | None = None,
    recurrence: Callable[[Tensor, Tensor, Tensor], Tensor] = forget_mult,
) -> tuple[Tensor, Tensor]:
    """As `qrnn_gates`, by the paper's equations one after the other.

    Args:
        y, initial, bias, output_gate: As of `qrnn_gates`.
        zoneout: What becomes of f, ``[T, B, H]``, before the recurrence.
        recurrence: `awdlm.forget_mult.forget_mult`, or its loop, for tests.
    """
    initial = first_state(y, initial, check_gates(y, output_gate))
    bias, wide = _checked_bias(y, bias, initial.dtype), y.to(initial.dtype)
    z, f, *o = (wide if bias is None else wide + bias).chunk(3 if output_gate else 2, dim=2)
    f = torch.sigmoid(f)
    c = recurrence(f if zoneout is None else zoneout(f), torch.tanh(z), initial)
    output = torch.sigmoid(o[0]) * c if o else c
    return output.to(y.dtype), c[-1].clone()  # not a view that would hold all of c


def check_gates(y: Tensor, output_gate: bool) -> int:
    """The number of units H that gates ``y`` have; RuntimeError for a wrong shape or an empty sequence."""
    parts = 3 if output_gate else 2
    if y.dim() != 3 or y.shape[2] % parts:
        raise RuntimeError(f"Expected gates [T, B, {parts}H], got {list(y.shape)}")
    if not y.shape[0]:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    return y.shape[2] // parts


def _checked_bias(y: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if bias is not None and bias.shape != y.shape[2:]:
        raise RuntimeError(f"Expected bias {list(y.shape[2:])}, got {list(bias.shape)}")
    return None if bias is None else bias.to(dtype).contiguous()


class _Gates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor | None, initial: Tensor, output_gate: bool) -> tuple[Tensor, Tensor]:
        y = y.contiguous()
        c, output = operators(y.device).gates_forward(y, bias, initial, output_gate)
        ctx.save_for_backward(y, bias, c, initial)
        ctx.output_gate = output_gate
        return output if output_gate else c.to(y.dtype), c[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        y, bias, c, initial = ctx.saved_tensors
        grad_y, grad_bias, grad_initial = operators(y.device).gates_backward(
            grad.contiguous(), grad_last.contiguous(), y, bias, c, initial, ctx.output_gate
        )
        return grad_y, None if bias is None else grad_bias, grad_initial, None
