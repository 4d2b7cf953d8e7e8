"""How gates start: uniform gate initialisation, chrono initialisation, a constant forget bias.

Gu et al. 2019 (arXiv 1910.09890), equation 12: the bias of the forget gate is drawn so that its activations are uniform
on (1/d, 1 - 1/d), d the number of units, and the gate that stands against it (input or refine) gets the negative.
Tallec and Ollivier 2018 (arXiv 1804.11188): chrono initialisation.
"""

import torch
from rnncore.errors import UserError
from torch import Tensor

from urlstm.gates import Gate


def uniform_bias(hidden_size: int) -> Tensor:
    """``-log(1/u - 1)``, u uniform on (1/d, 1 - 1/d), ``[d]`` in float64, from torch's random numbers.

    Raises:
        UserError: d is 1, for which the interval is empty.
    """
    if hidden_size < 2:
        raise UserError("uniform gates need a hidden_size of at least 2: (1/d, 1 - 1/d) is empty for d = 1")
    u = torch.empty(hidden_size, dtype=torch.float64).uniform_(1 / hidden_size, 1 - 1 / hidden_size)
    return torch.logit(u)


def chrono_bias(hidden_size: int, t_max: int | None) -> Tensor:
    """``log(u)``, u uniform on (1, t_max - 1), ``[hidden_size]`` in float64, from torch's random numbers.

    Args:
        hidden_size: The number of units.
        t_max: The longest dependency expected, in time steps: such as the length of the sequences.

    Raises:
        UserError: ``t_max`` is absent or below 3, for which the interval is empty.
    """
    if t_max is None or t_max < 3:
        raise UserError(f"chrono initialisation needs t_max, the longest dependency in steps, at least 3, not {t_max}")
    return torch.empty(hidden_size, dtype=torch.float64).uniform_(1, t_max - 1).log_()


def starting_biases(gate: Gate, hidden_size: int, forget_bias: float | None, t_max: int | None) -> dict[str, Tensor]:
    """The whole bias of those blocks of a gate that do not start as torch's layers do, each ``[hidden_size]``.

    Args:
        gate: The mechanism.
        hidden_size: The number of units.
        forget_bias: Where the gate starts with a constant; None: as torch's layers.
        t_max: As of `chrono_bias`.

    Raises:
        UserError: As `uniform_bias` and `chrono_bias`.
    """
    if gate.start == "constant":
        return {} if forget_bias is None else {gate.forget: torch.full((hidden_size,), float(forget_bias))}
    forget = uniform_bias(hidden_size) if gate.start == "uniform" else chrono_bias(hidden_size, t_max)
    return {gate.forget: forget, gate.opposite: -forget}
