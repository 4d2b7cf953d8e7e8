"""The pointwise work of one time step, on preallocated tensors and without autograd: the readable operators.

The C++ in `native` has the same operators under the same names, fused, for the CPU. Integers are the same in both;
sigmoid and tanh may differ in the last place, so a state must be rebuilt by the operators that computed it.

Arguments that several operators share: ``product``, what the recurrent weights give, and ``inputs``, the inputs' part,
of the same gates; ``h`` (or ``c``) int32 ``[B, G]``, changed in place; ``word``, the buffer's, int64 ``[B, G - start]``
or None; ``start``, how many first units have no buffer; ``active``, bool ``[B]`` or None, the rows that change;
``value`` ``[B, G]``, receives h as real numbers; ``max_forget``, m in z = m s + (1 - m).

Forward operators return the largest word (None: not looked up) and the largest magnitude of a unit.
"""

import torch
from torch import Tensor

from revrnn.fixed_point import FORGET_BITS, forget_to_fixed, multiply, scaled, to_float, unmultiply

Reach = tuple[None, Tensor]


def gru_gates(product: Tensor, inputs: Tensor, other: Tensor, zr: Tensor, reset: Tensor) -> None:
    """``zr [B, 2G] <- sigmoid(product + inputs)``, z not limited yet, and ``reset <- r * other``."""
    torch.add(product, inputs, out=zr).sigmoid_()
    torch.mul(zr[:, other.shape[1] :], other, out=reset)


def gru_forward(
    product: Tensor,
    inputs: Tensor,
    zr: Tensor,
    g: Tensor,
    max_forget: float,
    h: Tensor,
    word: Tensor | None,
    start: int,
    active: Tensor | None,
    value: Tensor,
) -> Reach:
    """``g <- tanh(product + inputs)``, then ``h <- z * h + (1 - z) * g``."""
    z = _limited(zr[:, : h.shape[1]], max_forget)
    torch.add(product, inputs, out=g).tanh_()
    return _advance(h, z, (1 - z) * g, word, start, active, value)


def gru_reverse(
    product: Tensor,
    inputs: Tensor,
    zr: Tensor,
    g: Tensor,
    max_forget: float,
    h: Tensor,
    word: Tensor,
    start: int,
    active: Tensor | None,
    value: Tensor,
) -> None:
    """Undoes `gru_forward`; units below ``start`` hold their stored values already."""
    z = _limited(zr[:, : h.shape[1]], max_forget)
    torch.add(product, inputs, out=g).tanh_()
    _retreat(h, z, (1 - z) * g, word, start, active, value)


def gru_gradient_update(
    grad: Tensor,
    zr: Tensor,
    g: Tensor,
    before: Tensor,
    max_forget: float,
    active: Tensor | None,
    grad_zr: Tensor,
    grad_g: Tensor,
) -> None:
    """From ``grad`` by a group after its update: by z and g before activation, and in place by the group before it."""
    s = zr[:, : g.shape[1]]
    z = _limited(s, max_forget)
    by_z = grad * ((before - g) * (s - s * s) * max_forget)
    by_g = grad * ((1 - z) * (1 - g * g))
    grad_zr[:, : g.shape[1]] = _or_zero(active, by_z)
    grad_g.copy_(_or_zero(active, by_g))
    grad.mul_(_kept(z, active))


def gru_gradient_reset(grad_reset: Tensor, zr: Tensor, other: Tensor, grad_zr: Tensor, grad_other: Tensor) -> None:
    """From the gradient by ``r * other``: by r before activation, and added to the gradient by ``other``."""
    r = zr[:, other.shape[1] :]
    grad_zr[:, other.shape[1] :] = grad_reset * (other * (r - r * r))
    grad_other.addcmul_(grad_reset, r)


def lstm_gates(product: Tensor, inputs: Tensor, gates: Tensor) -> None:
    """``gates [B, 5G] <- i, f, g, o, p`` of ``product + inputs``; f and p not limited yet."""
    torch.add(product, inputs, out=gates)
    units = gates.shape[1] // 5
    gates[:, : 2 * units].sigmoid_()
    gates[:, 2 * units : 3 * units].tanh_()
    gates[:, 3 * units :].sigmoid_()


def lstm_cell_forward(
    gates: Tensor, max_forget: float, c: Tensor, word: Tensor | None, active: Tensor | None, value: Tensor
) -> Reach:
    """``c <- f * c + i * g``."""
    i, f, g, _, _ = gates.chunk(5, dim=1)
    return _advance(c, _limited(f, max_forget), i * g, word, 0, active, value)


def lstm_hidden_forward(
    gates: Tensor,
    cell: Tensor,
    max_forget: float,
    h: Tensor,
    word: Tensor | None,
    start: int,
    active: Tensor | None,
    value: Tensor,
) -> Reach:
    """``h <- p * h + o * tanh(cell)``, where ``cell`` is the new c as real numbers."""
    _, _, _, o, p = gates.chunk(5, dim=1)
    return _advance(h, _limited(p, max_forget), o * torch.tanh(cell), word, start, active, value)


def lstm_hidden_reverse(
    gates: Tensor,
    cell: Tensor,
    max_forget: float,
    h: Tensor,
    word: Tensor,
    start: int,
    active: Tensor | None,
    value: Tensor,
) -> None:
    """Undoes `lstm_hidden_forward`; units below ``start`` hold their stored values already."""
    _, _, _, o, p = gates.chunk(5, dim=1)
    _retreat(h, _limited(p, max_forget), o * torch.tanh(cell), word, start, active, value)


def lstm_cell_reverse(
    gates: Tensor, max_forget: float, c: Tensor, word: Tensor, active: Tensor | None, value: Tensor
) -> None:
    """Undoes `lstm_cell_forward`."""
    i, f, g, _, _ = gates.chunk(5, dim=1)
    _retreat(c, _limited(f, max_forget), i * g, word, 0, active, value)


def lstm_gradient(
    grad_h: Tensor,
    grad_c: Tensor,
    gates: Tensor,
    h_before: Tensor,
    c_before: Tensor,
    c_after: Tensor,
    max_forget: float,
    active: Tensor | None,
    grad_gates: Tensor,
) -> None:
    """From the gradients by h and c after their update: by the gates before activation, and in place by h and c."""
    i, f, g, o, p = gates.chunk(5, dim=1)
    tanh_c, m = torch.tanh(c_after), max_forget
    by_c = grad_c + grad_h * (o * (1 - tanh_c * tanh_c))
    parts = [
        by_c * (g * (i - i * i)),
        by_c * (c_before * (f - f * f) * m),
        by_c * (i * (1 - g * g)),
        grad_h * (tanh_c * (o - o * o)),
        grad_h * (h_before * (p - p * p) * m),
    ]
    grad_gates.copy_(_or_zero(active, torch.cat(parts, dim=1)))
    by_c = by_c if active is None else torch.where(active[:, None], by_c, grad_c)
    grad_c.copy_(by_c * _kept(_limited(f, m), active))
    grad_h.mul_(_kept(_limited(p, m), active))


def _limited(s: Tensor, max_forget: float) -> Tensor:
    return s * max_forget + (1 - max_forget)


def _kept(z: Tensor, active: Tensor | None) -> Tensor:
    """The derivative of a unit by its last value: the rounded gate, 1 in idle rows."""
    kept = forget_to_fixed(z).to(z.dtype) * 2.0**-FORGET_BITS
    return kept if active is None else kept.masked_fill(~active[:, None], 1)


def _or_zero(active: Tensor | None, grad: Tensor) -> Tensor:
    return grad if active is None else grad.masked_fill(~active[:, None], 0)


def _advance(
    h: Tensor, z: Tensor, u: Tensor, word: Tensor | None, start: int, active: Tensor | None, value: Tensor
) -> Reach:
    gate = forget_to_fixed(z)
    state, _ = multiply(h, gate, None)
    if word is not None:
        state[:, start:], grown = multiply(h[:, start:], gate[:, start:], word)
        assert grown is not None
        word.copy_(grown if active is None else torch.where(active[:, None], grown, word))
    state += scaled(u + (z - z))  # z - z is 0, or NaN where z is, which takes the unit out of range
    if active is not None:
        state = torch.where(active[:, None], state, h.to(torch.int64))
    value.copy_(to_float(h.copy_(state), value.dtype))
    return None, state.abs().amax() if state.numel() else state.new_zeros(())


def _retreat(h: Tensor, z: Tensor, u: Tensor, word: Tensor, start: int, active: Tensor | None, value: Tensor) -> None:
    gate = forget_to_fixed(z)[:, start:]
    before, shrunk = unmultiply((h.to(torch.int64) - scaled(u + (z - z)))[:, start:], gate, word)
    if active is not None:
        before = torch.where(active[:, None], before, h[:, start:])
        shrunk = torch.where(active[:, None], shrunk, word)
    word.copy_(shrunk)
    h[:, start:] = before
    value.copy_(to_float(h, value.dtype))
