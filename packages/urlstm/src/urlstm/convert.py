"""Weights from and to ``torch.nn.LSTM`` and ``torch.nn.GRU``, and from a public UR-LSTM.

Shapes: I inputs, H units.
"""

import re
from collections.abc import Mapping

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

from urlstm.layer import URGRU, URLSTM
from urlstm.parameters import torch_weights


def from_torch(layer: nn.LSTM | nn.GRU, gate: str | None = None) -> URLSTM | URGRU:
    """A layer that computes what torch's own computes, with a copy of its weights.

    Args:
        layer: Torch's own; without ``proj_size``.
        gate: One that torch's layer stands for: ``lstm`` (when absent), ``u-lstm`` or ``c-lstm``; ``gru``. The gate's
            own start is overwritten.

    Raises:
        UserError: The gate's equations are others, or the layer has projections.
    """
    if layer.proj_size:
        raise UserError("a layer with proj_size cannot be converted: projections are not supported")
    shape = (layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first, layer.dropout)
    # Chrono initialisation asks for t_max, whatever follows.
    converted = (
        URLSTM(*shape, layer.bidirectional, gate=gate or "lstm", t_max=3)
        if isinstance(layer, nn.LSTM)
        else URGRU(*shape, layer.bidirectional, gate=gate or "gru")
    )
    _check_torch_equations(converted)
    weight = layer.get_parameter("weight_ih_l0")
    converted.to(weight.device, weight.dtype).load_state_dict(layer.state_dict())
    return converted.train(layer.training)


@torch.no_grad()
def to_torch(layer: URLSTM | URGRU) -> nn.LSTM | nn.GRU:
    """Torch's own layer that computes what a layer computes, with a copy of its weights; a fixed bias is added to them.

    Raises:
        UserError: The layer's gate has other equations than torch's layer.
    """
    _check_torch_equations(layer)
    weights = [torch_weights(layer, suffix) for suffix in layer.suffixes]
    shape = (layer.input_size, layer.hidden_size, layer.num_layers, len(weights[0]) == 4, layer.batch_first)
    kind = nn.LSTM if isinstance(layer, URLSTM) else nn.GRU
    weight = weights[0][0]
    converted = kind(*shape, layer.dropout, layer.bidirectional, device=weight.device, dtype=weight.dtype)
    for parameter, value in zip(converted.parameters(), (w for each in weights for w in each), strict=True):
        parameter.copy_(value)
    return converted.train(layer.training)


def from_separate_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `URLSTM` with the gate ``ur-lstm`` from that of a public implementation of the UR-LSTM.

    There layer k has ``layers.k.igates`` and ``layers.k.hgates`` (weight and bias; blocks forget, refine, candidate,
    output) and ``layers.k.forget_bias [H]``, which is added to the forget gate and taken from the refine gate. Here the
    refine gate comes first, and that bias is part of ``bias_ih``.

    Args:
        state: Its state dict; keys without ``layers.`` are not taken over.

    Raises:
        UserError: A key of a layer is missing or unknown.
    """
    found = [match for match in (re.search(r"layers\.(\d+)\.(.+)$", key) for key in state) if match]
    layers = {int(match[1]) for match in found}
    names = {"forget_bias", *(f"{part}gates.{kind}" for part in "ih" for kind in ("weight", "bias"))}
    if not layers or {(int(match[1]), match[2]) for match in found} != {(k, name) for k in layers for name in names}:
        raise UserError(f"not the state of a UR-LSTM: each layers.N must hold exactly {', '.join(sorted(names))}")
    prefix = found[0].string[: found[0].start()]
    converted: dict[str, Tensor] = {}
    for layer in sorted(layers):
        part = {name: state[f"{prefix}layers.{layer}.{name}"] for name in names}
        shift = part["forget_bias"]
        bias = _swapped(part["igates.bias"]) + torch.cat([-shift, shift, torch.zeros_like(shift).repeat(2)])
        converted |= {
            f"weight_ih_l{layer}": _swapped(part["igates.weight"]),
            f"weight_hh_l{layer}": _swapped(part["hgates.weight"]),
            f"bias_ih_l{layer}": bias,
            f"bias_hh_l{layer}": _swapped(part["hgates.bias"]),
        }
    return converted


def _swapped(rows: Tensor) -> Tensor:
    """With the first two of four blocks of rows changed about."""
    forget, refine, *others = rows.chunk(4)
    return torch.cat([refine, forget, *others])


def _check_torch_equations(layer: URLSTM | URGRU) -> None:
    if layer.mechanism.unit != "torch":
        raise UserError(f"{layer.gate} has other equations than torch's layer: its weights cannot be converted")
