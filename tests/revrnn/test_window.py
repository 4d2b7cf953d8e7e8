"""Windows: how they are cut, what they keep, what they count, and how they notice numbers out of range."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from revrnn.fixed_point import to_fixed
from revrnn.sequence import Stack
from revrnn.window import CHUNK, Weights, Window, add_product, spans
from rnncore.errors import UserError
from torch import Tensor

I, H, B = 4, 6, 3
GROUPS = {"gru": 2, "lstm": 4}
MakeCells = Callable[..., Any]


def begin(cells: list[Any], kind: str, batch: int = B, active: Tensor | None = None, **options: Any) -> Window:
    """A window from zero states."""
    weights = [Weights(cell.weight_ih, cell.weight_hh, cell.bias) for cell in cells]
    zeros = [
        [torch.zeros(batch, cell.hidden_size // 2, dtype=torch.int32) for _ in range(GROUPS[kind])] for cell in cells
    ]
    return Stack(kind=kind, max_forget=cells[0].max_forget, **options).window(weights, zeros, active)


def forward(window: Window, x: Tensor, keep: bool = False) -> Tensor:
    return torch.cat([window.forward(span, x[slice(*span)], keep) for span in spans(len(x))])


def inputs(steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(steps, B, I, dtype=torch.float64, generator=torch.Generator().manual_seed(steps)).to(dtype)


def test_chunks_are_few_equal_but_the_last_and_complete() -> None:
    for steps in range(1, 1_000):
        cut = spans(steps)
        assert [step for start, end in cut for step in range(start, end)] == list(range(steps))
        lengths = {end - start for start, end in cut[:-1]} or {steps}
        assert len(lengths) == 1
        assert 0 < cut[-1][1] - cut[-1][0] <= max(lengths) <= CHUNK
        assert len(cut) == math.ceil(steps / CHUNK)


@pytest.mark.parametrize("slice_dim", [0, 2])
@pytest.mark.parametrize("kind", GROUPS)
def test_chunks_advance_as_the_cells_do(kind: str, slice_dim: int, make_cells: MakeCells, unroll: Any) -> None:
    """The states after every step, as integers, and the states that are left at the end."""
    torch.manual_seed(0)
    cells, x = make_cells(kind, I, H, 2), inputs(200)
    active = torch.arange(200)[:, None] < torch.tensor([200, 150, 96])
    start = [torch.zeros(GROUPS[kind], B, H // 2, dtype=torch.float64) for _ in cells]
    with torch.no_grad():
        outputs, states = unroll(cells, x, start, active=active, slice_dim=slice_dim)
    window = begin(cells, kind, active=active, reversible=True, slices=(slice_dim, 0))
    for first, last in spans(200):
        assert torch.equal(window.forward((first, last), x[first:last], keep=True), outputs[first:last])
        for k, layer in enumerate(window.layers):
            for g, values in enumerate(layer.kept.pop()[1].groups):
                expected = torch.stack([state[k][g].bits for state in states[first : last + 1]])
                assert torch.equal(to_fixed(values), expected)
    for k, layer in enumerate(window.layers):
        assert all(torch.equal(ours, its.bits) for ours, its in zip(layer.state, states[-1][k], strict=True))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", GROUPS)
def test_keeping_traces_changes_nothing(kind: str, dtype: torch.dtype | None, make_cells: MakeCells) -> None:
    """Forward alone, forward with stored traces, and reversal give the same outputs and, per chunk, the same traces."""
    torch.manual_seed(0)
    cells, x = make_cells(kind, I, H, 2, dtype=torch.float32, scale=0.3), inputs(150, torch.float32)
    reversed_, kept = (begin(cells, kind, reversible=True, dtype=dtype) for _ in range(2))
    outputs = forward(reversed_, x)
    assert torch.equal(forward(kept, x, keep=True), outputs)
    grad = torch.ones(150, B, H)
    for span in reversed(spans(150)):
        reversed_.reverse(span, x[slice(*span)])
        for one, other in zip(reversed_.layers, kept.layers, strict=True):
            (x_one, rebuilt), (x_other, stored) = one.kept[-1], other.kept[-1]
            assert torch.equal(x_one, x_other)
            pairs = zip(rebuilt.groups + rebuilt.gates, stored.groups + stored.gates, strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        rows = grad[slice(*span)]
        assert torch.equal(reversed_.backward(rows), kept.backward(rows))
    for one, other in zip(reversed_.layers, kept.layers, strict=True):
        assert one.grads.bias is not None
        assert all(torch.equal(a, b) for a, b in zip(one.grads, other.grads, strict=True))


def test_a_window_of_half_precision_products_is_near_the_full_one(make_cells: MakeCells) -> None:
    torch.manual_seed(0)
    cells, x = make_cells("gru", I, H, dtype=torch.float32, scale=0.5), inputs(20, torch.float32)
    exact = forward(begin(cells, "gru"), x)
    rounded = forward(begin(cells, "gru", dtype=torch.bfloat16), x)
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).abs().max()) < 0.03


@pytest.mark.parametrize("max_forget", [0.5, 0.875, 1.0])
@pytest.mark.parametrize("slice_dim", [0, 1, 3])
@pytest.mark.parametrize("kind", GROUPS)
def test_bits_of_known_gates(kind: str, slice_dim: int, max_forget: float, make_cells: MakeCells) -> None:
    """Without weights all forget gates are m/2 + 1 - m, so that each forgets a known number of bits."""
    steps = 200
    cells = make_cells(kind, I, H, 2, max_forget=max_forget, scale=0.0)
    window = begin(cells, kind, reversible=True, slices=(slice_dim, 0), count_bits=True)
    forward(window, inputs(steps))
    bits, stored = window.bits(), steps * B * slice_dim
    units = 2 * steps * B * GROUPS[kind] * H // 2
    assert bits.normal == 32 * units
    assert bits.optimal == pytest.approx((units - stored) * -math.log2(1 - max_forget / 2) + 32 * stored, rel=1e-12)
    buffers = {id(buffer): buffer for layer in window.layers for buffer in layer.buffers if buffer is not None}
    assert len(buffers) == (2 if slice_dim == 0 else 3)
    assert bits.used == sum(buffer.used_bits for buffer in buffers.values()) + 32 * stored


@pytest.mark.parametrize("kind", GROUPS)
def test_bits_without_buffers(kind: str, make_cells: MakeCells) -> None:
    torch.manual_seed(0)
    window = begin(make_cells(kind, I, H), kind, count_bits=True)
    forward(window, inputs(20))
    assert window.bits().used == 0
    assert window.bits().normal == 32 * 20 * B * GROUPS[kind] * H // 2
    assert 0 < window.bits().optimal < window.bits().normal


@pytest.mark.parametrize("kind", GROUPS)
def test_optimal_bits_are_of_the_gates(kind: str, make_cells: MakeCells) -> None:
    """-log2 of each forget gate, from the gates that stored traces hold."""
    torch.manual_seed(0)
    cells = make_cells(kind, I, H)
    window = begin(cells, kind, count_bits=True)
    forward(window, inputs(20), keep=True)
    ((_, trace),) = window.layers[0].kept
    if kind == "gru":
        forgetting = [trace.gates[0][..., : H // 2], trace.gates[2][..., : H // 2]]
    else:
        forgetting = [gates.unflatten(2, (5, -1))[:, :, k] for gates in trace.gates for k in (1, 4)]
    gates = [0.875 * s + 0.125 for gate in forgetting for s in gate.flatten().tolist()]
    assert window.bits().optimal == pytest.approx(sum(-math.log2(z) for z in gates), rel=1e-12)


@pytest.mark.parametrize("kind", GROUPS)
def test_buffers_save_memory(kind: str, make_cells: MakeCells) -> None:
    """With the weights that layers begin with, states take less than an eighth of their size."""
    torch.manual_seed(0)
    scale = 1 / math.sqrt(I + H // 2)
    window = begin(make_cells(kind, I, H, scale=scale), kind, reversible=True, count_bits=True)
    forward(window, inputs(400))
    bits = window.bits()
    assert bits.normal > 8 * bits.used
    assert bits.used > bits.optimal


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """All tensors that an object of ours holds."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors_in(part)
    elif type(thing).__module__.split(".")[0] in ("revrnn", "rnncore"):
        yield from tensors_in(list(vars(thing).values()))


def bytes_held(window: Window) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors_in(window)}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("slice_dim", [0, 1])
@pytest.mark.parametrize("kind", GROUPS)
def test_only_buffers_and_slices_grow_with_the_window(kind: str, slice_dim: int, make_cells: MakeCells) -> None:
    torch.manual_seed(0)
    cells = make_cells(kind, I, H, 2, scale=0.3)
    held, used = [], []
    for chunks in (2, 8):
        window = begin(cells, kind, reversible=True, slices=(slice_dim, 0))
        forward(window, inputs(chunks * CHUNK))
        held.append(bytes_held(window))
        used.append(window.bits().used)
    # Empty words are allocated in blocks, at most as many as there are full ones.
    assert 0 < held[1] - held[0] <= 2 * (used[1] - used[0]) / 8
    stored = begin(cells, kind)
    forward(stored, inputs(8 * CHUNK), keep=True)
    assert bytes_held(stored) > 5 * held[1]


def growing(make_cells: MakeCells) -> list[Any]:
    """An LSTM whose h grows by almost 1.0 at each step: all gates open, nothing forgotten."""
    cells = make_cells("lstm", I, H, max_forget=0.01, scale=0.0)
    with torch.no_grad():
        cells[0].bias.fill_(20.0)
    return list(cells)


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("steps", [300, 520, 1_100])
@pytest.mark.usefixtures("operators")
def test_leaving_the_range_is_noticed(steps: int, buffered: bool, make_cells: MakeCells) -> None:
    """At once, and long after: the state goes round the int32 numbers several times, back into the range."""
    window = begin(growing(make_cells), "lstm", buffered=buffered)
    forward(window, inputs(steps))
    with pytest.raises(UserError, match=r"left the fixed-point range \(-256, 256\)") as caught:
        window.check()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("operators")
def test_within_the_range_all_is_well(make_cells: MakeCells) -> None:
    window = begin(growing(make_cells), "lstm")
    last = forward(window, inputs(240))[-1]
    window.check()
    assert 230 < float(last.min()) <= float(last.max()) < 254
    forward(window, inputs(20))
    with pytest.raises(UserError, match="left the fixed-point range"):
        window.check()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_products_are_added(dtype: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    total, a, b = (torch.randn(size, generator=generator) for size in ((3, 5), (3, 4), (4, 5)))
    low = [a, b] if dtype is None else [a.to(dtype), b.to(dtype)]
    expected = total.double() + low[0].double() @ low[1].double()
    add_product(total, a, b, dtype)
    bound = 1e-6 if dtype is None else 2.0**-8 * 4
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=bound)
