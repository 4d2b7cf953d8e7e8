"""One time step of the reversible GRU and LSTM (Reversible RNNs, section 3), forward and backward in time.

The hidden units are split in two groups that update each other in turn, so that a step can be undone: the gates of
the group that was updated last depend on the other group, whose value is still there. These steps are the readable
form and the oracle of the fast path (`revrnn.kernels`); autograd runs through them, taking rounding as the identity.

Shapes: B batch, I inputs, H units, G = H / 2 units of one group.
"""

import math
from collections.abc import Sequence

import torch
from rnncore.errors import UserError
from torch import Tensor, nn
from torch.nn import functional as F

from revrnn.buffer import InformationBuffer
from revrnn.forget import Fixed, forget, unforget

#: A buffer for each group of the state, any two of them may be the same; None computes without and cannot be undone.
Buffers = Sequence[InformationBuffer | None]


class RevGRUCell(nn.Module):
    """One step of the reversible GRU, equations of section 3.1.

    For each group a, given the other group b, with [z r] = sigmoid(W_zr x + U_zr b), g = tanh(W_g x + U_g (r * b)):
    z <- m z + (1 - m), then a <- z * a + (1 - z) * g. Group 1 is updated first, then group 2 from its new value.

    Parameters, the rows of each being z, r, g of group 1, then of group 2: ``weight_ih [3H, I]``,
    ``weight_hh [3H, G]``, ``bias [3H]``, all uniform in (-k, k), k = 1/sqrt(I + G).
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, max_forget: float = 0.875) -> None:
        """``max_forget`` is m, in (0, 1]: at most log2(1/(1-m)) bits are forgotten per unit and step."""
        super().__init__()
        self.input_size, self.hidden_size, self.max_forget = input_size, hidden_size, max_forget
        self.weight_ih, self.weight_hh, self.bias = parameters(input_size, hidden_size, 6, bias, max_forget)

    def forward(
        self,
        x: Tensor,
        state: Sequence[Fixed],
        buffers: Buffers = (None, None),
        active: Tensor | None = None,
        slice_dim: int = 0,
    ) -> tuple[Fixed, Fixed]:
        """Goes one step forward.

        Args:
            x: ``[B, I]``.
            state: The groups (h1, h2), each ``[B, G]``.
            buffers: Where each group's lost bits go.
            active: bool ``[B]``; the state of the other rows stays (their sequence has ended).
            slice_dim: How many first units of h1 have no buffer because the caller stores them.
        """
        h1, h2 = state
        x1, x2 = F.linear(x, self.weight_ih, self.bias).chunk(2, dim=1)
        u1, u2 = self.weight_hh.chunk(2)
        z1, g1 = self._gates(x1, h2.value, u1)
        h1 = forget(h1, z1, (1 - z1) * g1, buffers[0], active, slice_dim)
        z2, g2 = self._gates(x2, h1.value, u2)
        h2 = forget(h2, z2, (1 - z2) * g2, buffers[1], active)
        return h1, h2

    @torch.no_grad()
    def reverse(
        self,
        x: Tensor,
        state: Sequence[Fixed],
        buffers: Sequence[InformationBuffer],
        active: Tensor | None = None,
        saved: Tensor | None = None,
    ) -> tuple[Fixed, Fixed]:
        """Undoes `forward`: same ``x``, ``buffers``, ``active``; ``saved``, int32 ``[B, slice_dim]``, is h1's slice."""
        h1, h2 = state
        x1, x2 = F.linear(x, self.weight_ih, self.bias).chunk(2, dim=1)
        u1, u2 = self.weight_hh.chunk(2)
        z2, g2 = self._gates(x2, h1.value, u2)
        h2 = unforget(h2, z2, (1 - z2) * g2, buffers[1], active)
        z1, g1 = self._gates(x1, h2.value, u1)
        h1 = unforget(h1, z1, (1 - z1) * g1, buffers[0], active, saved)
        return h1, h2

    def _gates(self, x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        group = other.shape[1]
        z, r = torch.sigmoid(x[:, : 2 * group] + F.linear(other, weight[: 2 * group])).chunk(2, dim=1)
        g = torch.tanh(x[:, 2 * group :] + F.linear(r * other, weight[2 * group :]))
        return self.max_forget * z + (1 - self.max_forget), g


class RevLSTMCell(nn.Module):
    """One step of the reversible LSTM, equations of section 3.2.

    For each group, given the other group's hidden units b, with i, f, o, p = sigmoid and g = tanh of W x + U b:
    f and p <- m f + (1 - m), m p + (1 - m); then c <- f * c + i * g and h <- p * h + o * tanh(c). Group 1 first.

    Parameters, the rows of each being i, f, g, o, p of group 1, then of group 2: ``weight_ih [5H, I]``,
    ``weight_hh [5H, G]``, ``bias [5H]``, all uniform in (-k, k), k = 1/sqrt(I + G).
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, max_forget: float = 0.875) -> None:
        """``max_forget`` is m, in (0, 1]: at most log2(1/(1-m)) bits are forgotten per unit and step."""
        super().__init__()
        self.input_size, self.hidden_size, self.max_forget = input_size, hidden_size, max_forget
        self.weight_ih, self.weight_hh, self.bias = parameters(input_size, hidden_size, 10, bias, max_forget)

    def forward(
        self,
        x: Tensor,
        state: Sequence[Fixed],
        buffers: Buffers = (None, None, None, None),
        active: Tensor | None = None,
        slice_dim: int = 0,
    ) -> tuple[Fixed, Fixed, Fixed, Fixed]:
        """Goes one step forward; as `RevGRUCell.forward`, with the groups (h1, h2, c1, c2)."""
        h1, h2, c1, c2 = state
        x1, x2 = F.linear(x, self.weight_ih, self.bias).chunk(2, dim=1)
        u1, u2 = self.weight_hh.chunk(2)
        i, f, g, o, p = self._gates(x1, h2.value, u1)
        c1 = forget(c1, f, i * g, buffers[2], active)
        h1 = forget(h1, p, o * torch.tanh(c1.value), buffers[0], active, slice_dim)
        i, f, g, o, p = self._gates(x2, h1.value, u2)
        c2 = forget(c2, f, i * g, buffers[3], active)
        h2 = forget(h2, p, o * torch.tanh(c2.value), buffers[1], active)
        return h1, h2, c1, c2

    @torch.no_grad()
    def reverse(
        self,
        x: Tensor,
        state: Sequence[Fixed],
        buffers: Sequence[InformationBuffer],
        active: Tensor | None = None,
        saved: Tensor | None = None,
    ) -> tuple[Fixed, Fixed, Fixed, Fixed]:
        """Undoes `forward`: same ``x``, ``buffers``, ``active``; ``saved``, int32 ``[B, slice_dim]``, is h1's slice."""
        h1, h2, c1, c2 = state
        x1, x2 = F.linear(x, self.weight_ih, self.bias).chunk(2, dim=1)
        u1, u2 = self.weight_hh.chunk(2)
        i, f, g, o, p = self._gates(x2, h1.value, u2)
        h2 = unforget(h2, p, o * torch.tanh(c2.value), buffers[1], active)
        c2 = unforget(c2, f, i * g, buffers[3], active)
        i, f, g, o, p = self._gates(x1, h2.value, u1)
        h1 = unforget(h1, p, o * torch.tanh(c1.value), buffers[0], active, saved)
        c1 = unforget(c1, f, i * g, buffers[2], active)
        return h1, h2, c1, c2

    def _gates(self, x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        i, f, g, o, p = (x + F.linear(other, weight)).chunk(5, dim=1)
        m = self.max_forget
        f, p = m * torch.sigmoid(f) + (1 - m), m * torch.sigmoid(p) + (1 - m)
        return torch.sigmoid(i), f, torch.tanh(g), torch.sigmoid(o), p


def parameters(
    input_size: int, hidden_size: int, gate_groups: int, bias: bool, max_forget: float
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter | None]:
    """Checks the sizes and draws (weight_ih, weight_hh, bias) of ``gate_groups`` gates of H/2 units each.

    Raises:
        UserError: ``hidden_size`` is odd or not positive, or ``max_forget`` is not in (0, 1].
    """
    if hidden_size < 2 or hidden_size % 2:
        raise UserError(f"a reversible layer needs an even number of units (two groups), not {hidden_size}")
    if not 0.0 < max_forget <= 1.0:
        raise UserError(f"max_forget must be above 0 and at most 1, not {max_forget}")
    group = hidden_size // 2
    bound = 1 / math.sqrt(input_size + group)

    def uniform(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

    rows = gate_groups * group
    return uniform(rows, input_size), uniform(rows, group), uniform(rows) if bias else None
