"""One time step of an ordered-neurons LSTM (Shen et al., ICLR 2019, arXiv 1810.09536, equations 3 to 14).

Shapes: B batch, I inputs, H units, N chunks of H / N units. Blocks of gates, in this order: the master input and
master forget gates, N rows each; o, g, i, f, H rows each.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def onlstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A time step.

    With ``cumax = cumsum(softmax(.))``: ``I = 1 - cumax``, ``F = cumax``, the same for all units of a chunk, and
    ``w = F * I``; ``c = (f * w + F - w) * c + (i * w + I - w) * g``, ``h = o * tanh(c)``.

    Args:
        x: ``[B, I]``.
        state: h and c, ``[B, H]``.
        weight_ih, bias_ih: ``[2N + 4H, I]`` and ``[2N + 4H]``.
        weight_hh, bias_hh: ``[2N + 4H, H]`` and ``[2N + 4H]``.

    Returns:
        h and c, ``[B, H]``, and the syntactic distances ``[B]`` that the forget gate, ``1 - mean(F)``, and the input
        gate, ``mean(I)``, tell (section 5.2).
    """
    h, c = state
    units = h.shape[1]
    gates = F.linear(x, weight_ih, bias_ih) + F.linear(h, weight_hh, bias_hh)
    chunks = (gates.shape[1] - 4 * units) // 2
    master_input, master_forget, o, g, i, f = torch.split(gates, [chunks, chunks, units, units, units, units], dim=1)
    master_input, master_forget = 1 - master_input.softmax(1).cumsum(1), master_forget.softmax(1).cumsum(1)
    size = units // chunks
    mi, mf = master_input.repeat_interleave(size, 1), master_forget.repeat_interleave(size, 1)
    overlap = mf * mi
    keep, write = f.sigmoid() * overlap + mf - overlap, i.sigmoid() * overlap + mi - overlap
    c = keep * c + write * g.tanh()
    return o.sigmoid() * torch.tanh(c), c, 1 - master_forget.mean(1), master_input.mean(1)
