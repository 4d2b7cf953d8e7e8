"""Reversible GRU and LSTM layers with the interface of ``torch.nn.LSTM`` (Reversible RNNs, MacKay et al. 2018).

Shapes: T time steps, B batch, I inputs, H units, L layers, G = H / 2 units of one group.
"""

import torch
from rnncore.device import autocast_dtype
from rnncore.errors import UserError
from torch import Tensor, nn

from revrnn.cell import parameters
from revrnn.sequence import Stack, run
from revrnn.window import Weights, Window


class _ReversibleRNN(nn.Module):
    """What both layers share: parameters, checks, and the way from ``[L, B, H]`` states to groups and back."""

    kind: str
    gates: int
    parts: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        reversible: bool = True,
        max_forget: float = 0.875,
        slice_dim: int = 0,
    ) -> None:
        """Makes the layers; parameters are uniform in (-k, k), k = 1/sqrt(I + G).

        Args:
            input_size: I.
            hidden_size: H, even: the units are split in two groups.
            num_layers: L.
            bias: Whether gates have a bias.
            batch_first: Whether input and output are ``[B, T, .]``.
            dropout: Of the outputs of every layer but the last, one mask for all time steps.
            reversible: Whether states are rebuilt for the gradient (little memory) or stored (less time). Stored states
                have no buffers, and so differ in their low bits.
            max_forget: In (0, 1]; at most log2(1/(1 - max_forget)) bits are forgotten per unit and step.
            slice_dim: How many first units of the last layer are saved at each step instead of buffered.

        Raises:
            UserError: ``hidden_size`` is odd, or an argument is out of its range.
        """
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be at least 0 and below 1, not {dropout}")
        if num_layers < 1 or input_size < 1:
            raise UserError(f"input_size and num_layers must be positive, not {input_size} and {num_layers}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.reversible, self.max_forget, self.slice_dim = reversible, max_forget, slice_dim
        for layer in range(num_layers):
            size = hidden_size if layer else input_size
            ih, hh, b = parameters(size, hidden_size, 2 * self.gates, bias, max_forget)
            self.register_parameter(f"weight_ih_l{layer}", ih)
            self.register_parameter(f"weight_hh_l{layer}", hh)
            self.register_parameter(f"bias_l{layer}", b)
        if not 0 <= slice_dim <= hidden_size // 2:
            raise UserError(f"slice_dim must be from 0 to hidden_size / 2 = {hidden_size // 2}, not {slice_dim}")

    def weights(self) -> list[Weights]:
        """The parameters of each layer: ``ih [N, I]``, ``hh [N, G]``, ``bias [N]``."""
        return [
            Weights(*(getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias")))
            for layer in range(self.num_layers)
        ]

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, reversible={self.reversible}, "
            f"max_forget={self.max_forget}"
        )

    def _run(
        self, x: Tensor, state: tuple[Tensor, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], Window]:
        """Output and last state, as ``x`` came (batched or not, batch first or not), state tensors ``[L, B, H]``."""
        if x.dim() not in (2, 3):
            raise ValueError(f"RNN: Expected input to be 2D or 3D, got {x.dim()}D instead")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        if not x.shape[1 if self.batch_first and x.dim() == 3 else 0]:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        dtype = self.weights()[0].ih.dtype
        if dtype not in (torch.float32, torch.float64):
            raise RuntimeError(
                f"Expected weights of float32 or float64, got {dtype}; autocast gives products of 16 bits"
            )
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(dtype)  # a layer before this one may have given bfloat16
        batched, batch_first = x.dim() == 3, self.batch_first and x.dim() == 3
        x = x if batched else x.unsqueeze(1)
        x = x.transpose(0, 1) if batch_first else x
        groups, exact = self._groups(x, state, batched)
        stack = Stack(
            kind=self.kind,
            max_forget=self.max_forget,
            reversible=self.reversible,
            slices=(self.slice_dim, 0),
            masks=self._masks(x),
            dtype=autocast_dtype(x.device),
        )
        with torch.autocast(x.device.type, enabled=False):
            outputs, real, fixed, window = run(stack, x, groups, self.weights(), _active(x, lengths))
        last = tuple(
            torch.stack([torch.cat(layer[2 * k : 2 * k + 2], dim=1) for layer in (fixed if exact else real)])
            for k in range(self.parts)
        )
        last = last if batched else tuple(part.squeeze(1) for part in last)
        outputs = outputs.transpose(0, 1) if batch_first else outputs
        return outputs if batched else outputs.squeeze(1), last, window

    def _groups(self, x: Tensor, state: tuple[Tensor, ...] | None, batched: bool) -> tuple[list[list[Tensor]], bool]:
        """Each layer's groups, and whether they came as int32, to be carried exactly."""
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        if state is None:
            state = tuple(x.new_zeros(shape) for _ in range(self.parts))
        elif not batched:
            state = tuple(part.unsqueeze(1) for part in state)
        for part in state:
            if part.shape != shape:
                raise RuntimeError(f"Expected hidden size {shape}, got {list(part.shape)}")
        groups = [[g for part in state for g in part[layer].chunk(2, dim=1)] for layer in range(self.num_layers)]
        return groups, state[0].dtype == torch.int32

    def _masks(self, x: Tensor) -> list[Tensor | None]:
        masks: list[Tensor | None] = [None] * self.num_layers
        if self.training and self.dropout:
            keep = 1 - self.dropout
            for layer in range(self.num_layers - 1):
                masks[layer] = x.new_empty(1, x.shape[1], self.hidden_size).bernoulli_(keep).div_(keep)
        return masks


class RevGRU(_ReversibleRNN):
    """A stack of reversible GRU layers, to be put where ``torch.nn.GRU`` stands.

    Its states need not be stored for the gradient: they are rebuilt exactly, from the last one and from the few bits
    that the forget gates lost. Parameters of layer k: ``weight_ih_l{k} [3H, I]``, ``weight_hh_l{k} [3H, G]``,
    ``bias_l{k} [3H]``; their rows are the gates z, r, g of group 1, then of group 2.
    """

    kind, gates, parts = "gru", 3, 1

    def forward(self, x: Tensor, h_0: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs over sequences.

        Args:
            x: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), or ``[T, I]`` for one sequence; float32 or float64.
            h_0: First state, ``[L, B, H]``; zeros when absent. Real numbers are rounded to multiples of 2**-23; an
                int32 state is carried exactly, comes back as int32, and has no gradient.
            lengths: Of the sequences, ``[B]``; past its length a sequence's state stays.

        Returns:
            The last layer's outputs ``[T, B, H]`` and the last state ``[L, B, H]``.

        Raises:
            UserError: A unit leaves the fixed-point range (-256, 256).
            RuntimeError, ValueError: As ``torch.nn.GRU``, for shapes that do not fit.
        """
        outputs, (h,), _ = self._run(x, None if h_0 is None else (h_0,), lengths)
        return outputs, h


class RevLSTM(_ReversibleRNN):
    """A stack of reversible LSTM layers, to be put where ``torch.nn.LSTM`` stands.

    As `RevGRU`. Parameters of layer k: ``weight_ih_l{k} [5H, I]``, ``weight_hh_l{k} [5H, G]``, ``bias_l{k} [5H]``;
    their rows are the gates i, f, g, o, p of group 1, then of group 2 (p forgets h, as f forgets c).
    """

    kind, gates, parts = "lstm", 5, 2

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs over sequences; as `RevGRU.forward`, with the state (h, c), each ``[L, B, H]``."""
        outputs, (h, c), _ = self._run(x, state, lengths)
        return outputs, (h, c)


def _active(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """bool ``[T, B]``, true at the time steps of each sequence."""
    if lengths is None:
        return None
    if lengths.shape != (x.shape[1],):
        raise RuntimeError(f"Expected lengths of shape ({x.shape[1]},), got {list(lengths.shape)}")
    return torch.arange(len(x), device=x.device)[:, None] < lengths.to(x.device)[None]
