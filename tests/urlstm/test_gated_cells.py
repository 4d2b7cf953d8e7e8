"""One time step of each gate, against the papers' formulas computed number by number, and against torch's cells."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from urlstm import URGRUCell, URLSTMCell
from urlstm.equations import cumax, refined
from urlstm.gates import GRU_GATES, LSTM_GATES

I, H, B = 3, 5, 2


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cumulative_shares(x: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in x)
    return [sum(math.exp(value) for value in x[: k + 1]) / total for k in range(len(x))]


def lstm_by_hand(gate: str, p: list[list[float]], c: list[float]) -> tuple[list[float], list[float]]:
    """The new hidden state and cell of one sequence, from the blocks before activation, unit by unit."""
    hidden, cells = [], []
    for k, old in enumerate(c):
        candidate, out = math.tanh(p[2][k]), sigma(p[3][k])
        first, second = sigma(p[0][k]), sigma(p[1][k])
        if gate == "or-lstm":
            second = cumulative_shares(p[1])[k]
        if gate in ("r-lstm", "ur-lstm", "or-lstm"):
            kept = 2 * first * second + (1 - 2 * first) * second**2
            new = kept * old + (1 - kept) * candidate
        elif gate == "o-lstm":
            master_in, master_forget = 1 - cumulative_shares(p[4])[k], cumulative_shares(p[5])[k]
            overlap = master_in * master_forget
            kept, written = second * overlap + master_forget - overlap, first * overlap + master_in - overlap
            new = kept * old + written * candidate
        else:
            new = second * old + first * candidate
        cells.append(new)
        hidden.append(out * math.tanh(new))
    return hidden, cells


def gru_by_hand(gate: str, x: list[list[float]], q: list[list[float]], h: list[float]) -> list[float]:
    """The new hidden state, from what input and old state give to the blocks."""
    new = []
    for k, old in enumerate(h):
        reset, update = (sigma(x[part][k] + q[part][k]) for part in (0, 1))
        candidate = math.tanh(x[2][k] + reset * q[2][k])
        if gate == "ur-gru":
            refine = sigma(x[3][k] + q[3][k])
            update = 2 * refine * update + (1 - 2 * refine) * update**2
        new.append(update * old + (1 - update) * candidate)
    return new


def blocks_of(x: Tensor, weight: Tensor, bias: Tensor) -> list[list[float]]:
    """For one sequence, each block's numbers before activation."""
    return [block.tolist() for block in (weight @ x + bias).detach().split(H)]


@pytest.mark.parametrize("gate", LSTM_GATES)
def test_lstm_gates_by_hand(gate: str, numbers: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    cell = URLSTMCell(I, H, gate=gate, t_max=9).double()
    x, h, c = (numbers(B, n, seed=n + k) for k, n in enumerate((I, H, H)))
    new_h, new_c = cell(x, (h, c))
    for row in range(B):
        ours = zip(
            blocks_of(x[row], cell.weight_ih, cell.bias_ih),
            blocks_of(h[row], cell.weight_hh, cell.bias_hh),
            strict=True,
        )
        pre = [[a + b for a, b in zip(*pair, strict=True)] for pair in ours]
        hidden, cells = lstm_by_hand(gate, pre, c[row].tolist())
        torch.testing.assert_close(new_h[row], torch.tensor(hidden, dtype=torch.float64), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(new_c[row], torch.tensor(cells, dtype=torch.float64), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("gate", GRU_GATES)
def test_gru_gates_by_hand(gate: str, numbers: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    cell = URGRUCell(I, H, gate=gate).double()
    x, h = numbers(B, I), numbers(B, H, seed=1)
    new = cell(x, h)
    for row in range(B):
        from_x = blocks_of(x[row], cell.weight_ih, cell.bias_ih)
        from_h = blocks_of(h[row], cell.weight_hh, cell.bias_hh)
        expected = torch.tensor(gru_by_hand(gate, from_x, from_h, h[row].tolist()), dtype=torch.float64)
        torch.testing.assert_close(new[row], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(URLSTMCell(I, H, gate="lstm"), nn.LSTMCell(I, H)), (URGRUCell(I, H, gate="gru"), nn.GRUCell(I, H))],
)
def test_plain_gates_are_torchs(
    ours: Any, theirs: Any, with_state: bool, batched: bool, numbers: Callable[..., Tensor]
) -> None:
    ours.double().load_state_dict(theirs.double().state_dict())
    shape = (B,) if batched else ()
    states = tuple(numbers(*shape, H, seed=k) for k in (1, 2))
    state = (states if isinstance(theirs, nn.LSTMCell) else states[0]) if with_state else None
    results = [cell(numbers(*shape, I), state) for cell in (ours, theirs)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


def test_the_effective_gate_spans_what_the_paper_says() -> None:
    """Between f^2 at r = 0 and 1 - (1 - f)^2 at r = 1, and f itself at r = 1/2 (Gu et al., figure 2)."""
    f = torch.linspace(0, 1, 11, dtype=torch.float64)
    for r, expected in ((0.0, f**2), (0.5, f), (1.0, 1 - (1 - f) ** 2)):
        torch.testing.assert_close(refined(f, torch.full_like(f, r)), expected)


def test_cumax_is_the_cumulative_softmax(numbers: Callable[..., Tensor]) -> None:
    x = numbers(4, 7) * 3
    expected = torch.tensor([cumulative_shares(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(cumax(x), expected)


MISFITS: list[tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None]] = [
    ((2, 2, I), None, None),
    ((2, I + 1), None, None),
    ((2, I), (3, H), (2, H)),
    ((2, I), (2, H), (3, H)),
    ((2, I), (2, H + 1), (2, H)),
    ((2, I), (2, 1, H), (2, H)),
]


@pytest.mark.parametrize(("x", "h", "c"), MISFITS)
@pytest.mark.parametrize("lstm", [True, False])
def test_shapes_that_do_not_fit_are_refused_as_by_torch(
    lstm: bool, x: tuple[int, ...], h: tuple[int, ...] | None, c: tuple[int, ...] | None
) -> None:
    cells = (URLSTMCell(I, H), nn.LSTMCell(I, H)) if lstm else (URGRUCell(I, H), nn.GRUCell(I, H))
    if not lstm and h == (2, H):
        pytest.skip("a GRU has no cell to misfit")
    state: Any = None
    if h is not None and c is not None:
        state = (torch.zeros(h), torch.zeros(c)) if lstm else torch.zeros(h)
    found = []
    for cell in cells:
        with pytest.raises((ValueError, RuntimeError)) as raised:
            cell(torch.zeros(x), state)
        found.append((type(raised.value), str(raised.value).replace("UR", "")))
    assert found[0] == found[1]


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        URLSTMCell(3, 0, gate="lstm")
    with pytest.raises(ValueError, match="input_size must be greater than zero"):
        URGRUCell(0, 3)
