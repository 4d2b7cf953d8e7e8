"""QRNN layers and stacks: the paper's equations, states that are handed on, zoneout, and the interface of torch's."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from awdlm import QRNN, QRNNLayer, QRNNState
from awdlm.forget_mult import forget_mult_loop
from awdlm.gates import compose_gates
from rnncore.dropout import WeightDrop, weight_mask
from rnncore.errors import UserError
from rnncore.windows import detach
from torch import Tensor, nn

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def by_hand(layer: QRNNLayer, x: Tensor, hidden: Tensor, previous: Tensor) -> list[list[list[float]]]:
    """The outputs of a layer in plain Python, number by number."""
    weight, bias = layer.linear.weight.tolist(), layer.linear.bias.tolist()
    state, before, outputs = hidden.tolist(), previous.tolist(), []
    for inputs in x.tolist():
        outputs.append([])
        for b, row in enumerate(inputs):
            seen = row + before[b] if layer.window == 2 else row
            y = [sum(w * v for w, v in zip(ws, seen, strict=True)) + c for ws, c in zip(weight, bias, strict=True)]
            outputs[-1].append([])
            for unit in range(layer.hidden_size):
                z, f, *o = y[unit :: layer.hidden_size]
                share = 1 / (1 + math.exp(-f))
                state[b][unit] = share * math.tanh(z) + (1 - share) * state[b][unit]
                gate = 1 / (1 + math.exp(-o[0])) if o else 1
                outputs[-1][-1].append(gate * state[b][unit])
        before = inputs
    return outputs


@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("window", [1, 2])
def test_a_layer_is_the_papers_equations(window: int, output_gate: bool) -> None:
    torch.manual_seed(0)
    layer = QRNNLayer(3, 4, window=window, output_gate=output_gate).double()
    assert layer.linear.weight.shape == ((3 if output_gate else 2) * 4, window * 3)
    x, hidden, previous = (torch.randn(*size, 2, part).double() for size, part in (([5], 3), ([], 4), ([], 3)))
    output, (last, end) = layer(x, (hidden, previous))
    expected = torch.tensor(by_hand(layer, x, hidden, previous), dtype=torch.float64)
    torch.testing.assert_close(output, expected, **TIGHT)
    assert output_gate or torch.equal(last, output[-1])
    assert end is None if window == 1 else torch.equal(end, x[-1])
    assert torch.equal(layer(x)[0], layer(x, (torch.zeros(2, 4), torch.zeros(2, 3)))[0])


def rowwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map whose rows do not depend on how many there are, as they do in some matrix products' last bits."""
    product = (x.unsqueeze(-2) * weight).sum(dim=-1)
    return product if bias is None else product + bias


@pytest.mark.parametrize("zoneout", [0.0, 0.25])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_two_windows_are_one_to_the_bit(window: int, cut: int, zoneout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.functional, "linear", rowwise)
    torch.manual_seed(cut)
    rnn = QRNN(3, 5, num_layers=2, window=window, zoneout=zoneout).eval()
    x, start = torch.randn(7, 2, 3), torch.randn(2, 2, 5)
    whole, end = rnn(x, start)
    first, state = rnn(x[:cut], start)
    second, last = rnn(x[cut:], detach(state))
    assert isinstance(detach(state), QRNNState)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(last.hidden, end.hidden)
    assert len(last.previous) == len(end.previous) == (2 if window == 2 else 0)
    assert all(torch.equal(one, other) for one, other in zip(last.previous, end.previous, strict=True))
    if window == 2:
        assert torch.equal(last.previous[0], x[-1])
        assert not torch.equal(rnn(x[cut:], state.hidden)[0], second)  # the hidden state alone begins a sequence


def test_the_state_does_not_hold_the_window_in_memory() -> None:
    for zoneout in (0.0, 0.5):
        _, state = QRNNLayer(3, 4, window=2, zoneout=zoneout)(torch.randn(50, 2, 3))
        assert [part.untyped_storage().nbytes() for part in state] == [2 * 4 * 4, 2 * 3 * 4]


def test_zoneout_keeps_units_in_training() -> None:
    """A unit keeps its state with probability p, and else moves as it would without zoneout."""
    torch.manual_seed(0)
    layer = QRNNLayer(6, 500, zoneout=0.3, output_gate=False)
    x, hidden = torch.randn(20, 4, 6), torch.randn(4, 500)
    states, _ = layer(x, (hidden, None))
    before = torch.cat([hidden[None], states[:-1]])
    z, f = layer.linear(x).chunk(2, dim=2)
    moved = f.sigmoid() * z.tanh() + (1 - f.sigmoid()) * before
    kept = states == before
    assert abs(kept.float().mean().item() - 0.3) < 0.01  # four standard deviations of 40,000 draws
    assert not torch.equal(kept[0], kept[1])
    torch.testing.assert_close(states[~kept], moved[~kept], rtol=0, atol=1e-6)


def test_zoneout_in_evaluation_is_its_mean() -> None:
    torch.manual_seed(0)
    layer = QRNNLayer(3, 4, zoneout=0.3).double().eval()
    x = torch.randn(6, 2, 3).double()
    y = layer.linear(x)
    expected, _ = compose_gates(y, zoneout=lambda f: 0.7 * f, recurrence=forget_mult_loop)
    torch.testing.assert_close(layer(x)[0], expected, **TIGHT)
    assert not torch.allclose(expected, compose_gates(y)[0])


def test_a_dropped_weight_is_used_and_gradients_reach_the_raw_one() -> None:
    torch.manual_seed(0)
    layer = QRNNLayer(3, 4, window=2).double()
    dropped = WeightDrop(layer, ["linear.weight"], 0.5)
    x = torch.randn(5, 2, 3).double()
    torch.manual_seed(1)
    mask = weight_mask(layer.linear.weight.detach(), 0.5)
    torch.manual_seed(1)
    output, _ = dropped(x, (None, None))
    output.square().sum().backward()
    grad = layer.linear.weight.grad
    weight = (layer.linear.weight.detach() * mask).requires_grad_()
    expected, _ = compose_gates(
        nn.functional.linear(torch.cat([x, torch.cat([x[:1] * 0, x[:-1]])], dim=2), weight, layer.linear.bias)
    )
    expected.square().sum().backward()
    torch.testing.assert_close(output, expected, **TIGHT)
    assert weight.grad is not None
    torch.testing.assert_close(grad, weight.grad * mask, **TIGHT)
    dropped.eval()
    assert torch.equal(dropped(x)[0], layer(x)[0])


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stack_is_its_layers_in_turn(bidirectional: bool, window: int) -> None:
    """With dropout between them, drawn anew for each element; the backward direction sees the sequence reversed."""
    torch.manual_seed(0)
    rnn = QRNN(3, 4, num_layers=3, dropout=0.5, bidirectional=bidirectional, window=window).double()
    directions = 2 if bidirectional else 1
    x, hidden = torch.randn(5, 2, 3).double(), torch.randn(3 * directions, 2, 4).double()
    previous = tuple(torch.randn(2, size).double() for size in (3, 4 * directions, 4 * directions)) * (window == 2)
    torch.manual_seed(1)
    output, state = rnn(x, QRNNState(hidden, previous))
    torch.manual_seed(1)
    value, ends, inputs = x, [], []
    for number in range(3):
        value = nn.functional.dropout(value, 0.5) if number else value
        inputs.append(value[-1])
        before = previous[number] if previous else None
        parts = []
        for direction in range(directions):
            k = number * directions + direction
            read = value.flip(0) if direction else value
            part, (last, _) = rnn.layers[k](read, (hidden[k], None if direction else before))
            parts.append(part.flip(0) if direction else part)
            ends.append(last)
        value = torch.cat(parts, dim=2)
    assert torch.equal(output, value)
    assert torch.equal(state.hidden, torch.stack(ends))
    assert len(state.previous) == len(previous)
    assert all(torch.equal(one, other) for one, other in zip(state.previous, inputs, strict=bool(previous)))
    assert torch.equal(rnn.eval()(x, hidden)[0], rnn(x, (hidden, ()))[0])


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_batch_can_come_first_or_not_at_all(bidirectional: bool, window: int) -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"num_layers": 2, "bidirectional": bidirectional, "window": window}
    rnn, first = QRNN(3, 4, **arguments).double(), QRNN(3, 4, batch_first=True, **arguments).double()
    first.load_state_dict(rnn.state_dict())
    x = torch.randn(5, 2, 3).double()
    _, start = rnn(x)
    output, state = rnn(x, start)
    turned, turned_state = first(x.transpose(0, 1), start)
    assert turned.shape == (2, 5, 4 * (2 if bidirectional else 1))
    torch.testing.assert_close(turned.transpose(0, 1), output, **TIGHT)
    torch.testing.assert_close(turned_state, state, **TIGHT)
    for one in (rnn, first):
        single = QRNNState(start.hidden[:, 1], tuple(each[1] for each in start.previous))
        alone, alone_state = one(x[:, 1], single)
        torch.testing.assert_close(alone, output[:, 1], **TIGHT)
        expected = QRNNState(state.hidden[:, 1], tuple(each[1] for each in state.previous))
        torch.testing.assert_close(alone_state, expected, **TIGHT)


SHAPES: list[tuple[Sequence[int], Sequence[int] | None]] = [
    *itertools.product([(5, 2, 3), (5, 3)], [(2, 2), (2, 2, 5), (1, 2, 4), (2, 3, 4), (2, 5), (2, 2, 2, 4)]),
    *itertools.product([(5, 2, 4), (5, 4), (3,), (1, 1, 1, 3), (0, 2, 3), (0, 3)], [None]),
]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("size", "state"), SHAPES, ids=str)
def test_wrong_shapes_are_refused_as_by_torch(
    size: Sequence[int], state: Sequence[int] | None, batch_first: bool
) -> None:
    """With the same exceptions, word for word, as of a GRU with two layers of four units."""
    messages = []
    if batch_first and size[0] == 0 and len(size) == 3:
        size = (size[1], size[0], *size[2:])
    for kind in (QRNN, nn.GRU):
        rnn = kind(3, 4, num_layers=2, batch_first=batch_first)
        with pytest.raises((RuntimeError, ValueError)) as refused:
            rnn(torch.zeros(size), None if state is None else torch.zeros(state))
        messages.append((refused.type, str(refused.value).replace("GRU", "QRNN")))
    assert messages[0] == messages[1]


def test_previous_inputs_that_do_not_fit_are_refused() -> None:
    x, hidden = torch.zeros(5, 2, 3), torch.zeros(2, 2, 4)
    with pytest.raises(RuntimeError, match=r"Expected previous input \(2, 4\), got \[2, 3\]"):
        QRNN(3, 4, num_layers=2, window=2)(x, (hidden, (torch.zeros(2, 3), torch.zeros(2, 3))))
    with pytest.raises(RuntimeError, match="Expected previous inputs: 2 for 2 layers of window 2, got 1"):
        QRNN(3, 4, num_layers=2, window=2)(x, (hidden, (torch.zeros(2, 3),)))
    with pytest.raises(RuntimeError, match="Expected previous inputs: 0 for 2 layers of window 1, got 1"):
        QRNN(3, 4, num_layers=2)(x, (hidden, (torch.zeros(2, 3),)))
    with pytest.raises(RuntimeError, match="input must have 3 dimensions, got 2"):
        QRNNLayer(3, 4)(torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 3}, "the window of a QRNN must be 1 or 2, not 3"),
        ({"hidden_size": 0}, "must be positive, not 3 and 0"),
        ({"num_layers": 0}, "num_layers must be positive, not 0"),
        ({"zoneout": 1.0}, "at least 0 and below 1, but it is 1.0"),
        ({"dropout": -0.1}, "at least 0 and below 1, but it is -0.1"),
        ({"zoneout": math.nan}, "at least 0 and below 1, but it is nan"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QRNN(**{"input_size": 3, "hidden_size": 4, **arguments})


@pytest.mark.parametrize("zoneout", [0.0, 0.25])
def test_autocast_multiplies_in_bfloat16_and_recurs_in_float32(zoneout: float) -> None:
    """Of the gates that the product gave, the outputs are rounded once, and the state not at all."""
    torch.manual_seed(0)
    layer = QRNNLayer(8, 6, window=2, zoneout=zoneout).eval()
    x = torch.randn(150, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output, (last, _) = layer(x)
        y = torch.nn.functional.linear(torch.cat([x, torch.cat([x[:1] * 0, x[:-1]])], dim=2), layer.linear.weight)
    assert y.dtype == output.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    exact, exact_last = compose_gates(
        y.double(), bias=layer.linear.bias, zoneout=lambda f: (1 - zoneout) * f, recurrence=forget_mult_loop
    )
    torch.testing.assert_close(output.double(), exact, rtol=0.51 * 2**-7, atol=1e-6)
    torch.testing.assert_close(last.double(), exact_last, rtol=0, atol=1e-6)
    output.float().sum().backward()
    assert layer.linear.weight.grad is not None
    assert layer.linear.weight.grad.dtype == torch.float32


@pytest.mark.cuda
@pytest.mark.parametrize("window", [1, 2])
def test_a_gpu_gives_what_the_cpu_gives(window: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    torch.manual_seed(0)
    rnn, x = QRNN(6, 300, num_layers=2, window=window, bidirectional=True).double(), torch.randn(40, 3, 6).double()
    results = []
    for device in ("cpu", "cuda"):
        rnn.zero_grad()
        output, state = rnn.to(device)(x.to(device))
        (output.square().sum() + state.hidden.sum()).backward()
        grads = [parameter.grad.cpu() for parameter in rnn.parameters() if parameter.grad is not None]
        results.append([output.cpu(), state.hidden.cpu(), *grads])
    assert len(results[0]) == len(results[1]) == 2 + 8
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
