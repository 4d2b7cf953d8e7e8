"""The RHN layer: its sequence function against the cell unrolled, on both paths; masks, windows, bad input."""

from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from selfish import rhn, rhn_sequence
from selfish.rhn import RHN, RHNLayer
from selfish.rhn_cell import rhn_cell
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("backend")

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def layer_of(couple: bool, bias: bool = True, depth: int = 3) -> RHNLayer:
    torch.manual_seed(3)
    layer = RHNLayer(5, 7, depth, couple=couple, bias=bias).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6)
    return layer


def unrolled(layer: RHNLayer, x: Tensor, state: Tensor, mask: Tensor | None = None) -> Tensor:
    biases = [None] * layer.depth if layer.bias_hh is None else list(layer.bias_hh)
    outputs, s = [], state[0]
    for step in x:
        s = rhn_cell(step, s, layer.weight_ih, layer.bias_ih, list(layer.weight_hh), biases, mask)
        outputs.append(s)
    return torch.stack(outputs)


def inputs(steps: int = 6, batch: int = 3, units: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    x, state = torch.randn(steps, batch, 5).double(), torch.randn(1, batch, units).double()
    return x.requires_grad_(), state.requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("couple", [False, True])
@pytest.mark.parametrize(("depth", "steps"), [(1, 9), (3, 6), (3, 1)])
def test_a_layer_is_its_cell_unrolled(
    couple: bool, bias: bool, masked: bool, depth: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, mask = layer_of(couple, bias, depth), None
    if masked:
        layer.recurrent_dropout = 0.5
        mask = torch.tensor([[0.0, 2.0, 0.0, 2.0, 2.0, 2.0, 0.0]]).double().repeat(3, 1)
        monkeypatch.setattr(rhn, "locked_mask", lambda *shape, **options: mask[None])
    results = []
    for run in (lambda x, state: layer(x, state)[0], lambda x, state: unrolled(layer, x, state, mask)):
        x, state = inputs(steps)
        layer.zero_grad()
        output = run(x, state)
        (output.sin().sum() + output[-1].exp().sum()).backward()
        results.append([output, x.grad, state.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


@pytest.mark.parametrize("couple", [False, True])
def test_gradients_are_those_of_finite_differences(couple: bool) -> None:
    layer, (x, state) = layer_of(couple), inputs(3, 2)
    mask = torch.tensor([0.0, 1.5, 1.5, 0.0, 1.5, 1.5, 1.5]).double().repeat(2, 1)
    depth = layer.depth

    def run(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor, *hidden: Tensor) -> Any:
        return rhn_sequence.rhn_sequence(x, state[0], weight, bias, hidden[:depth], hidden[depth:], mask)

    assert layer.bias_hh is not None
    arguments = (x, state, layer.weight_ih, layer.bias_ih, *layer.weight_hh, *layer.bias_hh)
    assert torch.autograd.gradcheck(run, arguments)


def test_a_gradient_can_be_taken_twice_and_of_the_state_alone() -> None:
    layer, (x, state) = layer_of(False), inputs()
    _, last = layer(x, state)
    first, second = (torch.autograd.grad(last.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    expected = torch.autograd.grad(unrolled(layer, x, state)[-1].sum(), x)[0]
    torch.testing.assert_close(first, expected, **TIGHT)


def test_windows_give_what_the_whole_sequence_gives() -> None:
    layer, (x, state) = layer_of(True), inputs()
    whole, last = layer(x, state)
    first, middle = layer(x[:2], state)
    second, end = layer(x[2:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole, **TIGHT)
    torch.testing.assert_close(end, last, **TIGHT)


def test_a_stack_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(5)
    stack, (x, _) = RHN(5, 7, 2, batch_first=True, depth=2).double(), inputs()
    state = torch.randn(2, 3, 7).double()
    output, last = stack(x.transpose(0, 1), state)
    first, one = stack.layers[0](x, state[:1])
    second, two = stack.layers[1](first, state[1:])
    assert torch.equal(output, second.transpose(0, 1))
    assert torch.equal(last, torch.cat([one, two]))


def test_a_mask_is_drawn_in_training_alone_and_serves_all_steps() -> None:
    layer, (x, state) = layer_of(True), inputs()
    layer.recurrent_dropout = 0.5
    torch.manual_seed(6)
    output, _ = layer(x, state)
    torch.manual_seed(6)
    mask = rhn.locked_mask(3, 7, 0.5, dtype=torch.float64)[0]
    assert 0 < float((mask == 0).double().mean()) < 1
    torch.testing.assert_close(output, unrolled(layer, x, state, mask), **TIGHT)
    torch.testing.assert_close(layer.eval()(x, state)[0], unrolled(layer, x, state), **TIGHT)


@pytest.mark.parametrize("couple", [False, True])
def test_gates_begin_mostly_closed(couple: bool) -> None:
    layer = RHNLayer(4, 6, 2, couple=couple)
    state = torch.randn(1, 2, 6)
    with torch.no_grad():
        for weight in (layer.weight_ih, *layer.weight_hh):
            weight.zero_()
    kept = torch.sigmoid(torch.tensor(2.0)) ** 2  # of the state, in two highway steps
    torch.testing.assert_close(layer(torch.zeros(1, 2, 4), state)[0], kept * state)


def test_a_checkpoint_and_a_mask_in_place_between_steps() -> None:
    """Weights may be masked in place: the next call sees it."""
    layer, (x, state) = layer_of(True), inputs()
    before, _ = layer(x, state)
    with torch.no_grad():
        layer.weight_hh[1].mul_(0)
    after, _ = layer(x, state)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, unrolled(layer, x, state), **TIGHT)
    copy = layer_of(True)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(x, state)[0], after)


@pytest.mark.parametrize("couple", [False, True])
def test_single_precision_of_many_units(couple: bool) -> None:
    torch.manual_seed(5)
    layer = RHNLayer(50, 150, 3, couple=couple)
    x, results = torch.randn(12, 5, 50), []
    for dtype in (torch.float32, torch.float64):
        layer.to(dtype).zero_grad()
        output, _ = layer(x.to(dtype)) if dtype == torch.float32 else (unrolled(layer, x.to(dtype), zeros(layer)), None)
        output.sin().sum().backward()
        results.append([output.double(), *(parameter.grad.double() for parameter in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def zeros(layer: RHNLayer) -> Tensor:
    return layer.weight_ih.new_zeros(1, 5, layer.hidden_size)


def test_mixed_precision_stays_near() -> None:
    layer = layer_of(False).float()
    x, state = (part.detach().float() for part in inputs(10))
    exact, _ = layer(x, state)
    with torch.autocast("cpu", torch.bfloat16):
        near, last = layer(x, state)
    near.sum().backward()
    assert near.dtype == last.dtype == torch.float32
    assert 1e-5 < float((near - exact).detach().abs().max()) < 0.05
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_a_layer_of_16_bits() -> None:
    layer = layer_of(False).float()
    x, state = (part.detach().float() for part in inputs(10))
    exact, _ = layer(x, state)
    near, _ = layer.bfloat16()(x.bfloat16(), state.bfloat16())
    near.float().sum().backward()
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("x", "state", "words"),
    [
        (torch.zeros(3, 5), None, "Expected input"),
        (torch.zeros(3, 2, 4), None, r"input.size\(-1\)"),
        (torch.zeros(0, 2, 5), None, "sequence length"),
        (torch.zeros(3, 2, 5), torch.zeros(1, 2, 6), "hidden size"),
        (torch.zeros(3, 2, 5), torch.zeros(2, 2, 7), "hidden size"),
    ],
)
def test_wrong_shapes_are_refused(x: Tensor, state: Tensor | None, words: str) -> None:
    for module in (RHNLayer(5, 7, 2), RHN(5, 7, depth=2)):
        with pytest.raises(RuntimeError, match=words):
            module(x, state)


@pytest.mark.parametrize("arguments", [{"depth": 0}, {"hidden_size": 0}, {"recurrent_dropout": 1.0}])
def test_wrong_sizes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        RHNLayer(**{"input_size": 3, "hidden_size": 3, **arguments})
    with pytest.raises(UserError, match="num_layers"):
        RHN(3, 3, 0)
