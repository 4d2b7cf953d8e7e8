"""One time step of a recurrent highway network (Zilly et al., ICML 2017, arXiv 1607.03474, equations 6 to 9).

Shapes: B batch, I inputs, H units, D recurrence depth, K = 2 blocks of gates h, t where coupled, else 3: h, t, c.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def rhn_cell(
    x: Tensor,
    s: Tensor,
    weight_ih: Tensor,
    bias_ih: Tensor | None,
    weights_hh: Sequence[Tensor],
    biases_hh: Sequence[Tensor | None],
    mask: Tensor | None = None,
) -> Tensor:
    """The state after a time step, through D highway layers.

    Each computes ``h = tanh(.)``, ``t = sigmoid(.)`` and ``c = sigmoid(.)``, or ``c = 1 - t``, of ``R s + b``; the
    first adds ``W x + b``. Then ``s = h * t + s * c``.

    Args:
        x: ``[B, I]``.
        s: ``[B, H]``.
        weight_ih, bias_ih: ``[K H, I]`` and ``[K H]``.
        weights_hh, biases_hh: D of ``[K H, H]`` and ``[K H]``.
        mask: ``[B, H]``, what s is multiplied with before every R: variational dropout. It does not touch the carry.
    """
    for depth, (weight, bias) in enumerate(zip(weights_hh, biases_hh, strict=True)):
        gates = F.linear(s if mask is None else s * mask, weight, bias)
        if depth == 0:
            gates = gates + F.linear(x, weight_ih, bias_ih)
        h, t, *c = torch.split(gates, s.shape[1], dim=1)
        t = t.sigmoid()
        s = h.tanh() * t + s * (c[0].sigmoid() if c else 1 - t)
    return s
