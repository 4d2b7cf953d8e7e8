"""The equations of one time step of every unit, as the papers write them.

Gu et al. 2019 (arXiv 1910.09890) for the refine gate, Shen et al. 2019 (arXiv 1810.09536) for cumax and master gates.

Shapes: ``...`` any, H units, K blocks. A ``Values`` holds the activations of the blocks of a gate by name, and what is
made of them, each ``[..., H]``.
"""

import torch
from torch import Tensor

from urlstm.gates import Gate

Values = dict[str, Tensor]


def cumax(x: Tensor) -> Tensor:
    """The cumulative sum of the softmax over units: rises from 0 to 1 (Shen et al., section 4)."""
    return torch.softmax(x, dim=-1).cumsum(dim=-1)


def refined(forget: Tensor, refine: Tensor) -> Tensor:
    """The effective gate ``g = r (1 - (1 - f)^2) + (1 - r) f^2`` (Gu et al., equation 10)."""
    return refine * (1 - (1 - forget) ** 2) + (1 - refine) * forget**2


def lstm_values(gate: Gate, x: Tensor) -> Values:
    """What the blocks ``x`` ``[..., K H]`` of an LSTM's gates are after activation.

    Besides the blocks, ``keep`` and ``write``: the factors of the old cell and of the candidate in the new cell.
    """
    values: Values = {}
    for name, block in zip(gate.blocks, x.chunk(len(gate.blocks), dim=-1), strict=True):
        if name == "candidate":
            values[name] = torch.tanh(block)
        elif name == "master_input":
            values[name] = 1 - cumax(block)
        elif name == "master_forget" or (name == "forget" and gate.unit == "cumax-refine"):
            values[name] = cumax(block)
        else:
            values[name] = torch.sigmoid(block)
    return values | _shares(gate, values)


def _shares(gate: Gate, values: Values) -> Values:
    if gate.unit == "ordered":  # Shen et al., section 4: where both master gates are open, the ordinary ones decide
        overlap = values["master_forget"] * values["master_input"]
        keep = values["forget"] * overlap + (values["master_forget"] - overlap)
        return {"keep": keep, "write": values["input"] * overlap + (values["master_input"] - overlap)}
    if gate.opposite == "refine":
        keep = refined(values["forget"], values["refine"])
        return {"keep": keep, "write": 1 - keep}
    return {"keep": values["forget"], "write": values["input"]}


def lstm_state(values: Values, c: Tensor) -> tuple[Tensor, Tensor]:
    """The new hidden state and cell ``[..., H]``, from the old cell."""
    c = values["keep"] * c + values["write"] * values["candidate"]
    return values["output"] * torch.tanh(c), c


def gru_values(gate: Gate, from_x: Tensor, from_h: Tensor) -> Values:
    """What the blocks of a GRU's gates are after activation; ``keep`` is the factor of the old state in the new one.

    Args:
        gate: The mechanism.
        from_x, from_h: ``[..., K H]``, what the input and the old hidden state give, biases included.
    """
    x = dict(zip(gate.blocks, from_x.chunk(len(gate.blocks), dim=-1), strict=True))
    h = dict(zip(gate.blocks, from_h.chunk(len(gate.blocks), dim=-1), strict=True))
    values = {name: torch.sigmoid(x[name] + h[name]) for name in gate.blocks if name != "candidate"}
    values["candidate"] = torch.tanh(x["candidate"] + values["reset"] * h["candidate"])
    values["keep"] = refined(values["update"], values["refine"]) if "refine" in values else values["update"]
    return values


def gru_state(values: Values, h: Tensor) -> Tensor:
    """The new hidden state ``[..., H]``, from the old one."""
    return values["keep"] * h + (1 - values["keep"]) * values["candidate"]
