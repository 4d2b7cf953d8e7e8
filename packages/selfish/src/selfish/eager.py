"""The pointwise work of one step on whole tensors and without autograd: the readable operators.

The C++ in `native` has the same operators under the same names, fused, for float32 and float64 on CPU.

Shapes: B rows, H units, K blocks of gates, N chunks. All tensors are of one floating type.
"""

import torch
from rnncore.softmax import cumax_gradient
from torch import Tensor


def rhn_forward(product: Tensor, addend: Tensor, before: Tensor, gates: Tensor, after: Tensor) -> None:
    """One highway step: from ``before [B, H]`` to the activated ``gates [B, K H]`` and ``after [B, H]``.

    Of ``product + addend``, ``[B, K H]`` (the addend may be ``[K H]``): ``h = tanh(.)``, ``t = sigmoid(.)``, with K = 3
    ``c = sigmoid(.)``, else ``c = 1 - t``; ``after = h * t + before * c``.
    """
    units = before.shape[1]
    torch.add(product, addend, out=gates)
    gates[:, :units].tanh_()
    gates[:, units:].sigmoid_()
    h, t, *c = torch.split(gates, units, dim=1)
    torch.mul(before, c[0] if c else 1 - t, out=after).addcmul_(h, t)


def rhn_backward(grad: Tensor, gates: Tensor, before: Tensor, grad_gates: Tensor) -> None:
    """From the gradient by ``after`` to that by the gates before activation and, in place, by ``before``'s own term."""
    units = before.shape[1]
    h, t, *c = torch.split(gates, units, dim=1)
    to_h, to_t, *to_c = torch.split(grad_gates, units, dim=1)
    torch.mul(grad * t, 1 - h * h, out=to_h)
    torch.mul(grad * (h if c else h - before), t - t * t, out=to_t)
    for carry, to in zip(c, to_c, strict=True):
        torch.mul(grad * before, carry - carry * carry, out=to)
    grad.mul_(c[0] if c else 1 - t)


def onlstm_forward(product: Tensor, gates: Tensor, before: Tensor, c: Tensor, h: Tensor, sums: Tensor) -> None:
    """One step of an ordered-neurons LSTM.

    ``gates [B, 2N + 4H]``, the inputs' part, becomes the activated o, g, i and f after the softmaxes of the two master
    gates; ``before [B, H]``, the c before, leads to ``c`` and ``h``. ``sums [2, B]`` are those of the master gates,
    input and forget, over the chunks.
    """
    units = before.shape[1]
    gates.add_(product)
    chunks = (gates.shape[1] - 4 * units) // 2
    for master in (gates[:, :chunks], gates[:, chunks : 2 * chunks]):
        master.copy_(master.softmax(1))
    o, g, i, f = gates[:, 2 * chunks :].chunk(4, dim=1)
    g.tanh_()
    for gate in (o, i, f):
        gate.sigmoid_()
    master_input, master_forget = _masters(gates, chunks)
    torch.sum(master_input, 1, out=sums[0])
    torch.sum(master_forget, 1, out=sums[1])
    keep, write, _, _, _ = _shares(master_input, master_forget, i, f)
    torch.mul(keep, before, out=c).addcmul_(write, g)
    torch.tanh(c, out=h).mul_(o)


def onlstm_backward(
    grad_h: Tensor, grad_c: Tensor, gates: Tensor, before: Tensor, c: Tensor, grad_gates: Tensor
) -> None:
    """From the gradients by h and c to those by the gates before activation and, in place, by the c before."""
    units = c.shape[1]
    chunks = (gates.shape[1] - 4 * units) // 2
    o, g, i, f = gates[:, 2 * chunks :].chunk(4, dim=1)
    keep, write, input, forget, both = _shares(*_masters(gates, chunks), i, f)
    tanh_c = torch.tanh(c)
    grad_c.addcmul_(grad_h, o * (1 - tanh_c * tanh_c))
    by_keep, by_write = grad_c * before, grad_c * g
    by_both = by_keep * (f - 1) + by_write * (i - 1)
    to_o, to_g, to_i, to_f = grad_gates[:, 2 * chunks :].chunk(4, dim=1)
    torch.mul(grad_h * tanh_c, o - o * o, out=to_o)
    torch.mul(grad_c * write, 1 - g * g, out=to_g)
    torch.mul(by_write * both, i - i * i, out=to_i)
    torch.mul(by_keep * both, f - f * f, out=to_f)
    by_input, by_forget = by_write + by_both * forget, by_keep + by_both * input
    per_chunk = (-1, chunks, units // chunks)
    for number, by_master in enumerate((-by_input, by_forget)):
        span = slice(number * chunks, (number + 1) * chunks)
        grad_gates[:, span] = cumax_gradient(by_master.view(per_chunk).sum(2), gates[:, span])
    grad_c.mul_(keep)


def _masters(gates: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """The master gates ``[B, N]``, input and forget, from their softmaxes."""
    return 1 - gates[:, :chunks].cumsum(1), gates[:, chunks : 2 * chunks].cumsum(1)


def _shares(
    master_input: Tensor, master_forget: Tensor, i: Tensor, f: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The factors of the old cell and of the candidate; the master gates of each unit and their overlap: ``[B, H]``."""
    size = i.shape[1] // master_input.shape[1]
    input, forget = master_input.repeat_interleave(size, 1), master_forget.repeat_interleave(size, 1)
    both = input * forget
    return forget - both * (1 - f), input - both * (1 - i), input, forget, both
