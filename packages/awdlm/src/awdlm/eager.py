"""The operators of the QRNN's recurrence on whole tensors and without autograd: the readable ones.

The C++ in `native` and the Triton kernels in `triton_kernels` have the same operators under the same names, fused.

Shapes: T time steps, B rows, H units. ``f``, ``z``, ``h`` and their gradients are ``[T, B, H]`` of one floating type;
``y`` ``[T, B, 2H or 3H]`` holds what z, f (and o) are before bias and activation. States and what leads to them,
``initial`` ``[B, H]``, ``c`` ``[T, B, H]``, their gradients and ``bias`` ``[2H or 3H]``, which may be None, are of the
type to compute in (`awdlm.kernels.compute_dtype`).
"""

import torch
from torch import Tensor


def forget_mult_forward(f: Tensor, z: Tensor, initial: Tensor) -> Tensor:
    """``h_t = f_t * z_t + (1 - f_t) * h_{t-1}``, where ``initial`` is the state before the first step."""
    dtype = initial.dtype
    h, kept = f.to(dtype) * z.to(dtype), 1 - f.to(dtype)
    before = initial
    for now, share in zip(h.unbind(), kept.unbind(), strict=True):
        before = now.addcmul_(share, before)
    return h.to(f.dtype)


def forget_mult_backward(
    grad: Tensor, f: Tensor, z: Tensor, h: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient by h to those by f, z and ``initial``."""
    dtype = initial.dtype
    kept = 1 - f.to(dtype)
    total, carry = _through_time(grad.to(dtype, copy=True), kept, torch.zeros_like(initial))
    grad_f = z.to(dtype, copy=True)
    grad_f[:1] -= initial
    grad_f[1:] -= h[:-1]
    return grad_f.mul_(total).to(f.dtype), kept.neg_().add_(1).mul_(total).to(f.dtype), carry


def gates_forward(y: Tensor, bias: Tensor | None, initial: Tensor, output_gate: bool) -> tuple[Tensor, Tensor]:
    """States c and outputs o * c (an empty tensor without output gate) from gates before bias and activation.

    ``z = tanh(y_z)``, ``f = sigmoid(y_f)``, ``o = sigmoid(y_o)``, ``c_t = f_t * z_t + (1 - f_t) * c_{t-1}``. The output
    is of the type of ``y``.
    """
    z, f, o = _activations(y, bias, initial, output_gate)
    c = forget_mult_forward(f, z, initial)
    return c, y.new_empty(0) if o is None else o.mul_(c).to(y.dtype)


def gates_backward(
    grad: Tensor, grad_last: Tensor, y: Tensor, bias: Tensor | None, c: Tensor, initial: Tensor, output_gate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradients by the output (in y's type) and by the last state to those by y, bias and ``initial``.

    Without bias its gradient is empty.
    """
    z, f, o = _activations(y, bias, initial, output_gate)
    grad = grad.to(initial.dtype)
    by_c = grad.clone() if o is None else grad * o
    total, carry = _through_time(by_c, 1 - f, grad_last)
    grad_z = total * f
    grad_f = torch.cat([z[:1] - initial, z[1:] - c[:-1]]).mul_(grad_z).mul_(1 - f)
    parts = [grad_z.mul_(1 - z * z), grad_f]
    if o is not None:
        parts.append((grad * c).mul_(o).mul_(1 - o))
    grad_y = torch.cat(parts, dim=2)
    grad_bias = initial.new_empty(0) if bias is None else grad_y.sum((0, 1))
    return grad_y.to(y.dtype), grad_bias, carry


def _activations(
    y: Tensor, bias: Tensor | None, initial: Tensor, output_gate: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    y = y.to(initial.dtype)
    z, f, *o = (y if bias is None else y + bias).chunk(3 if output_gate else 2, dim=2)
    return z.tanh(), f.sigmoid(), o[0].sigmoid() if o else None


def _through_time(grad: Tensor, kept: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """The whole gradient by each state, in place of its own part, and the gradient by the first state.

    ``kept`` is how much of a state stays in the next, ``carry`` the gradient by the last state besides its own part.
    """
    for now, share in zip(reversed(grad.unbind()), reversed(kept.unbind()), strict=True):
        carry = now.add_(carry) * share
    return grad, carry
