"""The ON-LSTM layer: its sequence function against the cell unrolled, on both paths; drop-connect, distances, input."""

from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from selfish.onlstm import ONLSTM, ONLSTMLayer
from selfish.onlstm_cell import onlstm_cell
from selfish.onlstm_sequence import onlstm_sequence
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("backend")

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def layer_of(units: int = 12, chunk_size: int = 3, bias: bool = True) -> ONLSTMLayer:
    torch.manual_seed(3)
    layer = ONLSTMLayer(5, units, chunk_size, bias=bias).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6)
    return layer


def unrolled(layer: ONLSTMLayer, x: Tensor, h: Tensor, c: Tensor, weight: Tensor | None = None) -> list[Tensor]:
    """Outputs, h, c, and both distances of each step."""
    biases = (layer.bias_ih_l0, layer.bias_hh_l0) if layer.bias else (None, None)
    weight = layer.weight_hh_l0 if weight is None else weight
    outputs, forget, input, h, c = [], [], [], h[0], c[0]
    for step in x:
        h, c, by_forget, by_input = onlstm_cell(step, (h, c), layer.weight_ih_l0, weight, *biases)
        outputs.append(h), forget.append(by_forget), input.append(by_input)
    return [torch.stack(outputs), h, c, torch.stack(forget), torch.stack(input)]


def inputs(steps: int = 6, batch: int = 3, units: int = 12) -> list[Tensor]:
    torch.manual_seed(4)
    shapes = (steps, batch, 5), (1, batch, units), (1, batch, units)
    return [torch.randn(shape).double().requires_grad_() for shape in shapes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("units", "chunk_size", "steps"), [(12, 3, 6), (12, 1, 9), (7, 7, 1), (40, 10, 3)])
def test_a_layer_is_its_cell_unrolled(units: int, chunk_size: int, steps: int, bias: bool) -> None:
    layer, results = layer_of(units, chunk_size, bias), []
    for run in (lambda x, h, c: list(layer.run(x, (h, c))), lambda x, h, c: unrolled(layer, x, h, c)):
        leaves = inputs(steps, units=units)
        layer.zero_grad()
        found = run(*leaves)
        (found[0].sin().sum() + found[1].exp().sum() + found[2].cos().sum()).backward()
        results.append([*found, *(part.grad for part in (*leaves, *layer.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_gradients_are_those_of_finite_differences() -> None:
    layer, (x, h, c) = layer_of(6, 2), inputs(3, 2, 6)

    def run(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Any:
        return onlstm_sequence(x, h[0], c[0], *weights)[:3]

    weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    assert torch.autograd.gradcheck(run, (x, h, c, *weights))


def test_a_gradient_can_be_taken_twice_and_of_the_cell_alone() -> None:
    layer, (x, h, c) = layer_of(), inputs()
    _, (_, last) = layer(x, (h, c))
    first, second = (torch.autograd.grad(last.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.autograd.grad(unrolled(layer, x, h, c)[2].sum(), x)[0], **TIGHT)


def test_a_single_chunk_keeps_its_cell() -> None:
    """With a single chunk both softmaxes are 1: I = 0 and F = 1, so that the cell stays as it is."""
    layer, (x, h, c) = layer_of(7, 7), inputs(units=7)
    steps = layer.run(x, (h, c))
    torch.testing.assert_close(steps.c, c[0], **TIGHT)
    assert torch.equal(steps.input_distance, torch.zeros(6, 3).double())
    assert torch.equal(steps.forget_distance, torch.zeros(6, 3).double())


def test_windows_give_what_the_whole_sequence_gives() -> None:
    layer, (x, h, c) = layer_of(), inputs()
    whole, last = layer(x, (h, c))
    first, middle = layer(x[:2], (h, c))
    second, end = layer(x[2:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole, **TIGHT)
    for ours, theirs in zip(end, last, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_a_stack_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(5)
    stack, (x, _, _) = ONLSTM(5, 12, 2, batch_first=True, chunk_size=4).double(), inputs()
    h, c = torch.randn(2, 2, 3, 12).double()
    output, last = stack(x.transpose(0, 1), (h, c))
    first, one = stack.layers[0](x, (h[:1], c[:1]))
    second, two = stack.layers[1](first, (h[1:], c[1:]))
    assert torch.equal(output, second.transpose(0, 1))
    for part, pair in zip(last, zip(one, two, strict=True), strict=True):
        assert torch.equal(part, torch.cat(pair))


def test_drop_connect_keeps_weights_as_they_are_and_scales_them_in_evaluation() -> None:
    layer, (x, h, c) = layer_of(), inputs()
    layer.drop_connect = 0.25
    torch.manual_seed(6)
    output, _ = layer(x, (h, c))
    torch.manual_seed(6)
    dropped = layer._recurrent_weight()
    kept = dropped != 0
    assert 0.6 < float(kept.double().mean()) < 0.9
    assert torch.equal(dropped, layer.weight_hh_l0 * kept)
    torch.testing.assert_close(output, unrolled(layer, x, h, c, dropped)[0], **TIGHT)
    output.sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert torch.equal(layer.weight_hh_l0.grad == 0, ~kept)
    scaled = layer.weight_hh_l0 * 0.75
    torch.testing.assert_close(layer.eval()(x, (h, c))[0], unrolled(layer, x, h, c, scaled)[0], **TIGHT)


def test_gate_rows_cover_every_row_once() -> None:
    layer = layer_of(12, 3)
    rows = [row for span in layer.gate_rows().values() for row in range(span.start, span.stop)]
    assert rows == list(range(len(layer.weight_hh_l0)))
    with torch.no_grad():  # where forget and master forget gate are shut, a cell is forgotten
        layer.bias_ih_l0[layer.gate_rows()["f"]] = -1e3
        layer.bias_ih_l0[layer.gate_rows()["master_input"]] = 0
        layer.bias_ih_l0[layer.gate_rows()["master_forget"]] = 0
        layer.bias_ih_l0[layer.gate_rows()["master_forget"].stop - 1] = 1e3  # all of cumax in the last chunk
    x, h, c = inputs(1)
    far = layer.run(x, (h, 1e6 * c)).c
    assert float(far[:, :9].detach().abs().max()) < 2


def test_single_precision_of_many_units() -> None:
    torch.manual_seed(5)
    layer, results = ONLSTMLayer(50, 150, 10), []
    x = torch.randn(12, 5, 50)
    for dtype in (torch.float32, torch.float64):
        layer.to(dtype).zero_grad()
        zeros = layer.weight_hh_l0.new_zeros(1, 5, 150)
        exact = dtype == torch.float64
        output = unrolled(layer, x.double(), zeros, zeros)[0] if exact else layer(x)[0]
        output.sin().sum().backward()
        results.append([output.double(), *(parameter.grad.double() for parameter in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_mixed_precision_stays_near() -> None:
    layer = layer_of().float()
    x, h, c = (part.detach().float() for part in inputs(10))
    exact, _ = layer(x, (h, c))
    with torch.autocast("cpu", torch.bfloat16):
        near, _ = layer(x, (h, c))
    near.sum().backward()
    assert near.dtype == torch.float32
    assert 1e-5 < float((near - exact).detach().abs().max()) < 0.05
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_a_layer_of_16_bits() -> None:
    layer = layer_of().float()
    x, h, c = (part.detach().float() for part in inputs(10))
    exact, _ = layer(x, (h, c))
    near, _ = layer.bfloat16()(x.bfloat16(), (h.bfloat16(), c.bfloat16()))
    near.float().sum().backward()
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("x", "state", "words"),
    [
        (torch.zeros(3, 5), None, "Expected input"),
        (torch.zeros(3, 2, 4), None, r"input.size\(-1\)"),
        (torch.zeros(0, 2, 5), None, "sequence length"),
        (torch.zeros(3, 2, 5), (torch.zeros(1, 2, 6), torch.zeros(1, 2, 8)), "hidden size"),
        (torch.zeros(3, 2, 5), (torch.zeros(2, 2, 8), torch.zeros(2, 2, 8)), "hidden size"),
    ],
)
def test_wrong_shapes_are_refused(x: Tensor, state: Any, words: str) -> None:
    for module in (ONLSTMLayer(5, 8, 2), ONLSTM(5, 8, chunk_size=2)):
        with pytest.raises(RuntimeError, match=words):
            module(x, state)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="a chunk size of 3 does not divide the 8 units"):
        ONLSTMLayer(5, 8, 3)
    with pytest.raises(UserError, match="positive"):
        ONLSTMLayer(5, 8, 0)
    with pytest.raises(UserError, match="probability"):
        ONLSTMLayer(5, 8, 2, drop_connect=float("nan"))
    with pytest.raises(UserError, match="num_layers"):
        ONLSTM(5, 8, 0)
