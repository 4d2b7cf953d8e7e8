"""What gates do on an input: the activations of every layer, for a look at their distribution.

Shapes: T time steps, B batch, I inputs, H units, L layers, D directions.
"""

from typing import TYPE_CHECKING, Any

import torch
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

from urlstm.equations import Values, gru_state, gru_values, lstm_state, lstm_values
from urlstm.gates import Gate
from urlstm.parameters import torch_weights
from urlstm.sequences import State, check_state, read

if TYPE_CHECKING:
    from urlstm.layer import GatedRNN


@torch.no_grad()
def gate_activations(layer: "GatedRNN", input: Tensor, state: Any = None) -> dict[str, Tensor]:
    """`urlstm.layer.URLSTM.gate_activations`: step by step, by the papers' equations."""
    if not isinstance(input, Tensor):
        raise UserError("gate_activations takes a tensor of sequences of one length, not packed ones")
    gate, states = layer.mechanism, len(layer.suffixes)
    dtype = torch_weights(layer, layer.suffixes[0])[0].dtype
    sequences = read(type(layer).__name__, input, layer.input_size, dtype, layer.batch_first)
    if state is None:
        starts: State = (sequences.data.new_zeros(states, sequences.rows[0], layer.hidden_size),) * layer.parts
    else:
        starts = (state,) if isinstance(state, Tensor) else tuple(state)
        check_state(starts, sequences, states, layer.hidden_size)
        starts = sequences.sorted_state(starts)
    x, found = sequences.data, []
    directions = 2 if layer.bidirectional else 1
    for first in range(0, states, directions):
        outputs = []
        for number in range(first, first + directions):
            weights = torch_weights(layer, layer.suffixes[number])
            output, values = _direction(gate, weights, x, [part[number] for part in starts], reverse=number > first)
            outputs.append(output)
            found.append(values)
        x = torch.cat(outputs, dim=2)
    return {name: torch.stack([values[name] for values in found]) for name in found[0]}


def _direction(
    gate: Gate, weights: list[Tensor], x: Tensor, state: list[Tensor], *, reverse: bool
) -> tuple[Tensor, Values]:
    """Outputs ``[T, B, H]`` and the activations of one direction of one layer, each ``[T, B, H]``."""
    ih, hh, *biases = weights
    bias_ih, bias_hh = biases or (None, None)
    from_x, h, steps = F.linear(x, ih, bias_ih), state[0], []
    for now in reversed(from_x) if reverse else from_x:
        from_h = F.linear(h, hh, bias_hh)
        if len(state) == 1:
            values = gru_values(gate, now, from_h)
            h = gru_state(values, h)
        else:
            values = lstm_values(gate, now + from_h)
            h, state[1] = lstm_state(values, state[1])
        steps.append(values | {"output_state": h})
    ordered = steps[::-1] if reverse else steps
    stacked = {name: torch.stack([step[name] for step in ordered]) for name in steps[0]}
    output = stacked.pop("output_state")
    return output, {name: value for name, value in stacked.items() if name not in ("candidate", "write")}
