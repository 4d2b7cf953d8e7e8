"""What the tests of the reversible networks share: devices, threads, operators, golden numbers, and an oracle.

Shapes: T time steps, B batch, I inputs, H units, G = H / 2 units of one group.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from revrnn import eager, gru_kernel, kernels, lstm_kernel
from revrnn.buffer import InformationBuffer
from revrnn.cell import RevGRUCell, RevLSTMCell
from revrnn.forget import Fixed, fixed
from torch import Tensor

Cell = RevGRUCell | RevLSTMCell
CELLS: dict[str, type[Cell]] = {"gru": RevGRUCell, "lstm": RevLSTMCell}
GROUPS = {"gru": 2, "lstm": 4}


@pytest.fixture
def native_operators() -> object:
    """The C++ operators of a time step."""
    found = kernels.operators(torch.device("cpu"))
    if found is eager:
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return found


@pytest.fixture(params=["native", "eager"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """The C++ operators of a time step, then the readable ones, each chosen for the test."""
    if request.param == "native":
        return request.getfixturevalue("native_operators")
    for module in (gru_kernel, lstm_kernel):
        monkeypatch.setattr(module, "operators", lambda device: eager)
    return eager


@pytest.fixture
def make_cells() -> Callable[..., list[Cell]]:
    return _make_cells


@pytest.fixture
def unroll() -> Callable[..., tuple[Tensor, list[list[list[Fixed]]]]]:
    return _unroll


def _make_cells(
    kind: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    max_forget: float = 0.875,
    bias: bool = True,
    scale: float = 0.7,
    dtype: torch.dtype = torch.float64,
) -> list[Cell]:
    """Cells of a stack, with weights uniform in (-scale, scale)."""
    sizes = [input_size] + [hidden_size] * num_layers
    cells = [CELLS[kind](before, after, bias, max_forget).to(dtype) for before, after in pairwise(sizes)]
    with torch.no_grad():
        for cell in cells:
            for parameter in cell.parameters():
                parameter.uniform_(-scale, scale)
    return cells


def _unroll(
    cells: Sequence[Cell],
    x: Tensor,
    state: Sequence[Sequence[Tensor]],
    *,
    buffered: bool = True,
    active: Tensor | None = None,
    slice_dim: int = 0,
    masks: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, list[list[list[Fixed]]]]:
    """The oracle of the fast path: cells, one after the other, step by step, with autograd.

    Args:
        x: ``[T, B, I]``.
        state: For each layer its groups ``[B, G]``, real numbers.
        buffered: Whether each layer has a buffer (and one more for a sliced group).
        active: bool ``[T, B]``.
        slice_dim: Of the last layer.
        masks: Of each layer's outputs.

    Returns:
        The last layer's outputs ``[T, B, H]``, and the states: of each time from 0 to T, layer and group.
    """
    masks = masks or [None] * len(cells)
    states: list[list[list[Fixed]]] = [[[fixed(group) for group in layer] for layer in state]]
    buffers = [
        _buffers(cell, x.shape[1], slice_dim if cell is cells[-1] else 0) if buffered else [None] * len(state[0])
        for cell in cells
    ]
    outputs = []
    for t, value in enumerate(x):
        rows, last, now = None if active is None else active[t], value, []
        for k, (cell, mask) in enumerate(zip(cells, masks, strict=True)):
            sliced = slice_dim if cell is cells[-1] else 0
            now.append(list(cell(last, states[-1][k], buffers[k], rows, sliced)))
            last = torch.cat([now[-1][0].value, now[-1][1].value], dim=1)
            last = last if mask is None else last * mask[0]
        states.append(now)
        outputs.append(last)
    return torch.stack(outputs), states


def _buffers(cell: Cell, batch: int, slice_dim: int) -> list[InformationBuffer]:
    group, m = cell.hidden_size // 2, cell.max_forget
    shared = InformationBuffer(batch, group, max_forget=m)
    first = InformationBuffer(batch, group - slice_dim, max_forget=m) if slice_dim else shared
    return [first] + [shared] * (1 if isinstance(cell, RevGRUCell) else 3)
