"""Where the gates of recurrent layers lie in the rows of their weights."""

from dataclasses import dataclass

from rnncore.lstm import LSTMLayer
from torch import nn

_TORCH_GATES = {"LSTM": "ifgo", "GRU": "rzn"}


@dataclass(frozen=True)
class GateLayout:
    """``rows``: the rows of each gate, by its name; ``layer``: the recurrent layer, which has several weights."""

    layer: str
    rows: dict[str, slice]


def gate_layouts(module: nn.Module) -> dict[str, GateLayout]:
    """The layout of every weight matrix of gates below ``module``, by the parameter's name in ``named_parameters()``.

    Known are torch's LSTMs and GRUs and their cells, the core's LSTM, and any module with a method ``gate_rows`` that
    gives a dict of slices, the same for all its weights.
    """
    found: dict[str, GateLayout] = {}
    for path, part in module.named_modules():
        rows = _rows(part)
        if rows is None:
            continue
        for name, parameter in part.named_parameters():
            if parameter.ndim == 2 and len(parameter) == max(place.stop for place in rows.values()):
                layer = path + name[name.find("_l") :] if isinstance(part, nn.RNNBase) else path
                found[f"{path}.{name}" if path else name] = GateLayout(layer, rows)
    return found


def _rows(part: nn.Module) -> dict[str, slice] | None:
    if callable(of_part := getattr(part, "gate_rows", None)):
        rows: dict[str, slice] = of_part()
        return rows
    if isinstance(part, nn.RNNBase):
        names = _TORCH_GATES.get(part.mode, "")
    elif isinstance(part, LSTMLayer | nn.LSTMCell):
        names = _TORCH_GATES["LSTM"]
    else:
        names = _TORCH_GATES["GRU"] if isinstance(part, nn.GRUCell) else ""
    if not names:
        return None
    size = int(part.hidden_size)  # type: ignore[arg-type]
    return {name: slice(number * size, (number + 1) * size) for number, name in enumerate(names)}
