"""Recurrent highway networks (Zilly et al., ICML 2017, arXiv 1607.03474) with the interface of ``torch.nn.GRU``.

Shapes: T time steps, B batch, I inputs, H units, L layers, D recurrence depth, K = 2 blocks of gates h, t where
coupled, else 3: h, t, c.
"""

import torch
from rnncore.dropout import checked_probability, locked_mask
from rnncore.errors import UserError
from torch import Tensor, nn

from selfish.products import expect, expect_inputs
from selfish.rhn_sequence import rhn_sequence

#: Weights begin uniform in this range, and transform gates mostly closed (the paper's section 5 and its code).
RANGE, TRANSFORM_BIAS = 0.04, -2.0


class RHNLayer(nn.Module):
    """One layer; the equations are `selfish.rhn_cell.rhn_cell`.

    Parameters: ``weight_ih [K H, I]`` and ``bias_ih [K H]``, which only the first of the D highway layers has, and
    ``weight_hh``, ``bias_hh``, lists of D of ``[K H, H]`` and ``[K H]``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        depth: int = 10,
        *,
        bias: bool = True,
        couple: bool = True,
        recurrent_dropout: float = 0.0,
    ) -> None:
        """Draws the parameters.

        Args:
            input_size: I.
            hidden_size: H.
            depth: D.
            bias: Whether there are biases. Those of t begin at -2 in sum, those of c at 2: as where coupled.
            couple: Whether c = 1 - t.
            recurrent_dropout: Of what the recurrent weights see of the state, one mask for all steps and depths
                (Gal & Ghahramani 2016, arXiv 1512.05287).

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__()
        if min(input_size, hidden_size, depth) < 1:
            raise UserError(
                f"input_size, hidden_size and depth must be positive, not {input_size}, {hidden_size} and {depth}"
            )
        self.input_size, self.hidden_size, self.depth, self.couple = input_size, hidden_size, depth, couple
        self.recurrent_dropout = checked_probability(recurrent_dropout)
        width = (2 if couple else 3) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(width, input_size))
        self.weight_hh = nn.ParameterList(torch.empty(width, hidden_size) for _ in range(depth))
        self.bias_ih = nn.Parameter(torch.empty(width)) if bias else None
        self.bias_hh = nn.ParameterList(torch.empty(width) for _ in range(depth)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights anew and puts the biases back."""
        for weight in (self.weight_ih, *self.weight_hh):
            nn.init.uniform_(weight, -RANGE, RANGE)
        if self.bias_ih is None or self.bias_hh is None:
            return
        nn.init.zeros_(self.bias_ih)
        rows = self.gate_rows()
        with torch.no_grad():
            for bias in self.bias_hh:
                bias.zero_()
                bias[rows["t"]] = TRANSFORM_BIAS
                if not self.couple:
                    bias[rows["c"]] = -TRANSFORM_BIAS

    def gate_rows(self) -> dict[str, slice]:
        """The rows of each gate in every weight and bias."""
        names = "ht" if self.couple else "htc"
        return {name: slice(k * self.hidden_size, (k + 1) * self.hidden_size) for k, name in enumerate(names)}

    def forward(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs ``[T, B, H]`` and the last state ``[1, B, H]`` of inputs ``[T, B, I]``.

        ``state``: that before the first step, ``[1, B, H]``; zeros when absent. RuntimeError for a wrong shape.
        """
        expect_inputs(input, self.input_size)
        batch = input.shape[1]
        if state is None:
            state = self.weight_ih.new_zeros(1, batch, self.hidden_size)
        expect("hidden size", state, 1, batch, self.hidden_size)
        biases = [None] * self.depth if self.bias_hh is None else list(self.bias_hh)
        output, last = rhn_sequence(
            input, state[0], self.weight_ih, self.bias_ih, list(self.weight_hh), biases, self._mask(batch)
        )
        return output, last[None]

    def _mask(self, batch: int) -> Tensor | None:
        if not self.training or self.recurrent_dropout == 0:
            return None
        weight = self.weight_ih
        return locked_mask(batch, self.hidden_size, self.recurrent_dropout, device=weight.device, dtype=weight.dtype)[0]

    def extra_repr(self) -> str:
        """What the parameters do not show, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}, depth={self.depth}, couple={self.couple}"


class RHN(nn.Module):
    """A stack of `RHNLayer`, to be put where ``torch.nn.GRU`` stands; each layer has a state of its own."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        depth: int = 10,
        couple: bool = True,
        recurrent_dropout: float = 0.0,
    ) -> None:
        """Makes the layers.

        Args:
            input_size, hidden_size, bias, depth, couple, recurrent_dropout: As of `RHNLayer`.
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
            RHNLayer(size, hidden_size, depth, bias=bias, couple=couple, recurrent_dropout=recurrent_dropout)
            for size in [input_size] + [hidden_size] * (num_layers - 1)
        )

    def forward(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs ``[T, B, H]`` and the last states ``[L, B, H]`` of inputs ``[T, B, I]``.

        ``state``: those before the first step; zeros when absent. RuntimeError for a wrong shape.
        """
        if state is not None and len(state) != self.num_layers:
            raise RuntimeError(f"Expected hidden size [{self.num_layers}, B, H], got {list(state.shape)}")
        x, last = input.transpose(0, 1) if self.batch_first and input.dim() == 3 else input, []
        for number, layer in enumerate(self.layers):
            if number:
                x = nn.functional.dropout(x, self.dropout, self.training)
            x, after = layer(x, None if state is None else state[number : number + 1])
            last.append(after)
        return x.transpose(0, 1) if self.batch_first else x, torch.cat(last)
