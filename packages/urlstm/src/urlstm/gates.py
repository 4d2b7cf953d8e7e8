"""The gating mechanisms by name: what blocks of units' weights each has, how it starts, and what computes it.

A weight of a layer with H units has H rows for each block, in the order of ``blocks``. The first four stand where
``torch.nn.LSTM`` has i, f, g, o, and the first three where ``torch.nn.GRU`` has r, z, n.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rnncore.errors import UserError

Unit = Literal["torch", "refine", "cumax-refine", "ordered", "refine-gru"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gating mechanism.

    ``start``: what the forget gate's bias is at the beginning, a constant, or drawn by the rules of
    `urlstm.initialisation`; ``unit``: which equations (`urlstm.equations`), where ``torch`` means those of torch's own
    layer.
    """

    blocks: tuple[str, ...]
    unit: Unit
    start: Literal["constant", "uniform", "chrono"] = "constant"

    @property
    def forget(self) -> str:
        """The block that decides how much of the state is kept: the update gate of a GRU."""
        return "forget" if "forget" in self.blocks else "update"

    @property
    def opposite(self) -> str:
        """The block that starts with the negative of the forget gate's bias."""
        return "refine" if "refine" in self.blocks else "input"


_LSTM = ("input", "forget", "candidate", "output")
_REFINE = ("refine", "forget", "candidate", "output")

LSTM_GATES: Mapping[str, Gate] = {
    "lstm": Gate(blocks=_LSTM, unit="torch"),
    "c-lstm": Gate(blocks=_LSTM, unit="torch", start="chrono"),
    "u-lstm": Gate(blocks=_LSTM, unit="torch", start="uniform"),
    "r-lstm": Gate(blocks=_REFINE, unit="refine"),
    "ur-lstm": Gate(blocks=_REFINE, unit="refine", start="uniform"),
    "o-lstm": Gate(blocks=(*_LSTM, "master_input", "master_forget"), unit="ordered"),
    "or-lstm": Gate(blocks=_REFINE, unit="cumax-refine"),
}
GRU_GATES: Mapping[str, Gate] = {
    "gru": Gate(blocks=("reset", "update", "candidate"), unit="torch"),
    "ur-gru": Gate(blocks=("reset", "update", "candidate", "refine"), unit="refine-gru", start="uniform"),
}


def gate_named(name: str, gates: Mapping[str, Gate]) -> Gate:
    """The mechanism of a name; UserError, which lists the names, for another."""
    if name not in gates:
        raise UserError(f"gate must be one of {', '.join(gates)}, not {name!r}")
    return gates[name]
