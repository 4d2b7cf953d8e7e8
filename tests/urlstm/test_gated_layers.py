"""The layers: equal to their cells unrolled and to torch's own, in every form of input.

Shapes: T time steps, B batch, I inputs, H units.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from urlstm import URGRU, URLSTM
from urlstm.gates import GRU_GATES, LSTM_GATES

T, B, I, H = 7, 4, 3, 5
GATES = [*LSTM_GATES, *GRU_GATES]
OWN = [name for name, gate in {**LSTM_GATES, **GRU_GATES}.items() if gate.unit != "torch"]
each_gate = pytest.mark.parametrize("gate", GATES)
exactly = {"rtol": 1e-12, "atol": 1e-12}


def state_of(layer: Any, *shape: int, seed: int = 5) -> Any:
    parts = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return parts[0] if isinstance(layer, URGRU | nn.GRU) else (parts[0], parts[1])


def parts_of(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def unrolled(layer: Any, cell_of: Callable[..., Any], x: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer as its cells, one after the other."""
    ends: list[tuple[Tensor, ...]] = []
    for number in range(layer.num_layers):
        outputs = []
        for suffix in layer.suffixes[len(ends) : len(ends) + (2 if layer.bidirectional else 1)]:
            now: Any = tuple(part[len(ends)] for part in parts_of(state))
            cell, backward, steps = cell_of(layer, suffix), suffix.endswith("_reverse"), []
            for value in reversed(x) if backward else x:
                now = parts_of(cell(value, now if len(now) == 2 else now[0]))
                steps.append(now[0])
            outputs.append(torch.stack(steps[::-1] if backward else steps))
            ends.append(now)
        x = torch.cat(outputs, dim=2)
        assert number < layer.num_layers
    return x, tuple(torch.stack(part) for part in zip(*ends, strict=True))


@each_gate
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.usefixtures("operators")
def test_a_layer_is_its_cells_unrolled(
    gate: str,
    num_layers: int,
    bidirectional: bool,
    make: Callable[..., Any],
    cell_of: Callable[..., Any],
    numbers: Callable[..., Tensor],
) -> None:
    layer = make(gate, I, H, num_layers, bidirectional=bidirectional)
    x, state = numbers(T, B, I), state_of(layer, len(layer.suffixes), B, H)
    output, last = layer(x, state)
    expected, ends = unrolled(layer, cell_of, x, state)
    torch.testing.assert_close(output, expected, **exactly)
    torch.testing.assert_close(parts_of(last), ends, **exactly)


@each_gate
@pytest.mark.usefixtures("operators")
def test_gradients_are_those_of_the_cells(
    gate: str, make: Callable[..., Any], cell_of: Callable[..., Any], numbers: Callable[..., Tensor]
) -> None:
    layer = make(gate, I, H, bidirectional=True, trainable_bias=gate != "r-lstm")
    x = numbers(T, B, I).requires_grad_()
    state = tuple(part.requires_grad_() for part in parts_of(state_of(layer, 2, B, H)))
    cells = {suffix: cell_of(layer, suffix) for suffix in layer.suffixes}
    found = []
    for run in (layer, lambda x, hx: unrolled(layer, lambda _, suffix: cells[suffix], x, hx)):
        output, last = run(x, state if len(state) == 2 else state[0])
        loss = (output * numbers(T, B, 2 * H, seed=9)).sum() + sum((part**2).sum() for part in parts_of(last))
        modules = [layer] if run is layer else cells.values()
        parameters = [parameter for module in modules for parameter in module.parameters()]
        found.append(torch.autograd.grad(loss, [x, *state, *parameters]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("gate", "theirs"), [("lstm", nn.LSTM), ("u-lstm", nn.LSTM), ("c-lstm", nn.LSTM), ("gru", nn.GRU)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plain_gates_are_torchs_own_layer(
    gate: str, theirs: Any, dtype: torch.dtype, make: Callable[..., Any], numbers: Callable[..., Tensor]
) -> None:
    layer = make(gate, I, H, 2, bidirectional=True).to(dtype)
    other = theirs(I, H, 2, bidirectional=True, dtype=dtype)
    other.load_state_dict(layer.state_dict())
    grads = []
    for each in (layer, other):
        x = numbers(T, B, I, dtype=dtype).requires_grad_()
        output, last = each(x)
        (output.square().sum() + parts_of(last)[0].sum()).backward()
        grads.append([output.detach(), x.grad, *(parameter.grad for parameter in each.parameters())])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(grads[0], grads[1], rtol=tolerance, atol=tolerance)


@each_gate
@pytest.mark.usefixtures("operators")
def test_forms_of_input_agree(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, first = make(gate, I, H, 2, bidirectional=True), make(gate, I, H, 2, bidirectional=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    x, state = numbers(T, B, I), state_of(layer, 4, B, H)
    output, last = layer(x, state)
    swapped, last_first = first(x.transpose(0, 1).contiguous(), state)
    torch.testing.assert_close(swapped.transpose(0, 1), output, **exactly)
    torch.testing.assert_close(last_first, last, **exactly)
    for row in range(B):
        own = tuple(part[:, row] for part in parts_of(state))
        for each in (layer, first):
            alone, end = each(x[:, row], own if len(own) == 2 else own[0])
            torch.testing.assert_close(alone, output[:, row], **exactly)
            torch.testing.assert_close(parts_of(end), tuple(part[:, row] for part in parts_of(last)), **exactly)


@each_gate
@pytest.mark.usefixtures("operators")
def test_windows_that_hand_their_state_on(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, x = make(gate, I, H, 2), numbers(T, B, I)
    whole, last = layer(x)
    early, state = layer(x[:3])
    late, end = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([early, late]), whole, **exactly)
    torch.testing.assert_close(end, last, **exactly)


@each_gate
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[7, 5, 5, 1], [2, 7, 1, 4]])
@pytest.mark.usefixtures("operators")
def test_packed_sequences_are_run_each_for_itself(
    gate: str, bidirectional: bool, lengths: list[int], make: Callable[..., Any], numbers: Callable[..., Tensor]
) -> None:
    layer = make(gate, I, H, 2, bidirectional=bidirectional)
    x, state = numbers(T, B, I).requires_grad_(), state_of(layer, len(layer.suffixes), B, H)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=sorted(lengths, reverse=True) == lengths)
    output, last = layer(packed, state)
    assert isinstance(output, PackedSequence)
    padded, sizes = pad_packed_sequence(output)
    assert sizes.tolist() == lengths
    weight = numbers(*padded.shape, seed=3)
    loss = (padded * weight).sum() + sum(part.sum() for part in parts_of(last))
    found = torch.autograd.grad(loss, [x, *layer.parameters()])
    total: Any = 0
    for row, length in enumerate(lengths):
        own = tuple(part[:, row : row + 1] for part in parts_of(state))
        alone, end = layer(x[:length, row : row + 1], own if len(own) == 2 else own[0])
        torch.testing.assert_close(padded[:length, row : row + 1], alone, **exactly)
        torch.testing.assert_close(tuple(p[:, row : row + 1] for p in parts_of(last)), parts_of(end), **exactly)
        total = total + (alone * weight[:length, row : row + 1]).sum() + sum(part.sum() for part in parts_of(end))
    torch.testing.assert_close(found, torch.autograd.grad(total, [x, *layer.parameters()]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gate", OWN)
def test_dropout_lies_between_the_layers(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, x = make(gate, I, H, 2, dropout=1.0), numbers(T, B, I)
    second = make(gate, H, H)
    second.load_state_dict({name[:-1] + "0": value for name, value in layer.state_dict().items() if name[-1] == "1"})
    torch.testing.assert_close(layer(x)[0], second(torch.zeros(T, B, H, dtype=x.dtype))[0], **exactly)
    plain = make(gate, I, H, 2)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(x)[0], plain(x)[0], **exactly)


@each_gate
@pytest.mark.usefixtures("operators")
def test_no_sequences_are_no_mistake(gate: str, make: Callable[..., Any]) -> None:
    layer = make(gate, I, H, 2)
    x = torch.zeros(T, 0, I, dtype=torch.float64, requires_grad=True)
    output, last = layer(x)
    assert output.shape == (T, 0, H)
    assert parts_of(last)[0].shape == (2, 0, H)
    output.sum().backward()
    assert not layer.weight_hh_l0.grad.any()


@pytest.mark.parametrize("gate", OWN)
@pytest.mark.usefixtures("operators")
def test_products_in_bfloat16(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, x = make(gate, I, H, 2, scale=0.4).float(), numbers(T, B, I, dtype=torch.float32)
    exact = layer(x)[0]
    exact.sum().backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, last = layer(x.bfloat16())
        with torch.no_grad():
            assert all(part.dtype == torch.float32 for part in parts_of(layer(x, last)[1]))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.03
    rounded.sum().backward()
    for parameter, other in zip(layer.parameters(), expected, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - other).norm() < 0.05 * other.norm()


@pytest.mark.parametrize("gate", OWN)
@pytest.mark.usefixtures("operators")
def test_a_second_backward_gives_the_same(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer = make(gate, I, H)
    loss = layer(numbers(T, B, I))[0].sum()
    first = torch.autograd.grad(loss, layer.parameters(), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, layer.parameters()), strict=True))


@each_gate
def test_copies_are_independent(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, x = make(gate, I, H, 2, trainable_bias=False), numbers(T, B, I)
    before = layer(x)[0]
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(layer(x)[0], before)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], before)


@each_gate
def test_activations_are_those_of_the_run(
    gate: str, make: Callable[..., Any], cell_of: Callable[..., Any], numbers: Callable[..., Tensor]
) -> None:
    """From ``keep`` and the states before and after, the candidate's share follows; gates lie between 0 and 1."""
    layer = make(gate, I, H, 2, bidirectional=True)
    x, state = numbers(T, B, I), state_of(layer, 4, B, H)
    values = layer.gate_activations(x, state)
    assert {tuple(value.shape) for value in values.values()} == {(4, T, B, H)}
    assert set(values) == {*(set(layer.mechanism.blocks) - {"candidate"}), "keep"}
    assert all(value.min() > -1e-12 and value.max() < 1 + 1e-12 for value in values.values())
    assert not any(value.requires_grad for value in values.values())
    now = tuple(part[0].clone().requires_grad_() for part in parts_of(state))
    cell = cell_of(layer, "_l0")
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.dim() == 2 and parameter.shape[1] == H and parameter is cell.weight_hh:
                parameter.zero_()  # so that the old state matters through `keep` alone
        for parameter in layer.parameters():
            if parameter is layer.weight_hh_l0:
                parameter.zero_()
    values = layer.gate_activations(x, state)
    new = parts_of(cell(x[0], now if len(now) == 2 else now[0]))[-1]
    slope = torch.autograd.grad(new.sum(), now[-1])[0]
    torch.testing.assert_close(values["keep"][0, 0], slope, **exactly)


def test_activations_of_a_batch_first_layer(make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, first = make("ur-lstm", I, H), make("ur-lstm", I, H, batch_first=True)
    x = numbers(T, B, I)
    found = first.gate_activations(x.transpose(0, 1))
    torch.testing.assert_close(found, layer.gate_activations(x))
    assert isinstance(layer, URLSTM)


@each_gate
def test_weights_that_are_no_parameters(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    """As weight drop and torch.func give them."""
    layer, x = make(gate, I, H, 2), numbers(T, B, I)
    weights = {name: 2 * weight.detach() for name, weight in layer.named_parameters()}
    found, _ = torch.func.functional_call(layer, weights, (x,))
    layer.load_state_dict(weights)
    torch.testing.assert_close(found, layer(x)[0], **exactly)


@each_gate
def test_a_layer_of_16_bits(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    layer, x = make(gate, I, H), numbers(T, B, I)
    expected = layer(x)[0].detach()
    found, _ = layer.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.03)


@pytest.mark.cuda
@each_gate
def test_the_gpu_gives_the_same(gate: str, make: Callable[..., Any], numbers: Callable[..., Tensor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    layer, x = make(gate, I, H, 2, bidirectional=True), numbers(T, B, I)
    expected = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    layer.cuda()
    found = torch.autograd.grad(layer(x.cuda())[0].square().sum(), list(layer.parameters()))
    torch.testing.assert_close([grad.cpu() for grad in found], list(expected), rtol=1e-9, atol=1e-11)
