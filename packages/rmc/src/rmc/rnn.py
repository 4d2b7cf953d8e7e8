"""The plain recurrent layers that the memory is compared with: LSTM, GRU, RNN with tanh or ReLU, in a stack.

Shapes: T time steps, B batch, H units.
"""

from typing import Any, Literal

from rnncore.device import torch_rnn
from rnncore.lstm import LSTMLayer
from torch import Tensor, nn

Kind = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
#: Of each layer (h, c) or h, ``[1, B, H]``.
State = list[Any]


class StackedRNN(nn.Module):
    """Layers one above the other, with dropout between them.

    An LSTM runs on `rnncore.lstm.LSTMLayer`, which is fast on CPU; with ``library`` on torch's own layer. Both have the
    same parameters, and on a GPU both are cuDNN's.
    """

    def __init__(
        self,
        kind: Kind,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float = 0.0,
        library: bool = False,
    ) -> None:
        """Makes the parameters, at torch's initial values."""
        super().__init__()
        self.kind, self.hidden_size = kind, hidden_size
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(_layer(kind, size, hidden_size, library) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    @property
    def output_size(self) -> int:
        """H."""
        return self.hidden_size

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = self.layers[0].get_parameter("weight_hh_l0").new_zeros(1, batch_size, self.hidden_size)
        return [(zeros, zeros) if self.kind == "LSTM" else zeros for _ in self.layers]

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs ``[T, B, H]`` of the last layer, and the state after a window ``[T, B, I]``."""
        state = self.initial_state(input.shape[1]) if state is None else state
        x, after = input, []
        for number, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            with torch_rnn(x.device):
                x, last = layer(self.dropout(x) if number else x, before)
            after.append(last)
        return x, after


def _layer(kind: Kind, before: int, after: int, library: bool) -> nn.Module:
    if kind == "LSTM":
        return nn.LSTM(before, after) if library else LSTMLayer(before, after)
    if kind == "GRU":
        return nn.GRU(before, after)
    return nn.RNN(before, after, nonlinearity="tanh" if kind == "RNN_TANH" else "relu")
