"""One time step of every gate, by the equations of `urlstm.equations`: ``torch.nn.LSTMCell`` and ``torch.nn.GRUCell``.

Shapes: B batch, I inputs, H units, K blocks of the gate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from urlstm.equations import gru_state, gru_values, lstm_state, lstm_values
from urlstm.gates import GRU_GATES, LSTM_GATES, gate_named
from urlstm.parameters import Start, add_parameters, initialise, torch_weights


class URLSTMCell(nn.Module):
    """A time step of an LSTM with one of the paper's gates, to be put where ``torch.nn.LSTMCell`` stands.

    Parameters: ``weight_ih [K H, I]``, ``weight_hh [K H, H]``, ``bias_ih`` and ``bias_hh [K H]``; the order of the
    blocks is in `urlstm.gates`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        gate: str = "ur-lstm",
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Makes the parameters; arguments and errors are those of `urlstm.layer.URLSTM`."""
        super().__init__()
        self.input_size, self.hidden_size, self.bias, self.gate = input_size, hidden_size, bias, gate
        self._gate = gate_named(gate, LSTM_GATES)
        self._start = Start(self._gate, bias, forget_bias, trainable_bias, t_max)
        add_parameters(self, self._start, "", input_size, hidden_size, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        initialise(self, self._start, [""], self.hidden_size)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The new hidden state and cell ``[B, H]``.

        Args:
            input: ``[B, I]``, or ``[I]``; then all is without B.
            hx: The old hidden state and cell ``[B, H]``; zeros when absent.

        Raises:
            RuntimeError, ValueError: As ``torch.nn.LSTMCell``, for shapes that do not fit.
        """
        _check(self, input, hx)
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        from_x, from_h = _products(self, input, hx[0])
        return lstm_state(lstm_values(self._gate, from_x + from_h), hx[1])

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}, gate={self.gate!r}"


class URGRUCell(nn.Module):
    """A time step of a GRU with one of the paper's gates, to be put where ``torch.nn.GRUCell`` stands.

    As `URLSTMCell`; a constant ``forget_bias`` is the bias of the update gate, which keeps the state.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        gate: str = "ur-gru",
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Makes the parameters; arguments and errors are those of `urlstm.layer.URGRU`."""
        super().__init__()
        self.input_size, self.hidden_size, self.bias, self.gate = input_size, hidden_size, bias, gate
        self._gate = gate_named(gate, GRU_GATES)
        self._start = Start(self._gate, bias, forget_bias, trainable_bias, None)
        add_parameters(self, self._start, "", input_size, hidden_size, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        initialise(self, self._start, [""], self.hidden_size)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new hidden state ``[B, H]``; as `URLSTMCell.forward`, with the hidden state for the pair."""
        _check(self, input, None if hx is None else (hx,))
        hx = input.new_zeros(*input.shape[:-1], self.hidden_size) if hx is None else hx
        return gru_state(gru_values(self._gate, *_products(self, input, hx)), hx)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}, gate={self.gate!r}"


def _products(cell: nn.Module, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What input and hidden state give to the gates, ``[B, K H]``, biases included."""
    ih, hh, *biases = torch_weights(cell, "")
    bias_ih, bias_hh = biases or (None, None)
    return F.linear(input, ih, bias_ih), F.linear(hidden, hh, bias_hh)


def _check(cell: URLSTMCell | URGRUCell, input: Tensor, hx: tuple[Tensor, ...] | None) -> None:
    kind = type(cell).__name__
    if input.dim() not in (1, 2):
        raise ValueError(f"{kind}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    if input.shape[-1] != cell.input_size:
        sizes = f"got {input.shape[-1]} expected {cell.input_size}"
        raise RuntimeError(f"input has inconsistent input_size: {sizes}")
    for number, state in enumerate(hx or ()):
        if state.dim() not in (1, 2):
            name = f"hx[{number}]" if isinstance(cell, URLSTMCell) else "hidden"
            raise ValueError(f"{kind}: Expected {name} to be 1D or 2D, got {state.dim()}D instead")
        if state.shape[-1] != cell.hidden_size:
            sizes = f"got {state.shape[-1]}, expected {cell.hidden_size}"
            raise RuntimeError(f"hidden{number} has inconsistent hidden_size: {sizes}")
        if state.shape[:-1] != input.shape[:-1]:
            batch = [part.shape[0] if part.dim() == 2 else 1 for part in (input, state)]
            raise RuntimeError(f"Input batch size {batch[0]} doesn't match hidden{number} batch size {batch[1]}")
