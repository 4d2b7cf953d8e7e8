"""LSTMs with ordered neurons (Shen et al., ICLR 2019, arXiv 1810.09536) with the interface of ``torch.nn.LSTM``.

Shapes: T time steps, B batch, I inputs, H units, L layers, N chunks of H / N units.
"""

import math

import torch
from rnncore.dropout import checked_probability, dropped_weight
from rnncore.errors import UserError
from torch import Tensor, nn

from selfish.onlstm_sequence import ONLSTMSteps, onlstm_sequence
from selfish.products import expect, expect_inputs

State = tuple[Tensor, Tensor]


class ONLSTMLayer(nn.Module):
    """One layer; the equations, and the order of the gates, are `selfish.onlstm_cell.onlstm_cell`.

    Drop-connect is the authors': in training an element of the recurrent weight is 0 with probability p and else as it
    is; in evaluation all are (1 - p) as large.
    """

    def __init__(
        self, input_size: int, hidden_size: int, chunk_size: int = 1, *, bias: bool = True, drop_connect: float = 0.0
    ) -> None:
        """Draws the parameters as two ``torch.nn.Linear`` do.

        Args:
            input_size: I.
            hidden_size: H.
            chunk_size: Units that share one element of the master gates.
            bias: Whether there are ``bias_ih_l0`` and ``bias_hh_l0``.
            drop_connect: The probability p of the recurrent weight's elements.

        Raises:
            UserError: An argument is out of its range, or the chunk size does not divide the hidden size.
        """
        super().__init__()
        if min(input_size, hidden_size, chunk_size) < 1:
            raise UserError(
                "input_size, hidden_size and chunk_size must be positive, "
                f"not {input_size}, {hidden_size} and {chunk_size}"
            )
        if hidden_size % chunk_size:
            raise UserError(f"a chunk size of {chunk_size} does not divide the {hidden_size} units of a layer")
        self.input_size, self.hidden_size, self.chunk_size, self.bias = input_size, hidden_size, chunk_size, bias
        self.drop_connect = checked_probability(drop_connect)
        width = 2 * (hidden_size // chunk_size) + 4 * hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(width, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(width, hidden_size))
        if bias:
            self.bias_ih_l0 = nn.Parameter(torch.empty(width))
            self.bias_hh_l0 = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        for name, parameter in self.named_parameters():
            limit = 1 / math.sqrt(self.input_size if "_ih_" in name else self.hidden_size)
            nn.init.uniform_(parameter, -limit, limit)

    def gate_rows(self) -> dict[str, slice]:
        """The rows of each gate in every weight and bias."""
        chunks, rows, first = self.hidden_size // self.chunk_size, {}, 0
        for name in ("master_input", "master_forget", "o", "g", "i", "f"):
            rows[name] = slice(first, first + (chunks if name.startswith("master") else self.hidden_size))
            first = rows[name].stop
        return rows

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs ``[T, B, H]`` and the last state ``(h, c)`` of inputs ``[T, B, I]``.

        ``state``: h and c before the first step, ``[1, B, H]`` each; zeros when absent. RuntimeError for a wrong shape.
        """
        steps = self.run(input, state)
        return steps.output, (steps.h[None], steps.c[None])

    def run(self, input: Tensor, state: State | None = None) -> ONLSTMSteps:
        """As `forward`, with the syntactic distances of each step; h and c are ``[B, H]``."""
        expect_inputs(input, self.input_size)
        shape = (1, input.shape[1], self.hidden_size)
        if state is None:
            zeros = self.weight_hh_l0.new_zeros(shape)
            state = (zeros, zeros)
        for part in state:
            expect("hidden size", part, *shape)
        biases = (self.bias_ih_l0, self.bias_hh_l0) if self.bias else (None, None)
        return onlstm_sequence(input, state[0][0], state[1][0], self.weight_ih_l0, self._recurrent_weight(), *biases)

    def _recurrent_weight(self) -> Tensor:
        if self.drop_connect == 0:
            return self.weight_hh_l0
        if self.training:
            return dropped_weight(self.weight_hh_l0, self.drop_connect, rescale=False)
        return self.weight_hh_l0 * (1 - self.drop_connect)

    def extra_repr(self) -> str:
        """What the parameters do not show, for ``print``."""
        sizes = f"{self.input_size}, {self.hidden_size}, chunk_size={self.chunk_size}"
        return f"{sizes}, drop_connect={self.drop_connect}"


class ONLSTM(nn.Module):
    """A stack of `ONLSTMLayer`, to be put where ``torch.nn.LSTM`` stands."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        chunk_size: int = 1,
        drop_connect: float = 0.0,
    ) -> None:
        """Makes the layers.

        Args:
            input_size, hidden_size, bias, chunk_size, drop_connect: As of `ONLSTMLayer`.
            num_layers: L.
            batch_first: Whether input and output are ``[B, T, .]``.
            dropout: Of the outputs of every layer but the last.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        if num_layers < 1:
            raise UserError(f"num_layers must be positive, not {num_layers}")
        self.num_layers, self.batch_first, self.dropout = num_layers, batch_first, checked_probability(dropout)
        self.layers = nn.ModuleList(
            ONLSTMLayer(size, hidden_size, chunk_size, bias=bias, drop_connect=drop_connect)
            for size in [input_size] + [hidden_size] * (num_layers - 1)
        )

    def forward(self, input: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs ``[T, B, H]`` and the last states ``(h, c)``, ``[L, B, H]``, of inputs ``[T, B, I]``.

        ``state``: those before the first step; zeros when absent. RuntimeError for a wrong shape.
        """
        for part in state or ():
            if len(part) != self.num_layers:
                raise RuntimeError(f"Expected hidden size [{self.num_layers}, B, H], got {list(part.shape)}")
        x, last = input.transpose(0, 1) if self.batch_first and input.dim() == 3 else input, []
        for number, layer in enumerate(self.layers):
            if number:
                x = nn.functional.dropout(x, self.dropout, self.training)
            before = None if state is None else (state[0][number : number + 1], state[1][number : number + 1])
            x, after = layer(x, before)
            last.append(after)
        h, c = (torch.cat(parts) for parts in zip(*last, strict=True))
        return x.transpose(0, 1) if self.batch_first else x, (h, c)
