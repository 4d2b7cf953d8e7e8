"""The layers' numbers: states carried from window to window, lengths, gradients, dropout, what leaves the range."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from revrnn import RevGRU, RevLSTM
from rnncore.errors import UserError
from torch import Tensor

Rev = RevGRU | RevLSTM
I, H, B, T = 5, 6, 3, 12
LAYERS = [RevGRU, RevLSTM]

both = pytest.mark.parametrize("reversible", [True, False])
each_layer = pytest.mark.parametrize("layer", LAYERS)


def make(layer: type[Rev], *args: Any, dtype: torch.dtype = torch.float64, **options: Any) -> Rev:
    torch.manual_seed(0)
    return layer(*(args or (I, H)), **options).to(dtype)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def state_of(layer: Any, *shape: int, seed: int = 1) -> Any:
    """A first state for a layer: one tensor, or a pair."""
    parts = [numbers(*shape, seed=seed + k).clamp(-1, 1) for k in range(2)]
    return tuple(parts) if isinstance(layer, RevLSTM) else parts[0]


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def integers(layer: Rev, batch: int = B) -> Any:
    parts = [torch.zeros(layer.num_layers, batch, layer.hidden_size, dtype=torch.int32) for _ in range(layer.parts)]
    return tuple(parts) if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_layer
def test_integer_states_are_carried_exactly(layer: type[Rev], dtype: torch.dtype) -> None:
    """Two windows of 50 steps are one of 100, bit for bit; real numbers in float32 would not do for large states."""
    module = make(layer, I, H, 2, reversible=False, dtype=dtype)
    x = numbers(100, B, I, dtype=dtype)
    output, last = module(x, integers(module))
    first, middle = module(x[:50], integers(module))
    second, end = module(x[50:], middle)
    assert torch.equal(torch.cat([first, second]), output)
    for whole, part, before in zip(as_tuple(last), as_tuple(end), as_tuple(middle), strict=True):
        assert whole.dtype == torch.int32
        assert torch.equal(whole, part)
        assert not torch.equal(whole, before)
        assert not whole.requires_grad


@each_layer
def test_reversible_windows_carry_their_state_too(
    layer: type[Rev], make_cells: Callable[..., Any], unroll: Callable[..., Any]
) -> None:
    """Each window begins empty buffers at the state that the one before left, low bits included."""
    module = make(layer, I, H)
    (cell,) = make_cells(module.kind, I, H)
    with torch.no_grad():
        for mine, its in zip((cell.weight_ih, cell.weight_hh, cell.bias), module.weights()[0], strict=True):
            mine.copy_(its)
    x, state = numbers(60, B, I), integers(module)
    groups = [torch.zeros(B, H // 2, dtype=torch.float64) for _ in range(2 * module.parts)]
    for window in x.split(20):
        output, state = module(window, state)
        expected, states = unroll([cell], window, [groups])
        assert torch.equal(output, expected)
        groups = [group.value.detach() for group in states[-1][0]]
        bits = [part.bits for part in states[-1][0]]
        for k, part in enumerate(as_tuple(state)):
            assert torch.equal(part[0], torch.cat(bits[2 * k : 2 * k + 2], dim=1))


@each_layer
def test_a_real_state_is_an_integer_one_rounded(layer: type[Rev]) -> None:
    module = make(layer, reversible=False)
    state = state_of(module, 1, B, H)
    rounded = tuple((part * 2**23).round().int() for part in as_tuple(state))
    output, last = module(numbers(T, B, I), state)
    same, integer_last = module(numbers(T, B, I), rounded if layer is RevLSTM else rounded[0])
    assert torch.equal(same, output)
    for real, integer in zip(as_tuple(last), as_tuple(integer_last), strict=True):
        assert torch.equal(real, integer.double() / 2**23)


@both
@each_layer
def test_lengths_are_sequences_run_alone(layer: type[Rev], reversible: bool) -> None:
    """Outputs, last states and gradients. Few steps with buffers: rows begin a new word together."""
    lengths = [8, 5, 1] if reversible else [30, 17, 1]
    module = make(layer, I, H, 2, reversible=reversible)
    x = numbers(max(lengths), B, I).requires_grad_()
    state = state_of(module, 2, B, H)
    output, last = module(x, state, lengths=torch.tensor(lengths))
    (grad,) = torch.autograd.grad(sum(part.sin().sum() for part in as_tuple(last)) + output[-1].sum(), x)
    for b, length in enumerate(lengths):
        alone_x = x.detach()[:length, b : b + 1].requires_grad_()
        alone_state = tuple(part[:, b : b + 1] for part in as_tuple(state))
        alone, alone_last = module(alone_x, alone_state if layer is RevLSTM else alone_state[0])
        torch.testing.assert_close(output[:length, b], alone[:, 0], rtol=0, atol=1e-12)
        assert bool((output[length:, b] == output[length - 1, b]).all())
        for ours, its in zip(as_tuple(last), as_tuple(alone_last), strict=True):
            torch.testing.assert_close(ours[:, b], its[:, 0], rtol=0, atol=1e-12)
        loss = sum(part.sin().sum() for part in as_tuple(alone_last)) + alone[-1].sum()
        (alone_grad,) = torch.autograd.grad(loss, alone_x)
        torch.testing.assert_close(grad[:length, b], alone_grad[:, 0], rtol=0, atol=1e-9)
        assert not grad[length:, b].any()


@each_layer
def test_whole_lengths_are_none(layer: type[Rev]) -> None:
    module, x = make(layer), numbers(T, B, I)
    output, last = module(x, lengths=torch.full((B,), T))
    expected, its = module(x)
    assert torch.equal(output, expected)
    assert all(torch.equal(a, b) for a, b in zip(as_tuple(last), as_tuple(its), strict=True))


@each_layer
@both
def test_real_states_have_a_gradient(layer: type[Rev], reversible: bool) -> None:
    """Against the difference of two runs: states are rounded to 2**-23 and gates to 1/1024, so only roughly."""
    module = make(layer, I, H, 1, reversible=reversible)
    x, weight = numbers(3, B, I), numbers(3, B, H, seed=5)
    parts = [part.clone().requires_grad_() for part in as_tuple(state_of(module, 1, B, H))]
    loss = (module(x, tuple(parts) if layer is RevLSTM else parts[0])[0] * weight).sum()
    gradients = torch.autograd.grad(loss, parts)
    for k in range(len(parts)):
        direction, step = numbers(1, B, H, seed=6), 0.2
        losses = []
        for sign in (1, -1):
            moved = [part.detach() + (sign * step * direction if j == k else 0) for j, part in enumerate(parts)]
            output, _ = module(x, tuple(moved) if layer is RevLSTM else moved[0])
            losses.append(float((output * weight).sum().detach()))
        slope = (losses[0] - losses[1]) / (2 * step)
        assert float((gradients[k] * direction).sum()) == pytest.approx(slope, rel=0.05, abs=0.02)


@each_layer
@both
def test_a_second_backward_is_refused(layer: type[Rev], reversible: bool) -> None:
    loss = make(layer, reversible=reversible)(numbers(T, B, I))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run forward again"):
        loss.backward()


@each_layer
def test_the_gradient_of_the_gradient_is_refused(layer: type[Rev]) -> None:
    """It does not exist, and is never silently something else."""
    x = numbers(T, B, I).requires_grad_()
    for part in (0, 1):
        result = make(layer)(x)[part]
        (grad,) = torch.autograd.grad(as_tuple(result)[0].pow(2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@each_layer
@both
def test_without_gradient_nothing_is_kept(layer: type[Rev], reversible: bool) -> None:
    module = make(layer, reversible=reversible)
    with torch.no_grad():
        output, last, window = module._run(numbers(200, B, I), None, None)
    assert not output.requires_grad
    assert not any(part.requires_grad for part in last)
    assert [running.kept for running in window.layers] == [[]]
    assert torch.equal(output, module(numbers(200, B, I))[0])


@each_layer
def test_dropout_is_between_layers_in_training_only(layer: type[Rev]) -> None:
    x = numbers(T, B, I)
    plain = make(layer, I, H, 2)
    dropped = make(layer, I, H, 2, dropout=0.5)
    assert torch.equal(dropped.eval()(x)[0], plain(x)[0])
    torch.manual_seed(1)
    first, second = (dropped.train()(x)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(dropped(x)[0], first)
    single = make(layer, I, H, 1, dropout=0.5)
    assert torch.equal(single.train()(x)[0], single.eval()(x)[0])


@each_layer
def test_dropout_masks_one_draw_for_all_time_steps(layer: type[Rev], monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs of the first of two layers, times a mask, are what the second sees."""
    whole = make(layer, I, H, 2, dropout=0.5, reversible=False)
    drawn: list[list[Tensor | None]] = []
    plain = layer._masks

    def recorded(self: Rev, x: Tensor) -> list[Tensor | None]:
        drawn.append(plain(self, x))
        return drawn[-1]

    monkeypatch.setattr(layer, "_masks", recorded)
    output, _ = whole(numbers(T, B, I))
    ((mask, last),) = drawn
    assert last is None
    assert mask is not None
    assert mask.shape == (1, B, H)
    assert set(mask.flatten().tolist()) == {0.0, 2.0}
    parts = [make(layer, size, H, reversible=False) for size in (I, H)]
    with torch.no_grad():
        for part, weights in zip(parts, whole.weights(), strict=True):
            for mine, its in zip(part.parameters(), weights, strict=True):
                mine.copy_(its)
    assert torch.equal(parts[1](parts[0](numbers(T, B, I))[0] * mask)[0], output)


@both
def test_an_lstm_that_leaves_the_range_is_one_clear_line(reversible: bool) -> None:
    module = make(RevLSTM, I, H, reversible=reversible, max_forget=0.01)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.get_parameter("bias_l0").fill_(20.0)
    assert float(module(numbers(240, B, I))[0].detach().max()) > 230
    with pytest.raises(UserError, match=r"left the fixed-point range \(-256, 256\)") as caught:
        module(numbers(300, B, I))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["weight_ih_l0", "weight_hh_l0", "bias_l0", "input"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_layer
@both
@pytest.mark.usefixtures("operators")
def test_nan_is_never_silent(layer: type[Rev], reversible: bool, dtype: torch.dtype, where: str) -> None:
    """From the zero state; in one row of a weight, or one number of the input."""
    module, x = make(layer, reversible=reversible, dtype=dtype), numbers(T, B, I, dtype=dtype)
    with torch.no_grad():
        (x if where == "input" else module.get_parameter(where))[0] = float("nan")
    with pytest.raises(UserError):
        module(x)


@each_layer
@both
def test_bfloat16_autocast(layer: type[Rev], reversible: bool) -> None:
    """Products in bfloat16, states and outputs in float32; gradients near those of full precision."""
    module = make(layer, I, H, 2, reversible=reversible, dtype=torch.float32)
    x = numbers(T, B, I, dtype=torch.float32)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, _ = module(x)
        assert output.dtype == torch.float32
        results.append((output.detach(), torch.autograd.grad(output.square().sum(), list(module.parameters()))))
    (exact, gradients), (rounded, rounded_gradients) = results
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).norm() / exact.norm()) < 0.02
    for ours, theirs in zip(rounded_gradients, gradients, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05
