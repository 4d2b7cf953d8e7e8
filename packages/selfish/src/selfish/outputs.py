"""What the language models of this package have in common. Shapes: T time steps, B batch, H units of a layer."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

#: What follows each layer's last time step: (h, c) of an LSTM or ON-LSTM layer, s of a highway layer, ``[1, B, H]``.
State = Sequence[Any]


class Outputs(NamedTuple):
    """What a window gives: each layer's outputs ``[T, B, H]`` before and after dropout, and the state after it.

    ``distances``: of an ON-LSTM, what its forget gates and its input gates tell, ``[L, T, B]`` each.
    """

    raw: list[Tensor]
    dropped: list[Tensor]
    state: State
    distances: tuple[Tensor, Tensor] | None = None


def run_layers(layers: Iterable[nn.Module], drops: Iterable[nn.Module], x: Tensor, state: State) -> Outputs:
    """Runs layers one after the other, each from its own state and each followed by its dropout."""
    raw, dropped, last = [], [], []
    for layer, drop, before in zip(layers, drops, state, strict=True):
        x, after = layer(x, before)
        raw.append(x)
        x = drop(x)
        dropped.append(x)
        last.append(after)
    return Outputs(raw, dropped, last)
