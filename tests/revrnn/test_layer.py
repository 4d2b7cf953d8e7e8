"""The layers' interface: what ``torch.nn.GRU`` and ``torch.nn.LSTM`` accept, give and refuse."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn import RevGRU, RevLSTM, RevLSTMCell
from rnncore.errors import UserError
from torch import Tensor, nn

Rev = RevGRU | RevLSTM
I, H, B, T = 5, 6, 3, 12
PAIRS: list[tuple[type[Rev], type[nn.RNNBase]]] = [(RevGRU, nn.GRU), (RevLSTM, nn.LSTM)]
LAYERS = [RevGRU, RevLSTM]

both = pytest.mark.parametrize("reversible", [True, False])
each_layer = pytest.mark.parametrize("layer", LAYERS)


def make(layer: type[Rev], *args: Any, dtype: torch.dtype = torch.float64, **options: Any) -> Rev:
    torch.manual_seed(0)
    return layer(*(args or (I, H)), **options).to(dtype)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def state_of(layer: Any, *shape: int, seed: int = 1) -> Any:
    """A first state for a layer, or torch's: one tensor, or a pair."""
    parts = [numbers(*shape, seed=seed + k).clamp(-1, 1) for k in range(2)]
    return tuple(parts) if isinstance(layer, RevLSTM | nn.LSTM) else parts[0]


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("layer", "torchs"), PAIRS)
def test_shapes_are_those_of_torch(
    layer: type[Rev], torchs: type[nn.RNNBase], with_state: bool, batched: bool, batch_first: bool
) -> None:
    ours = make(layer, I, H, 2, batch_first=batch_first)
    theirs = torchs(I, H, 2, batch_first=batch_first).double()
    x = numbers(B, T, I) if batched else numbers(T, I)
    results = []
    for module in (ours, theirs):
        shape = (2, T if not batch_first else B, H) if batched else (2, H)
        output, last = module(x, state_of(module, *shape)) if with_state else module(x)
        assert isinstance(last, tuple) == (torchs is nn.LSTM)
        results.append((output, *as_tuple(last)))
    assert [tensor.shape for tensor in results[0]] == [tensor.shape for tensor in results[1]]
    assert [tensor.dtype for tensor in results[0]] == [tensor.dtype for tensor in results[1]]
    assert all(tensor.requires_grad for tensor in results[0])
    last_step = results[0][0].select(1 if batched and batch_first else 0, -1)
    assert torch.equal(results[0][1][-1], last_step)


@each_layer
@both
def test_batch_first_and_unbatched_are_the_same_numbers(layer: type[Rev], reversible: bool) -> None:
    plain, other = (make(layer, I, H, 2, batch_first=first, reversible=reversible) for first in (False, True))
    x, state = numbers(T, B, I), state_of(plain, 2, B, H)
    output, last = plain(x, state)
    turned, turned_last = other(x.transpose(0, 1), state)
    assert torch.equal(turned.transpose(0, 1), output)
    assert all(torch.equal(a, b) for a, b in zip(as_tuple(turned_last), as_tuple(last), strict=True))
    single = tuple(part[:, 0] for part in as_tuple(state))
    alone, alone_last = plain(x[:, 0], single if layer is RevLSTM else single[0])
    one = tuple(part[:, :1] for part in as_tuple(state))
    expected, expected_last = plain(x[:, :1], one if layer is RevLSTM else one[0])
    assert torch.equal(alone, expected[:, 0])
    assert all(torch.equal(a, b[:, 0]) for a, b in zip(as_tuple(alone_last), as_tuple(expected_last), strict=True))


@each_layer
@both
def test_the_layer_is_its_cells(
    layer: type[Rev], reversible: bool, make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    module = make(layer, I, H, 2, reversible=reversible, slice_dim=2, max_forget=0.75)
    cells = make_cells(module.kind, I, H, 2, max_forget=0.75)
    with torch.no_grad():
        for cell, weights in zip(cells, module.weights(), strict=True):
            for mine, its in zip((cell.weight_ih, cell.weight_hh, cell.bias), weights, strict=True):
                mine.copy_(its)
    x, state = numbers(T, B, I), state_of(module, 2, B, H)
    output, last = module(x, state)
    groups = [[g for part in as_tuple(state) for g in part[k].chunk(2, dim=1)] for k in range(2)]
    expected, states = unroll(cells, x, groups, buffered=reversible, slice_dim=2)
    assert torch.equal(output, expected)
    values = [[group.value for group in layer_state] for layer_state in states[-1]]
    for part, ours in enumerate(as_tuple(last)):
        its = torch.stack([torch.cat(groups[2 * part : 2 * part + 2], dim=1) for groups in values])
        assert torch.equal(ours, its)


def error_of(call: Callable[..., Any], *arguments: Any) -> type[Exception] | None:
    try:
        call(*arguments)
    except Exception as error:
        return type(error)
    return None


BAD_SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "one dimension": ((I,), None),
    "four dimensions": ((T, B, I, 1), None),
    "other features": ((T, B, I + 1), None),
    "other features, unbatched": ((T, I - 1), None),
    "no time steps": ((0, B, I), None),
    "state of another batch": ((T, B, I), (2, B + 1, H)),
    "state of other layers": ((T, B, I), (1, B, H)),
    "state of other units": ((T, B, I), (2, B, H + 2)),
    "state without batch": ((T, B, I), (2, H)),
    "state with batch for input without": ((T, I), (2, 1, H)),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
@pytest.mark.parametrize(("layer", "torchs"), PAIRS)
def test_bad_shapes_are_refused_as_by_torch(layer: type[Rev], torchs: type[nn.RNNBase], case: str) -> None:
    x_shape, state_shape = BAD_SHAPES[case]
    errors = []
    for module in (make(layer, I, H, 2), torchs(I, H, 2).double()):
        state = [] if state_shape is None else [state_of(module, *state_shape)]
        errors.append(error_of(module, numbers(*x_shape), *state))
    assert errors[1] is not None
    assert errors[0] is errors[1]


@each_layer
@pytest.mark.parametrize("lengths", [[3], [3, 4, 5, 6], [[3, 4, 5]]])
def test_lengths_of_another_shape_are_refused(layer: type[Rev], lengths: list[Any]) -> None:
    with pytest.raises(RuntimeError, match=r"Expected lengths of shape \(3,\)"):
        make(layer)(numbers(T, B, I), lengths=torch.tensor(lengths))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 7}, "even number of units"),
        ({"hidden_size": 0}, "even number of units"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"input_size": 0}, "input_size and num_layers must be positive"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
        ({"dropout": float("nan")}, "dropout must be at least 0"),
        ({"max_forget": 0.0}, "max_forget must be above 0"),
        ({"max_forget": float("nan")}, "max_forget must be above 0"),
        ({"slice_dim": 4}, "slice_dim must be from 0 to hidden_size / 2 = 3, not 4"),
        ({"slice_dim": -1}, "slice_dim must be from 0"),
    ],
    ids=str,
)
@each_layer
def test_bad_arguments_are_one_clear_line(layer: type[Rev], options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"input_size": I, "hidden_size": H} | options
    with pytest.raises(UserError, match=message) as caught:
        layer(**arguments)
    assert "\n" not in str(caught.value)


@each_layer
def test_parameters(layer: type[Rev]) -> None:
    """Their names and shapes, and that a layer's are the cell's."""
    gates = 3 if layer is RevGRU else 5
    module = make(layer, I, H, 2)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "weight_ih_l0": (gates * H, I),
        "weight_hh_l0": (gates * H, H // 2),
        "bias_l0": (gates * H,),
        "weight_ih_l1": (gates * H, H),
        "weight_hh_l1": (gates * H, H // 2),
        "bias_l1": (gates * H,),
    }
    assert [name for name, _ in make(layer, bias=False).named_parameters()] == ["weight_ih_l0", "weight_hh_l0"]
    assert "num_layers=2" in repr(module)


@each_layer
@both
def test_copies_and_saved_states_compute_the_same(layer: type[Rev], reversible: bool) -> None:
    module = make(layer, I, H, 2, reversible=reversible)
    x = numbers(T, B, I)
    output, _ = module(x)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = layer(I, H, 2, reversible=reversible).double()
    assert not torch.equal(loaded(x)[0], output)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(module), loaded):
        mine, its = (torch.autograd.grad(m(x)[0].sin().sum(), list(m.parameters())) for m in (module, other))
        assert torch.equal(other(x)[0], output)
        assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))


@pytest.mark.parametrize(("layer", "torchs"), PAIRS)
def test_autocast_after_a_layer_that_gives_bfloat16(layer: type[Rev], torchs: type[nn.RNNBase]) -> None:
    """As ``torch.nn.GRU`` takes what ``torch.nn.Linear`` gives under autocast."""
    before, x = nn.Linear(I, I), numbers(T, B, I, dtype=torch.float32)
    shapes = []
    for module in (make(layer, dtype=torch.float32), torchs(I, H)):
        with torch.autocast("cpu", torch.bfloat16):
            shapes.append(module(before(x))[0].shape)
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("layer", [RevGRU, RevLSTM])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_refused(layer: type[Rev], dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match=f"^Expected weights of float32 or float64, got {dtype}; autocast gives"):
        make(layer, dtype=torch.float32).to(dtype)(numbers(T, B, I, dtype=dtype))


def test_layers_and_cells_begin_alike() -> None:
    """The same draws in the same order."""
    torch.manual_seed(3)
    cell = RevLSTMCell(I, H)
    torch.manual_seed(3)
    layer = RevLSTM(I, H)
    assert all(torch.equal(a, b) for a, b in zip(cell.parameters(), layer.parameters(), strict=True))
