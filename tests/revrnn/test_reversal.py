"""Windows forward and back: every state is rebuilt to the bit, whatever the arithmetic, length, threads or device."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn.buffer import InformationBuffer, uses_per_word
from revrnn.sequence import Stack
from revrnn.window import Weights, Window, spans
from torch import Tensor

GROUPS = {"gru": 2, "lstm": 4}
SCALES = {"gru": 1.0, "lstm": 0.3}  # of weights; larger ones drive the LSTM's h out of its range, as they may
MAX_FORGETS = [0.5, 0.75, 0.875, 0.96875, 1.0]
MakeCells = Callable[..., Any]


class There:
    """A window that has gone forward, and all that it was on the way, put aside as the oracle."""

    def __init__(
        self,
        cells: list[Any],
        kind: str,
        x: Tensor,
        *,
        active: Tensor | None = None,
        slices: tuple[int, int] = (0, 0),
        dtype: torch.dtype | None = None,
    ) -> None:
        stack = Stack(
            kind=kind,
            max_forget=cells[0].max_forget,
            reversible=True,
            slices=slices,
            dtype=dtype,
            count_bits=True,
        )
        weights = [Weights(cell.weight_ih, cell.weight_hh, cell.bias) for cell in cells]
        generator = torch.Generator().manual_seed(7)
        limit = 2**22  # half of 1.0
        state = [
            [
                torch.randint(-limit, limit, (x.shape[1], cell.hidden_size // 2), generator=generator)
                .int()
                .to(x.device)
                for _ in range(GROUPS[kind])
            ]
            for cell in cells
        ]
        self.x, self.window = x, stack.window(weights, state, active)
        self.empty_bits = self.window.bits().used
        self.integers = [self._integers()]
        self.values: list[list[Tensor]] = []
        self.outputs: list[Tensor] = []
        for span in spans(len(x)):
            self.outputs.append(self.window.forward(span, x[slice(*span)], keep=True))
            self.integers.append(self._integers())
            self.values.append(self._states())
        self.window.check()
        self.bits = self.window.bits()

    def _integers(self) -> list[Tensor]:
        return [group.clone() for layer in self.window.layers for group in layer.state]

    def _states(self) -> list[Tensor]:
        """All states of the chunk that was last computed or rebuilt, as real numbers."""
        return [group for layer in self.window.layers for group in layer.kept.pop()[1].groups]

    def and_back(self) -> None:
        """Reverses, and compares the integers at the ends of chunks, all states between, and all outputs."""
        assert not equal(self.integers[-1], self.integers[0])
        for span in reversed(spans(len(self.x))):
            assert equal(self._integers(), self.integers.pop())
            assert torch.equal(self.window.reverse(span, self.x[slice(*span)]), self.outputs.pop())
            assert equal(self._states(), self.values.pop())
        assert equal(self._integers(), self.integers.pop())
        assert self.window.bits().used == self.empty_bits
        assert_empty(self.window)


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def assert_empty(window: Window) -> None:
    for layer in window.layers:
        assert layer.saved == []
        for buffer in layer.buffers:
            assert buffer is not None
            assert not buffer.word.any()


def inputs(steps: int, batch: int, features: int, scale: float = 1.0) -> Tensor:
    return torch.randn(steps, batch, features, generator=torch.Generator().manual_seed(steps)) * scale


@pytest.mark.slow
@pytest.mark.parametrize("max_forget", MAX_FORGETS)
@pytest.mark.parametrize("kind", GROUPS)
def test_ten_thousand_steps(kind: str, max_forget: float, make_cells: MakeCells) -> None:
    """Three layers, which hold stacks of one and of two (a layer knows nothing of those above), lengths and a slice.

    Below 2.0 a float32 is exactly the fixed-point number, so that comparing values compares all integers.
    """
    torch.manual_seed(0)
    cells = make_cells(kind, 4, 6, 3, max_forget=max_forget, scale=SCALES[kind] / 2, dtype=torch.float32)
    steps = 10_000
    active = torch.arange(steps)[:, None] < torch.tensor([steps, 7_001, 3])
    there = There(cells, kind, inputs(steps, 3, 4, 0.5), active=active, slices=(1, 2))
    assert max(float(group.abs().max()) for chunk in there.values for group in chunk) < 2.0
    assert there.bits.used > 100 * there.empty_bits
    there.and_back()


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("slices", [(0, 0), (2, 0), (0, 1), (3, 3)])
@pytest.mark.parametrize("lengths", [None, (400, 200, 0)])
@pytest.mark.parametrize("kind", GROUPS)
def test_every_depth(
    kind: str, lengths: tuple[int, ...] | None, slices: tuple[int, int], num_layers: int, make_cells: MakeCells
) -> None:
    """float64, where values are exact for any magnitude."""
    torch.manual_seed(0)
    cells = make_cells(kind, 4, 6, num_layers, scale=SCALES[kind])
    active = None if lengths is None else torch.arange(400)[:, None] < torch.tensor(lengths)
    There(cells, kind, inputs(400, 3, 4).double(), active=active, slices=slices).and_back()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("steps", [1, 13, 97, 191])
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", GROUPS)
def test_any_precision_length_and_device(
    kind: str,
    precision: str,
    steps: int,
    threads: int,
    device: torch.device,
    make_cells: MakeCells,
    set_threads: Callable[[int], None],
) -> None:
    set_threads(threads)
    torch.manual_seed(0)
    wide = torch.float64 if precision == "float64" else torch.float32
    cells = [cell.to(device) for cell in make_cells(kind, 7, 22, 2, scale=0.3, dtype=wide)]
    lengths = torch.tensor([steps, steps // 2, steps, 1, 0], device=device)
    active = torch.arange(steps, device=device)[:, None] < lengths
    x = inputs(steps, 5, 7).to(device, wide)
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    There(cells, kind, x, active=active, slices=(3, 0), dtype=dtype).and_back()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", GROUPS)
def test_sizes_that_take_several_threads(
    kind: str, precision: str, device: torch.device, make_cells: MakeCells, set_threads: Callable[[int], None]
) -> None:
    """The sizes of the paper's language model, where products and pointwise work are cut between threads."""
    set_threads(2)
    torch.manual_seed(0)
    cells = [cell.to(device) for cell in make_cells(kind, 650, 650, scale=0.04, dtype=torch.float32)]
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    There(cells, kind, inputs(35, 20, 650).to(device), dtype=dtype).and_back()


@pytest.mark.parametrize("max_forget", MAX_FORGETS)
@pytest.mark.parametrize("kind", GROUPS)
def test_words_by_schedule(
    kind: str, max_forget: float, make_cells: MakeCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU, the schedule of words that a CUDA device follows."""
    plain = InformationBuffer.__init__

    def scheduled(self: InformationBuffer, *args: Any, max_forget: float, **kwargs: Any) -> None:
        plain(self, *args, max_forget=max_forget, **kwargs)
        self._scheduled = uses_per_word(max_forget)

    monkeypatch.setattr(InformationBuffer, "__init__", scheduled)
    torch.manual_seed(0)
    steps, batch, most = 300, 3, uses_per_word(max_forget)
    cells = make_cells(kind, 4, 6, 2, max_forget=max_forget, scale=SCALES[kind])
    there = There(cells, kind, inputs(steps, batch, 4).double(), slices=(1, 0))
    expected = 32 * steps * batch
    for units, groups in [(3, GROUPS[kind]), (3, GROUPS[kind] - 1), (2, 1)]:  # the second layer has two buffers
        count = steps * groups
        expected += 64 * batch * units * math.ceil(count / most) + 8 * (count // 8 + 1)
    assert there.bits.used == expected
    there.and_back()


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.usefixtures("operators")
def test_native_and_eager_operators(kind: str, make_cells: MakeCells) -> None:
    torch.manual_seed(0)
    cells = make_cells(kind, 4, 6, 2, dtype=torch.float32)
    active = torch.arange(150)[:, None] < torch.tensor([150, 70, 99])
    There(cells, kind, inputs(150, 3, 4), active=active, slices=(2, 3)).and_back()
