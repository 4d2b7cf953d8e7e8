"""Layers with the paper's gates (Gu et al. 2019, arXiv 1910.09890), with the interface of torch's recurrent layers.

Shapes: T time steps, B batch, I inputs, H units, L layers, D directions (2 where bidirectional), K blocks of the gate.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from rnncore import lstm, lstm_steps
from rnncore.device import torch_rnn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from urlstm import sequence
from urlstm.activations import gate_activations
from urlstm.gates import GRU_GATES, LSTM_GATES, Gate, gate_named
from urlstm.parameters import Start, add_parameters, initialise, sequence_weights, torch_weights
from urlstm.sequences import Sequences, State, check_state, read

_VF: Any = torch._VF


class GatedRNN(nn.Module):
    """What both layers share: parameters, and the way through layers and directions."""

    gates: Mapping[str, Gate]
    torch_layer: type[nn.LSTM] | type[nn.GRU]
    parts: int  # of the state

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        gate: str,
        forget_bias: float | None,
        trainable_bias: bool,
        t_max: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.gate = bidirectional, gate
        self.mechanism = gate_named(gate, self.gates)
        self._like_torch(dropout)  # its checks of the arguments
        self._start = Start(self.mechanism, bias, forget_bias, trainable_bias, t_max)
        ends = ("", "_reverse") if bidirectional else ("",)
        self.suffixes = [f"_l{layer}{end}" for layer in range(num_layers) for end in ends]
        for number, suffix in enumerate(self.suffixes):
            size = input_size if number < len(ends) else len(ends) * hidden_size
            add_parameters(self, self._start, suffix, size, hidden_size, device, dtype)
        self.reset_parameters()
        self.flatten_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew; those that torch's layers have too come from the same random numbers."""
        initialise(self, self._start, self.suffixes, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Moves the weights on a GPU together, as cuDNN wants them for torch's own layers; else does nothing."""
        if self.mechanism.unit == "torch" and not self._start.fixed and next(self.parameters()).is_cuda:
            flat = self._like_torch()
            for name, parameter in self.named_parameters(recurse=False):
                setattr(flat, name, parameter)
            flat.flatten_parameters()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.flatten_parameters()
        return moved

    def _like_torch(self, dropout: float = 0.0) -> nn.LSTM | nn.GRU:
        """Torch's own layer of this size, without memory of its own."""
        sizes = (self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first)
        return self.torch_layer(*sizes, dropout, self.bidirectional, device="meta")

    def _run(self, input: Tensor | PackedSequence, hx: State | None) -> tuple[Any, State]:
        """Output and last state, in the form in which input and state came."""
        dtype = getattr(self, f"weight_ih{self.suffixes[0]}").dtype
        sequences = read(type(self).__name__, input, self.input_size, dtype, self.batch_first)
        if hx is None:
            zeros = sequences.data.new_zeros(len(self.suffixes), sequences.rows[0], self.hidden_size)
            state: State = (zeros,) * self.parts
        else:
            check_state(hx, sequences, len(self.suffixes), self.hidden_size)
            state = sequences.sorted_state(hx)
        if self.mechanism.unit == "torch" and not self._in_core(sequences):
            flat, last = self._run_torch(sequences, state)
        else:
            flat, last = self._run_layers(sequences.flat.to(dtype), tuple(p.to(dtype) for p in state), sequences.rows)
        return sequences.output(flat), sequences.user_state(last)

    def _in_core(self, sequences: Sequences) -> bool:
        """Whether the core's LSTM stands in for torch's, which is slower where there are native kernels."""
        weight = getattr(self, f"weight_hh{self.suffixes[0]}")
        if self.parts == 1 or sequences.packed is not None or not lstm.pays(weight, len(sequences.rows)):
            return False
        return lstm_steps.operators(weight.device) is not lstm_steps.EAGER

    def _run_torch(self, sequences: Sequences, state: State) -> tuple[Tensor, State]:
        """By torch's own layer: outputs ``[N, D H]`` and last state, each ``[L D, B, H]``."""
        weights = [weight for suffix in self.suffixes for weight in torch_weights(self, suffix)]
        function, packed = _VF.lstm if self.parts == 2 else _VF.gru, sequences.packed
        biased = len(weights) == 4 * len(self.suffixes)
        setting = (weights, biased, self.num_layers, self.dropout, self.training, self.bidirectional)
        data, *parts = (part.to(weights[0].dtype) for part in (sequences.data, *state))
        start = tuple(parts) if self.parts == 2 else parts[0]
        with torch_rnn(weights[0].device):
            if packed is None:
                output, *last = function(data, start, *setting, False)
            else:
                output, *last = function(data, packed.batch_sizes, start, *setting)
        return output if packed is not None else output.flatten(0, 1), tuple(last)

    def _run_layers(self, x: Tensor, state: State, rows: list[int]) -> tuple[Tensor, State]:
        """By `urlstm.sequence`, layer by layer: as `_run_torch`, from inputs ``[N, I]``."""
        ends: list[State] = []
        for number in range(self.num_layers):
            outputs = []
            for suffix in self.suffixes[len(ends) : len(ends) + (2 if self.bidirectional else 1)]:
                output, *last = self._run_direction(suffix, x, tuple(part[len(ends)] for part in state), rows)
                outputs.append(output)
                ends.append(tuple(last[: self.parts]))
            x = torch.cat(outputs, dim=1) if self.bidirectional else outputs[0]
            if number < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack([end[part] for end in ends]) for part in range(self.parts))

    def _run_direction(self, suffix: str, x: Tensor, state: State, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `urlstm.sequence.run`."""
        unit, reverse = self.mechanism.unit, suffix.endswith("_reverse")
        if unit == "torch":
            return sequence.run_lstm(x, state[0], state[1], torch_weights(self, suffix), rows, reverse=reverse)
        weights = sequence_weights(self, suffix, gru=self.parts == 1)
        return sequence.run(unit, x, state[0], state[1] if self.parts == 2 else None, weights, rows, reverse=reverse)

    def gate_activations(self, input: Tensor, state: Any = None) -> dict[str, Tensor]:
        """What the gates do on an input, for a look at their distribution; nothing is recorded for gradients.

        Args:
            input: ``[T, B, I]``, or ``[B, T, I]`` with ``batch_first``.
            state: As of ``forward``.

        Returns:
            The activations of each gate by name, ``[L D, T, B, H]``; ``keep`` is the factor of the old state in the
            new one, which a refine gate or master gates make of the forget gate. Without dropout.
        """
        return gate_activations(self, input, state)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        shown = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
        return f"{self.input_size}, {self.hidden_size}, gate={self.gate!r}" + "".join(
            f", {name}={getattr(self, name)}" for name in shown
        )


class URLSTM(GatedRNN):
    """LSTM layers with one of the paper's gates, to be put where ``torch.nn.LSTM`` stands.

    ``gate``: ``lstm``; ``c-lstm`` (chrono initialisation), ``u-lstm`` (uniform gate initialisation), ``r-lstm`` (refine
    gate), ``ur-lstm`` (both), ``o-lstm`` (ordered neurons: master gates by cumulative softmax, one per unit),
    ``or-lstm`` (a forget gate by cumulative softmax, with refine gate). The first three compute what torch's own layer
    does, with other biases; on CPU by `rnncore.lstm`, which is faster.

    Parameters of layer k: ``weight_ih_l{k} [K H, I]``, ``weight_hh_l{k} [K H, H]``, ``bias_ih_l{k}`` and
    ``bias_hh_l{k}`` ``[K H]``, and the same with ``_reverse``; the order of the blocks is in `urlstm.gates`.
    """

    gates, torch_layer, parts = LSTM_GATES, nn.LSTM, 2

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
        gate: str = "ur-lstm",
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        t_max: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Makes the layers.

        Args:
            input_size: I.
            hidden_size: H.
            num_layers: L.
            bias: Whether gates have trained biases.
            batch_first: Whether input and output are ``[B, T, .]``.
            dropout: Of the outputs of every layer but the last.
            bidirectional: Whether a second direction reads the sequence from its end.
            gate: See above.
            forget_bias: What the forget gate's bias is at the start, with the gates ``lstm``, ``r-lstm`` and
                ``o-lstm``; None leaves it as torch draws it. Without ``bias`` only a fixed start has it. Other gates
                start by their own rule, a cumulative softmax as torch draws it: a constant would change nothing.
            trainable_bias: Whether what a gate's rule, or ``forget_bias``, gives to the biases is part of ``bias_ih``.
                Otherwise it is a buffer ``gate_bias_l{k}`` that is added to the gates and stays; biases trained beside
                it start at zero there, as in the authors' later code.
            t_max: The longest dependency expected, in steps; for ``c-lstm``.
            device, dtype: Of the parameters.

        Raises:
            UserError: ``gate`` is unknown, or an argument does not fit it.
            TypeError, ValueError: As ``torch.nn.LSTM``.
        """
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(*shape, gate, forget_bias, trainable_bias, t_max, device, dtype)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Runs over sequences.

        Args:
            input: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), ``[T, I]`` for one sequence, or a
                ``PackedSequence``.
            hx: First hidden state and cell, each ``[L D, B, H]`` (``[L D, H]`` for one sequence); zeros when absent.

        Returns:
            The last layer's outputs ``[T, B, D H]``, in the form of the input, and the last hidden state and cell.
            Under autocast they are of the weights' type, but of autocast's where torch's own layer runs: with the
            first three gates on a GPU or for a ``PackedSequence``.

        Raises:
            RuntimeError, ValueError: As ``torch.nn.LSTM``.
        """
        output, last = self._run(input, hx)
        return output, cast("tuple[Tensor, Tensor]", last)


class URGRU(GatedRNN):
    """GRU layers with one of the paper's gates, to be put where ``torch.nn.GRU`` stands.

    ``gate``: ``gru``, torch's own layer; ``ur-gru``, whose update gate, which keeps the state, starts uniform and has a
    refine gate. Parameters as of `URLSTM`.
    """

    gates, torch_layer, parts = GRU_GATES, nn.GRU, 1

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
        gate: str = "ur-gru",
        forget_bias: float | None = 1.0,
        trainable_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Makes the layers; as `URLSTM`, where ``forget_bias`` is the bias of the update gate of ``gru``."""
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(*shape, gate, forget_bias, trainable_bias, None, device, dtype)

    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Runs over sequences; as `URLSTM.forward`, with the hidden state for the pair."""
        output, last = self._run(input, None if hx is None else (hx,))
        return output, last[0]


def make_layer(
    gate: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
    *,
    forget_bias: float | None = 1.0,
    trainable_bias: bool = True,
    t_max: int | None = None,
) -> URLSTM | URGRU:
    """The layer that has a gate of this name; arguments and errors as of `URLSTM` and `URGRU`."""
    gate_named(gate, {**LSTM_GATES, **GRU_GATES})
    shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
    if gate in GRU_GATES:
        return URGRU(*shape, gate=gate, forget_bias=forget_bias, trainable_bias=trainable_bias)
    return URLSTM(*shape, gate=gate, forget_bias=forget_bias, trainable_bias=trainable_bias, t_max=t_max)
