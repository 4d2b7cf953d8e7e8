"""The plain encoders and decoders: LSTM and GRU written down step by step, the core's LSTM where it pays, and torch's.

Shapes: T time steps, B batch, I inputs, H units, L layers.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from rnncore.device import autocast_dtype, torch_rnn
from rnncore.lstm import lstm_sequence, pays
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from revrnn.buffer import InformationBuffer
from revrnn.window import Bits

#: A gate before its sigmoid, so large that nothing passes, or all: exactly, in every floating type.
SHUT = 1e4
Kind = Literal["gru", "lstm"]
State = tuple[Tensor, ...]
Buffers = Sequence[InformationBuffer | None]


class Run(NamedTuple):
    """Of a stack over a batch of sequences: the last layer's outputs ``[T, B, H]`` and the last state.

    Of reversible layers also what their memory is, where asked for, and each layer's information buffer.
    """

    outputs: Tensor
    state: State
    bits: Bits | None = None
    buffers: Buffers = ()


def lstm(
    x: Tensor, state: State, weight_hh: Tensor, active: Tensor | None, *, old_cell: bool = False
) -> tuple[Tensor, State]:
    """An LSTM layer: c <- f * c + i * g, h <- o * tanh(c), with gates i, f, g, o.

    Args:
        x: The inputs' part of the gates, bias included, ``[T, B, 4H]``.
        state: (h, c), each ``[B, H]``.
        weight_hh: ``[4H, H]``.
        active: bool ``[T, B]``, false where a sequence has ended: its state stays, and is the output.
        old_cell: The fault of the original code, whose output takes tanh of the cell BEFORE the step; kept only so that
            its recorded numbers can be checked.

    Returns:
        The outputs ``[T, B, H]`` and the last state.
    """
    (h, c), outputs = state, []
    for t, inputs in enumerate(x.unbind()):
        i, f, g, o = (inputs + F.linear(h, weight_hh)).chunk(4, dim=1)
        now = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        out = torch.sigmoid(o) * torch.tanh(c if old_cell else now)
        h, c = (out, now) if active is None else (_where(active[t], out, h), _where(active[t], now, c))
        outputs.append(h)
    return torch.stack(outputs), (h, c)


def fast_lstm(
    x: Tensor, state: State, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, active: Tensor | None
) -> tuple[Tensor, State]:
    """What `lstm` computes, by `rnncore.lstm.lstm_sequence`, from inputs ``[T, B, I]`` and all weights.

    Where a sequence has ended, one more input shuts its input gate and opens its forget gate, so that c stays; the
    outputs there are the last one before.
    """
    (h, c), dtype = state, autocast_dtype(x.device)
    if active is None:
        outputs, h, c = lstm_sequence(x, h, c, weight_ih, weight_hh, bias, dtype=dtype)
        return outputs, (h, c)
    units = weight_hh.shape[1]
    gates = weight_hh.new_tensor([-SHUT, SHUT, 0, 0]).repeat_interleave(units)[:, None]
    x = torch.cat([x, (~active)[:, :, None].to(x.dtype)], dim=2)
    outputs, _, c = lstm_sequence(x, h, c, torch.cat([weight_ih, gates], dim=1), weight_hh, bias, dtype=dtype)
    steps = torch.arange(len(x), device=x.device)[:, None]
    last = torch.minimum(steps, active.sum(0) - 1)
    outputs = outputs.gather(0, last[:, :, None].expand_as(outputs))
    return outputs, (outputs[-1], c)


def gru(x: Tensor, state: State, weight_hh: Tensor, active: Tensor | None) -> tuple[Tensor, State]:
    """A GRU layer as Cho et al. 2014 have it, the reset gate before the product: h <- (1 - z) * h + z * g.

    ``g = tanh(W x + U (r * h))``. Arguments as for `lstm`; gates z, r, g, ``x [T, B, 3H]``, ``weight_hh [3H, H]``.
    """
    (h,), outputs, units = state, [], weight_hh.shape[1]
    for t, inputs in enumerate(x.unbind()):
        zr = torch.sigmoid(inputs[:, : 2 * units] + F.linear(h, weight_hh[: 2 * units]))
        z, r = zr.chunk(2, dim=1)
        candidate = torch.tanh(inputs[:, 2 * units :] + F.linear(r * h, weight_hh[2 * units :]))
        now = h + z * (candidate - h)
        h = now if active is None else _where(active[t], now, h)
        outputs.append(h)
    return torch.stack(outputs), (h,)


class VanillaStack(nn.Module):
    """Layers of `lstm` or `gru`; parameters of layer k: ``weight_ih_l{k}``, ``weight_hh_l{k}``, ``bias_l{k}``."""

    def __init__(self, kind: Kind, input_size: int, hidden_size: int, num_layers: int) -> None:
        """Parameters are uniform in (-k, k), k = 1/sqrt(H)."""
        super().__init__()
        self.kind, self.hidden_size, self.num_layers = kind, hidden_size, num_layers
        rows, bound = (3 if kind == "gru" else 4) * hidden_size, hidden_size**-0.5
        for layer in range(num_layers):
            sizes = {"weight_ih": (rows, hidden_size if layer else input_size), "weight_hh": (rows, hidden_size)}
            for name, shape in {**sizes, "bias": (rows,)}.items():
                parameter = nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
                self.register_parameter(f"{name}_l{layer}", parameter)

    def recurrent_weights(self) -> list[Tensor]:
        """Each layer's hidden-to-hidden weight."""
        return [getattr(self, f"weight_hh_l{layer}") for layer in range(self.num_layers)]

    def forward(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        between: Sequence[Tensor | None],
        weight_masks: Sequence[Tensor | None],
        buffers: Buffers = (),
        count_bits: bool = False,
    ) -> Run:
        """Runs.

        Args:
            x: ``[T, B, I]``.
            state: ``[L, B, H]`` tensors: (h,) of a GRU, (h, c) of an LSTM; zeros when absent.
            lengths: ``[B]``; the state of a sequence that has ended stays.
            between: Dropout masks ``[1, B, H]`` of the outputs of all layers but the last.
            weight_masks: Dropout masks of `recurrent_weights`.
            buffers, count_bits: Are for reversible stacks.
        """
        state = state or zeros(self.kind, x, self.num_layers, self.hidden_size)
        active = None if lengths is None else torch.arange(len(x), device=x.device)[:, None] < lengths.to(x.device)
        last = []
        for layer, weight in enumerate(self.recurrent_weights()):
            weight = weight if (dropped := weight_masks[layer]) is None else weight * dropped
            weight_ih, bias = getattr(self, f"weight_ih_l{layer}"), getattr(self, f"bias_l{layer}")
            first = tuple(part[layer] for part in state)
            if self.kind == "lstm" and pays(weight, len(x)):
                x, after = fast_lstm(x, first, weight_ih, weight, bias, active)
            else:
                x, after = (gru if self.kind == "gru" else lstm)(F.linear(x, weight_ih, bias), first, weight, active)
            last.append(after)
            if layer < self.num_layers - 1 and (mask := between[layer]) is not None:
                x = x * mask
        return Run(x, tuple(torch.stack(parts) for parts in zip(*last, strict=True)))


class TorchStack(nn.Module):
    """``torch.nn.GRU`` or ``torch.nn.LSTM`` layers (cuDNN on a GPU), with the interface of `VanillaStack`."""

    def __init__(self, kind: Kind, input_size: int, hidden_size: int, num_layers: int) -> None:
        """The parameters are torch's."""
        super().__init__()
        self.kind, self.hidden_size, self.num_layers = kind, hidden_size, num_layers
        layer = nn.GRU if kind == "gru" else nn.LSTM
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(layer(size, hidden_size) for size in sizes)

    def recurrent_weights(self) -> list[Tensor]:
        """Each layer's hidden-to-hidden weight."""
        return [layer.weight_hh_l0 for layer in self.layers]  # type: ignore[misc]

    def forward(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        between: Sequence[Tensor | None],
        weight_masks: Sequence[Tensor | None],
        buffers: Buffers = (),
        count_bits: bool = False,
    ) -> Run:
        """As `VanillaStack.forward`; outputs past a sequence's end are zeros."""
        steps = len(x)
        state, last = state or zeros(self.kind, x, self.num_layers, self.hidden_size), []
        for k, layer in enumerate(self.layers):
            first = tuple(part[k : k + 1] for part in state)
            inputs = x if lengths is None else pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
            weights = {} if (mask := weight_masks[k]) is None else {"weight_hh_l0": self.recurrent_weights()[k] * mask}
            arguments = (inputs, first[0] if self.kind == "gru" else first)
            with torch_rnn(x.device):
                outputs, after = torch.func.functional_call(layer, weights, arguments)
            x = outputs if lengths is None else pad_packed_sequence(outputs, total_length=steps)[0]
            last.append((after,) if self.kind == "gru" else after)
            if k < self.num_layers - 1 and (drop := between[k]) is not None:
                x = x * drop
        return Run(x, tuple(torch.cat(parts) for parts in zip(*last, strict=True)))


def zeros(kind: Kind, x: Tensor, num_layers: int, hidden_size: int) -> State:
    """The state before the first step of ``x [T, B, I]``."""
    shape = (num_layers, x.shape[1], hidden_size)
    return tuple(x.new_zeros(shape) for _ in range(1 if kind == "gru" else 2))


def _where(active: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(active[:, None], then, otherwise)
