"""The hand-written gradients against finite differences, and the native recurrences against the readable ones.

Shapes: N rows of all time steps, B of the longest, I inputs, H units, K blocks.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from urlstm import kernels, sequence
from urlstm.gates import Unit
from urlstm.sequence import Weights

BLOCKS: dict[Unit, int] = {"refine": 4, "cumax-refine": 4, "ordered": 6, "refine-gru": 4}
each_unit = pytest.mark.parametrize("unit", BLOCKS)
I = 2


@pytest.fixture
def native() -> None:
    """Skips where there are no native kernels."""
    if not kernels.use_native(torch.device("cpu")):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")


def problem(unit: Unit, rows: list[int], units: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random arguments of a recurrence: x, h0, c0, weights, biases."""
    generator = torch.Generator().manual_seed(sum(rows) + units)
    wide, batch = BLOCKS[unit] * units, rows[0]
    state = [(batch, units), (batch, units) if unit != "refine-gru" else (0,)]
    shapes = [(sum(rows), I), *state, (wide, I), (wide, units), (wide,), (wide,)]
    scale = [1.0, 1.0, 1.0, 0.7, 2 / units**0.5, 0.5, 0.5]
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * s).to(dtype).requires_grad_(bool(shape[0]))
        for shape, s in zip(shapes, scale, strict=True)
    ]


def run(unit: Unit, rows: list[int], reverse: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    x, h0, c0, ih, hh, bias, bias_hh = tensors
    gru = unit == "refine-gru"
    weights = Weights(ih, hh, bias, bias_hh if gru else None)
    results = sequence.run(unit, x, h0, None if gru else c0, weights, rows, reverse=reverse)
    return results[:2] if gru else results


@each_unit
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [[2, 2, 2], [3, 2, 2, 1]])
@pytest.mark.usefixtures("operators")
def test_gradients_against_finite_differences(unit: Unit, rows: list[int], reverse: bool) -> None:
    tensors = problem(unit, rows, 3)
    assert torch.autograd.gradcheck(lambda *given: run(unit, rows, reverse, *given), tensors)


@each_unit
@pytest.mark.usefixtures("operators")
def test_only_the_gradients_that_are_asked_for(unit: Unit) -> None:
    """Without bias, and with each input in turn the only one that needs a gradient."""
    tensors = problem(unit, [2, 2], 3)
    wanted = [number for number, tensor in enumerate(tensors) if tensor.requires_grad]
    loss = run(unit, [2, 2], False, *tensors)[0].sum()
    whole = torch.autograd.grad(loss, [tensors[number] for number in wanted], allow_unused=True)
    for number, expected in zip(wanted, whole, strict=True):
        if expected is not None:
            alone = [t.detach().requires_grad_(k == number) for k, t in enumerate(tensors)]
            found = torch.autograd.grad(run(unit, [2, 2], False, *alone)[0].sum(), alone[number])[0]
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    x, h0, c0, ih, hh, bias, bias_hh = (t.detach() for t in tensors)
    zero = [x, h0, c0, ih, hh, torch.zeros_like(bias), torch.zeros_like(bias_hh)]
    without = sequence.run(unit, x, h0, None if unit == "refine-gru" else c0, Weights(ih, hh, None), [2, 2])
    torch.testing.assert_close(without[0], run(unit, [2, 2], False, *zero)[0], rtol=1e-12, atol=1e-12)


@each_unit
@pytest.mark.parametrize(
    ("rows", "units"),
    [([1], 1), ([5, 5, 5], 16), ([13, 12, 7, 6, 1], 33), ([25, 25], 70), ([40, 3], 129), ([3, 0], 7)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.usefixtures("native")
def test_native_and_readable_recurrences_agree(
    unit: Unit, rows: list[int], units: int, dtype: torch.dtype, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for native in (True, False):
        monkeypatch.setattr(kernels, "use_native", lambda device, native=native: native)
        tensors = problem(unit, rows, units, dtype)
        outputs = run(unit, rows, reverse, *tensors)
        seeds = [torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out) for out in outputs]
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        grads = torch.autograd.grad(outputs, wanted, seeds, allow_unused=True)
        found.append([*outputs, *(grad for grad in grads if grad is not None)])
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for ours, readable in zip(*found, strict=True):
        assert (ours - readable).abs().max() <= tolerance * readable.abs().max().clamp(min=1) if ours.numel() else True


@each_unit
@pytest.mark.usefixtures("native")
def test_the_number_of_threads_changes_no_bit(unit: Unit, set_threads: Callable[[int], None]) -> None:
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        tensors = problem(unit, [20, 20, 11], 150, torch.float32)
        outputs = run(unit, [20, 20, 11], False, *tensors)
        gates = torch.autograd.grad(outputs[0].sum(), tensors[1])
        found.append([outputs[0], *gates])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.usefixtures("native")
def test_products_in_bfloat16_both_ways(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's packed product and torch's plain one within bfloat16's rounding of the exact one."""
    if packed and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr("rnncore.step_linear.use_packed", lambda device, dtype: packed)
    tensors = problem("refine", [4, 4, 4], 32, torch.float32)
    exact = run("refine", [4, 4, 4], False, *tensors)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run("refine", [4, 4, 4], False, *tensors)[0]
    assert 0 < (rounded - exact).abs().max() < 0.05
    grads = [torch.autograd.grad(out.sum(), tensors[4])[0] for out in (exact, rounded)]
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()


@pytest.mark.usefixtures("native")
def test_small_numbers_are_kept_elsewhere() -> None:
    """The native recurrences flush what is too small for a normal number, and only while they run."""
    tensors = problem("refine", [20, 20], 300, torch.float32)
    run("refine", [20, 20], False, *tensors)[0].sum().backward()
    tiny = torch.full((1 << 20,), 1e-39) * 0.5
    assert bool((tiny != 0).all())


@pytest.mark.usefixtures("native")
def test_arguments_that_do_not_fit_are_refused() -> None:
    gates, weight, bias, state = torch.zeros(4, 12), torch.zeros(12, 3), torch.zeros(12), torch.zeros(2, 3)

    def forward(**change: Any) -> Any:
        given = {"unit": 0, "gates": gates, "weight": weight, "packed": False, "bias": bias, "h0": state}
        given |= {"c0": state, "rows": [2, 2], "reverse": False}
        return torch.ops.urlstm.forward(*(given | change).values())

    assert forward()[0].shape == (4, 3)
    for change, message in (
        ({"unit": 4}, "no unit 4"),
        ({"gates": torch.zeros(4, 13)}, "expected gates"),
        ({"gates": torch.zeros(12, 4).t()}, "expected gates"),
        ({"rows": [2, 2, 1]}, "time steps of 5 rows, gates of 4"),
        ({"rows": [3, 1]}, "a time step of 3 rows of 2"),
        ({"c0": torch.zeros(2, 3).double()}, "expected c0"),
        ({"weight": torch.zeros(11, 3)}, "expected a weight"),
    ):
        with pytest.raises(RuntimeError, match=message):
            forward(**change)
