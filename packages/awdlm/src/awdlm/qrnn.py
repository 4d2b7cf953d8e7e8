"""Quasi-recurrent neural networks (Bradbury, Merity, Xiong, Socher, ICLR 2017, arXiv 1611.01576).

A linear map over a window of one or two inputs gives the gates of all time steps at once; only an elementwise
recurrence goes step by step.

Shapes: T time steps, B batch, I inputs, H units, L layers, D directions (2 where bidirectional).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.dropout import checked_probability, weight_mask
from rnncore.errors import UserError
from rnncore.narrow_products import narrow_linear
from torch import Tensor, nn

from awdlm.gates import compose_gates, qrnn_gates


class QRNNState(NamedTuple):
    """What a `QRNN` hands from one window of a sequence to the next.

    ``hidden`` ``[L D, B, H]``. ``previous``: with ``window=2`` the last input ``[B, I]`` of each layer, else empty.
    """

    hidden: Tensor
    previous: tuple[Tensor, ...] = ()


class QRNNLayer(nn.Module):
    """One layer with f-pooling, or fo-pooling where it has an output gate (section 2.1).

    ``c_t = f_t * z_t + (1 - f_t) * c_{t-1}``: f is the share of the new value, so 1 - f here is f in the paper. The
    parameters are those of ``linear``: weight ``[3H, I]``, rows for z, f and o (``[2H, I]`` without output gate). With
    ``window=2`` there are 2I columns, for x_t and then x_{t-1}.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        window: int = 1,
        zoneout: float = 0.0,
        output_gate: bool = True,
    ) -> None:
        """Makes the parameters, as ``torch.nn.Linear`` does.

        Args:
            input_size: I.
            hidden_size: H.
            bias: Whether the linear map has one.
            window: How many inputs a time step sees: 1, or 2, its own and the one before it.
            zoneout: The probability of a unit to keep its state at a time step, in training (section 2.1: f = 1 -
                dropout(1 - f) in the paper's f, not rescaled). In evaluation all shares f are 1 - zoneout as large.
            output_gate: Whether the output is o * c, not c.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        if window not in (1, 2):
            raise UserError(f"the window of a QRNN must be 1 or 2, not {window}")
        if input_size < 1 or hidden_size < 1:
            raise UserError(f"input_size and hidden_size must be positive, not {input_size} and {hidden_size}")
        self.input_size, self.hidden_size, self.window = input_size, hidden_size, window
        self.zoneout, self.output_gate = checked_probability(zoneout), output_gate
        self.linear = nn.Linear(window * input_size, (3 if output_gate else 2) * hidden_size, bias=bias)

    def forward(
        self, x: Tensor, state: tuple[Tensor | None, Tensor | None] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Runs over sequences. Windows that hand their state on give what the whole sequence gives.

        They do so to the bit but for the linear map, whose last bits may depend on how many rows it has at once.

        Args:
            x: ``[T, B, I]``.
            state: The hidden state c ``[B, H]``, and with ``window=2`` the input before the first, ``[B, I]``. Zeros
                where None.

        Returns:
            The outputs ``[T, B, H]``, of the linear map's type, and the state after the last step. The hidden state is
            computed and returned in float32 where the outputs are of a 16-bit type; ``previous`` is None with
            ``window=1``.

        Raises:
            RuntimeError: As ``torch.nn.GRU``, for shapes that do not fit.
        """
        hidden, previous = state or (None, None)
        if x.dim() != 3:
            raise RuntimeError(f"input must have 3 dimensions, got {x.dim()}")
        if x.shape[2] != self.input_size:
            expected = f"Expected {self.input_size}, got {x.shape[2]}"
            raise RuntimeError(f"input.size(-1) must be equal to input_size. {expected}")
        if not x.shape[0]:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        inputs = x if self.window == 1 else torch.cat([x, self._shifted(x, previous)], dim=2)
        y, bias = self._product(inputs), self.linear.bias
        if self.zoneout:
            output, last = compose_gates(y, hidden, bias=bias, output_gate=self.output_gate, zoneout=self._zone_out)
        else:
            output, last = qrnn_gates(y, hidden, bias=bias, output_gate=self.output_gate)
        # A copy, which does not hold the memory of the whole window.
        return output, (last, x[-1].clone() if self.window == 2 else None)

    def _product(self, inputs: Tensor) -> Tensor:
        """The linear map without its bias."""
        dtype = autocast_dtype(inputs.device)
        if dtype is None or inputs.device.type != "cpu":
            return nn.functional.linear(inputs, self.linear.weight)
        return narrow_linear(inputs, self.linear.weight, dtype)

    def _shifted(self, x: Tensor, previous: Tensor | None) -> Tensor:
        """The input before each, ``[T, B, I]``."""
        if previous is None:
            previous = x.new_zeros(x.shape[1:])
        elif previous.shape != x.shape[1:]:
            raise RuntimeError(f"Expected previous input {tuple(x.shape[1:])}, got {list(previous.shape)}")
        return torch.cat([previous[None].to(x.dtype), x[:-1]])

    def _zone_out(self, f: Tensor) -> Tensor:
        if not self.training:
            return f * (1 - self.zoneout)
        return f.masked_fill(weight_mask(f.detach(), self.zoneout) == 0, 0)

    def extra_repr(self) -> str:
        """What the linear map does not show, for ``print``."""
        return f"window={self.window}, zoneout={self.zoneout}, output_gate={self.output_gate}"


class QRNN(nn.Module):
    """A stack of `QRNNLayer`, to be put where ``torch.nn.LSTM`` or ``torch.nn.GRU`` stands.

    Its layers are ``layers``, those of the backward direction after those of the forward one, layer by layer.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        window: int = 1,
        zoneout: float = 0.0,
        output_gate: bool = True,
    ) -> None:
        """Makes the layers.

        Args:
            input_size, hidden_size, bias, window, zoneout, output_gate: As of `QRNNLayer`.
            num_layers: L.
            batch_first: Whether input and output are ``[B, T, .]``.
            dropout: Of the outputs of every layer but the last.
            bidirectional: Whether a second layer reads the sequence backwards; its outputs follow those of the first.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        if num_layers < 1:
            raise UserError(f"num_layers must be positive, not {num_layers}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, checked_probability(dropout), bidirectional
        self.window, self.directions = window, 2 if bidirectional else 1
        make = partial(QRNNLayer, bias=bias, window=window, zoneout=zoneout, output_gate=output_gate)
        sizes = [input_size] + [self.directions * hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(make(size, hidden_size) for size in sizes for _ in range(self.directions))

    def forward(
        self, input: Tensor, state: QRNNState | tuple[Tensor, Sequence[Tensor]] | Tensor | None = None
    ) -> tuple[Tensor, QRNNState]:
        """Runs over sequences. Windows that hand their state on give what the whole sequence gives.

        Args:
            input: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), or ``[T, I]`` for one sequence.
            state: What the window before returned; or the hidden state ``[L D, B, H]`` alone, as ``torch.nn.GRU`` takes
                it, with which a sequence begins, as with None (zeros). For one sequence, all without B.

        Returns:
            The last layer's outputs ``[T, B, D H]`` and the state, whose inputs are those of the forward direction:
            the backward one begins each window anew.

        Raises:
            RuntimeError, ValueError: As ``torch.nn.GRU``, for shapes that do not fit.
        """
        if input.dim() not in (2, 3):
            raise ValueError(f"QRNN: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched, batch_first = input.dim() == 3, self.batch_first and input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if batch_first else x
        hidden, previous = self._begin(x, state, batched)
        ends: list[tuple[Tensor, Tensor | None]] = []
        for number in range(self.num_layers):
            x, last = self._layer(number, x, hidden, previous[number])
            ends += last
            if number < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, self.training)
        last_hidden = torch.stack([end[0] for end in ends])
        inputs = tuple(end[1] for end in ends[:: self.directions] if end[1] is not None)
        if not batched:
            return x.squeeze(1), QRNNState(last_hidden.squeeze(1), tuple(each.squeeze(0) for each in inputs))
        return x.transpose(0, 1) if batch_first else x, QRNNState(last_hidden, inputs)

    def _layer(
        self, number: int, x: Tensor, hidden: Tensor | None, previous: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """One layer's outputs, and the state after it in each direction."""
        first = self.directions * number
        start = None if hidden is None else hidden[first]
        output, last = self.layers[first](x, (start, previous))
        if not self.bidirectional:
            return output, [last]
        start = None if hidden is None else hidden[first + 1]
        backward, last_backward = self.layers[first + 1](x.flip(0), (start, None))
        return torch.cat([output, backward.flip(0)], dim=2), [last, last_backward]

    def _begin(
        self, x: Tensor, state: QRNNState | tuple[Tensor, Sequence[Tensor]] | Tensor | None, batched: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """The first hidden state ``[L D, B, H]`` or None, and each layer's previous input ``[B, I]`` or None."""
        if state is None:
            return None, [None] * self.num_layers
        hidden, previous = (state, ()) if isinstance(state, Tensor) else state
        if hidden.dim() != (3 if batched else 2):
            kind = (
                "batched 3-D input, hx should also be 3-D" if batched else "unbatched 2-D input, hx should also be 2-D"
            )
            raise RuntimeError(f"For {kind} but got {hidden.dim()}-D tensor")
        if len(previous) not in (0, self.num_layers if self.window == 2 else 0):
            expected = f"{self.num_layers if self.window == 2 else 0} for {self.num_layers} layers"
            raise RuntimeError(f"Expected previous inputs: {expected} of window {self.window}, got {len(previous)}")
        if not batched:
            hidden, previous = hidden.unsqueeze(1), [each.unsqueeze(0) for each in previous]
        shape = (len(self.layers), x.shape[1], self.hidden_size)
        if hidden.shape != shape:
            raise RuntimeError(f"Expected hidden size {shape}, got {list(hidden.shape)}")
        return hidden, previous or [None] * self.num_layers

    def extra_repr(self) -> str:
        """What the layers do not show, for ``print``."""
        return f"batch_first={self.batch_first}, dropout={self.dropout}, bidirectional={self.bidirectional}"
