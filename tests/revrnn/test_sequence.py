"""Gradients of a stack over sequences, by reversal and from stored states, against autograd through the cells."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pytest
import torch
from revrnn.fixed_point import to_fixed
from revrnn.sequence import Stack, run
from revrnn.window import CHUNK, Weights, Window
from rnncore.errors import UserError
from torch import Tensor

I, H = 5, 6
GROUPS = {"gru": 2, "lstm": 4}


class Result(NamedTuple):
    """Of one way to compute: outputs, last states as integers, gradients of everything, and the window if any."""

    outputs: Tensor
    last: list[Tensor]
    gradients: list[Tensor]
    window: Window | None


class Case:
    """A stack of cells, inputs, a first state, and a random linear function of all outputs and last states."""

    def __init__(
        self,
        make_cells: Callable[..., Any],
        kind: str,
        steps: int,
        num_layers: int = 1,
        *,
        batch: int = 3,
        max_forget: float = 0.875,
        bias: bool = True,
        slice_dim: int = 0,
        lengths: Sequence[int] | None = None,
        masked: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.kind, self.slice_dim = kind, slice_dim
        self.cells = make_cells(kind, I, H, num_layers, max_forget=max_forget, bias=bias)
        self.x = torch.randn(steps, batch, I, dtype=torch.float64)
        shape = (num_layers, GROUPS[kind], batch, H // 2)
        self.start = torch.randn(shape, dtype=torch.float64).clamp(-1, 1)
        self.by_outputs, self.by_last = torch.randn(steps, batch, H, dtype=torch.float64), torch.randn_like(self.start)
        self.active = None if lengths is None else torch.arange(steps)[:, None] < torch.tensor(lengths)
        drawn = [torch.randint(3, (1, batch, H)).double() * 0.7 for _ in range(num_layers)]
        self.masks: list[Tensor | None] = [*drawn] if masked else [None] * num_layers
        self.stack = {"kind": kind, "max_forget": max_forget, "slices": (slice_dim, 0), "buffered": True}
        self.stack |= {"masks": self.masks}

    def leaves(self) -> tuple[Tensor, Tensor, list[Weights]]:
        weights = [Weights(cell.weight_ih, cell.weight_hh, cell.bias) for cell in self.cells]
        copies = [
            Weights(*(None if w is None else w.detach().clone().requires_grad_() for w in layer)) for layer in weights
        ]
        return self.x.clone().requires_grad_(), self.start.clone().requires_grad_(), copies

    def result(
        self, outputs: Tensor, values: list[Tensor], bits: list[Tensor], leaves: list[Tensor], window: Window | None
    ) -> Result:
        last = torch.stack(values).view_as(self.by_last)
        loss = (outputs * self.by_outputs).sum() + (last.sin() * self.by_last).sum()
        return Result(outputs.detach(), bits, list(torch.autograd.grad(loss, leaves)), window)

    def by_cells(self, unroll: Callable[..., Any]) -> Result:
        x, start, _ = self.leaves()
        options = {"active": self.active, "slice_dim": self.slice_dim, "masks": self.masks}
        outputs, states = unroll(self.cells, x, start, **options)
        last = list(chain(*states[-1]))
        weights = [w for cell in self.cells for w in (cell.weight_ih, cell.weight_hh, cell.bias) if w is not None]
        return self.result(outputs, [g.value for g in last], [g.bits for g in last], [x, start, *weights], None)

    def by_stack(self, **changes: Any) -> Result:
        x, start, weights = self.leaves()
        groups = [layer.unbind() for layer in start]
        outputs, values, bits, window = run(Stack(**self.stack | changes), x, groups, weights, self.active)
        leaves = [x, start, *(w for layer in weights for w in layer if w is not None)]
        return self.result(outputs, list(chain(*values)), list(chain(*bits)), leaves, window)


def assert_same(got: Result, expected: Result) -> None:
    """Integers to the bit; gradients to 1e-9 of the largest of their kind."""
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got.last, expected.last, strict=True))
    assert torch.equal(got.outputs, expected.outputs)
    for ours, theirs in zip(got.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def assert_all_three_agree(case: Case, unroll: Callable[..., Any]) -> None:
    expected = case.by_cells(unroll)
    assert all(bool(gradient.any()) for gradient in expected.gradients)
    assert_same(case.by_stack(reversible=False), expected)
    reversed_ = case.by_stack(reversible=True)
    assert_same(reversed_, expected)
    assert reversed_.window is not None
    rebuilt = [group for layer in reversed_.window.layers for group in layer.state]
    assert torch.equal(torch.stack(rebuilt).view_as(case.start), to_fixed(case.start))


@pytest.mark.parametrize("steps", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
@pytest.mark.parametrize("kind", GROUPS)
def test_windows_around_the_edges_of_chunks(
    kind: str, steps: int, make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    assert_all_three_agree(Case(make_cells, kind, steps), unroll)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("max_forget", [0.5, 0.75, 0.875, 0.96875, 1.0])
@pytest.mark.parametrize("kind", GROUPS)
def test_every_max_forget_and_depth(
    kind: str, max_forget: float, num_layers: int, make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    assert_all_three_agree(Case(make_cells, kind, 20, num_layers, max_forget=max_forget), unroll)


@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"masked": True},
        {"lengths": [25, 24, 1]},
        {"lengths": [25, 0, 7]},
        {"slice_dim": 1},
        {"slice_dim": 3},
        {"slice_dim": 2, "lengths": [20, 25, 3], "masked": True, "bias": False},
        {"batch": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", GROUPS)
def test_every_option(
    kind: str, options: dict[str, Any], make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    assert_all_three_agree(Case(make_cells, kind, 25, 2, **options), unroll)


@pytest.mark.parametrize("kind", GROUPS)
def test_lengths_and_slices_over_several_chunks(
    kind: str, make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    case = Case(make_cells, kind, 150, 2, slice_dim=2, lengths=[150, 60, 76], max_forget=1.0)
    assert_all_three_agree(case, unroll)


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.usefixtures("operators")
def test_native_and_eager_operators(kind: str, make_cells: Callable[..., Any], unroll: Callable[..., Any]) -> None:
    assert_all_three_agree(Case(make_cells, kind, 40, 2, slice_dim=2, lengths=[40, 1, 30], max_forget=0.75), unroll)


@pytest.mark.parametrize("kind", GROUPS)
def test_without_buffers(kind: str, make_cells: Callable[..., Any], unroll: Callable[..., Any]) -> None:
    """Stored states need no buffers; the bits that products lose are then gone."""
    case = Case(make_cells, kind, 40)
    x, start, _ = case.leaves()
    outputs, states = unroll(case.cells, x, start, buffered=False)
    got = case.by_stack(reversible=False, buffered=False)
    assert torch.equal(got.outputs, outputs)
    assert all(torch.equal(ours, group.bits) for ours, group in zip(got.last, states[-1][0], strict=True))
    assert not torch.equal(got.outputs, case.by_stack().outputs)


@pytest.mark.parametrize("reversible", [True, False])
def test_a_second_backward_is_refused(reversible: bool, make_cells: Callable[..., Any]) -> None:
    """The states are used up, even if the graph is retained."""
    case = Case(make_cells, "gru", 5)
    x, start, weights = case.leaves()
    outputs, *_ = run(Stack(**case.stack | {"reversible": reversible}), x, [g.unbind() for g in start], weights)
    outputs.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run forward again"):
        outputs.sum().backward()


@pytest.mark.parametrize("changed", ["input", "weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("reversible", [True, False])
def test_what_changes_before_backward_is_noticed(
    reversible: bool, changed: str, make_cells: Callable[..., Any]
) -> None:
    """States cannot be rebuilt with other weights; torch's own layers refuse too."""
    case = Case(make_cells, "gru", 5)
    x, start, weights = case.leaves()
    outputs, *_ = run(Stack(**case.stack | {"reversible": reversible}), x, [g.unbind() for g in start], weights)
    tensors = {"input": x, "weight_ih": weights[0].ih, "weight_hh": weights[0].hh, "bias": weights[0].bias}
    with torch.no_grad():
        tensors[changed] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("reversible", [True, False])
def test_a_first_state_out_of_range_is_an_error(reversible: bool, make_cells: Callable[..., Any]) -> None:
    """Also where the gates would at once bring it back into the range."""
    case = Case(make_cells, "gru", 5)
    x, _, weights = case.leaves()
    with torch.no_grad():
        for weight in weights[0]:
            weight.zero_()  # gates of 9/16
    state = [[torch.full((3, 3), value, dtype=torch.float64) for value in (0.0, 300.0)]]
    with pytest.raises(UserError, match="left the fixed-point range"):
        run(Stack(**case.stack | {"reversible": reversible}), x, state, weights)
