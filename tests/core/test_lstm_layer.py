"""`LSTMLayer` in place of `torch.nn.LSTM`: parameters, states, weight drop, autocast, and where torch's own runs."""

import copy
import warnings
from typing import Any

import pytest
import torch
from rnncore import lstm
from rnncore.dropout import WeightDrop, weight_mask
from rnncore.lstm import LSTMLayer, lstm_sequence
from torch import Tensor, nn

T, B, I, H = 9, 3, 4, 5
TIGHT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which implementation each call of a layer takes."""
    names: list[str] = []

    def recorded(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(lstm, "lstm_sequence", recorded("ours", lstm_sequence))
    monkeypatch.setattr(torch._VF, "lstm", recorded("torch", torch._VF.lstm), raising=False)
    return names


def pair(bias: bool = True) -> tuple[LSTMLayer, nn.LSTM]:
    """Our layer and torch's with the same weights, in float64."""
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, bias=bias).double()
    ours = LSTMLayer(I, H, bias=bias).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs() -> tuple[Tensor, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    x, h, c = (torch.randn(shape, dtype=torch.float64) for shape in [(T, B, I), (1, B, H), (1, B, H)])
    return x, (h, c)


def gradients(module: nn.Module, x: Tensor, state: Any) -> list[Tensor]:
    """Outputs, last state and gradients by the inputs, the first state and the parameters."""
    leaves = [x.clone().requires_grad_(), *(part.clone().requires_grad_() for part in state or ())]
    output, (h, c) = module(leaves[0], tuple(leaves[1:]) if state else None)
    total = output.square().sum() + h.sin().sum() + c.exp().sum()
    return [output, h, c, *torch.autograd.grad(total, [*leaves, *module.parameters()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_the_layer_is_torchs(bias: bool, with_state: bool, calls: list[str]) -> None:
    ours, theirs = pair(bias)
    x, state = inputs()
    found = gradients(ours, x, state if with_state else None)
    assert calls == ["ours"]
    for one, other in zip(found, gradients(theirs, x, state if with_state else None), strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_torchs(bias: bool) -> None:
    """Names, order, first values, and with them the generator's state after."""
    torch.manual_seed(3)
    theirs = nn.LSTM(7, 6, bias=bias)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    ours = LSTMLayer(7, 6, bias=bias)
    assert torch.equal(torch.get_rng_state(), after)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    theirs.load_state_dict(ours.state_dict())


def test_without_gradient_the_same_to_the_bit(calls: list[str]) -> None:
    layer, _ = pair()
    x, state = inputs()
    output, last = layer(x, state)
    with torch.no_grad():
        again, end = layer(x, state)
    assert calls == ["ours", "ours"]
    assert not again.requires_grad
    assert all(torch.equal(one, other) for one, other in zip([output, *last], [again, *end], strict=True))


def test_few_steps_without_gradient_are_torchs(calls: list[str]) -> None:
    layer, _ = pair()
    x, state = inputs()
    output, _ = layer(x, state)
    calls.clear()
    outputs = []
    with torch.no_grad():
        for step in x:
            now, state = layer(step[None], state)
            outputs.append(now)
    assert calls == ["torch"] * T
    torch.testing.assert_close(torch.cat(outputs), output, **TIGHT)


def test_other_types_are_torchs(calls: list[str]) -> None:
    layer, theirs = pair()
    x, _ = inputs()
    output, _ = layer.bfloat16()(x.bfloat16())
    assert calls == ["torch"]
    torch.testing.assert_close(output, theirs.bfloat16()(x.bfloat16())[0], rtol=0, atol=0.01)


def test_weight_drop_uses_the_dropped_weight_and_its_gradient_reaches_the_raw_one(calls: list[str]) -> None:
    layer, theirs = pair()
    dropped = WeightDrop(layer, ["weight_hh_l0"], 0.5)
    x, state = inputs()
    for seed in (1, 2):
        torch.manual_seed(seed)
        mask = weight_mask(theirs.weight_hh_l0.detach(), 0.5)
        oracle = copy.deepcopy(theirs)
        with torch.no_grad():
            oracle.weight_hh_l0.mul_(mask)
        expected = gradients(oracle, x, state)
        expected[-3] = expected[-3] * mask
        torch.manual_seed(seed)
        calls.clear()
        found = gradients(dropped, x, state)
        assert calls[0] == "ours"
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **TIGHT)
        assert bool(found[-3].any())
        assert not torch.allclose(found[0], layer(x, state)[0], atol=1e-3), "the drop shows"
    assert [name for name, _ in dropped.named_parameters()] == [f"module.{name}" for name in theirs.state_dict()]
    assert torch.equal(dropped.eval()(x, state)[0], layer(x, state)[0])
    assert isinstance(layer.weight_hh_l0, nn.Parameter)


def test_autocast_computes_products_in_its_type() -> None:
    layer = LSTMLayer(I, H)
    x, (h, c) = (inputs()[0].float(), (part.float() for part in inputs()[1]))
    with torch.autocast("cpu", torch.bfloat16):
        output, last = layer(x, (h, c))
    expected = lstm_sequence(x, h[0], c[0], *layer.parameters(), dtype=torch.bfloat16)
    assert output.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip([output, last[0][0], last[1][0]], expected, strict=True))
    grads = [torch.autograd.grad(result.sum(), list(layer.parameters())) for result in (output, expected[0])]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
    assert not torch.equal(output, layer(x, (h, c))[0])


def test_autocast_leaves_a_sequence_of_its_own_type_alone() -> None:
    layer = LSTMLayer(I, H)
    x, zeros = inputs()[0].float(), torch.zeros(B, H)
    expected, _ = layer(x)
    expected_grads = torch.autograd.grad(expected.sum(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        output, _, _ = lstm_sequence(x, zeros, zeros, *layer.parameters())
        grads = torch.autograd.grad(output.sum(), list(layer.parameters()))
    assert torch.equal(output, expected)
    assert all(torch.equal(one, other) for one, other in zip(grads, expected_grads, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    layer, _ = pair()
    x, (h, c) = inputs()
    for wrong, state, message in [
        (x[0], None, r"Expected input \[T, B, I\], got \[3, 4\]"),
        (x, (h[:, :2], c), r"Expected h0 \[3, 5\], got \[2, 5\]"),
        (x, (h, torch.cat([c, c])), r"Expected c0 \[3, 5\], got \[2, 3, 5\]"),
        (x[:, :, :2], None, r"Expected weight_ih \[20, 2\], got \[20, 4\]"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            layer(wrong, state)


def test_it_says_what_it_is() -> None:
    assert repr(LSTMLayer(3, 4)) == "LSTMLayer(3, 4)"
    assert repr(LSTMLayer(3, 4, bias=False)) == "LSTMLayer(3, 4, bias=False)"


def test_weights_may_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN copies them together, and tells so at each call, which is no news to a user."""
    real = torch._VF.lstm

    def telling(*words: Any) -> Any:
        text = "RNN module weights are not part of single contiguous chunk of memory. This means they need to be"
        warnings.warn(f"{text} compacted at every call.", stacklevel=1)
        return real(*words)

    monkeypatch.setattr(torch._VF, "lstm", telling, raising=False)
    monkeypatch.setattr(lstm, "pays", lambda *_: False)
    (layer, theirs), (x, state) = pair(), inputs()
    assert torch.equal(layer(x, state)[0], theirs(x, state)[0])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu(calls: list[str]) -> None:
    """cuDNN's layer, without a warning about where the weights lie."""
    layer, theirs = pair()
    x, state = inputs()
    expected = gradients(theirs, x, state)
    calls.clear()
    place = torch.device("cuda")
    found = gradients(layer.to(place), x.to(place), tuple(part.to(place) for part in state))
    assert calls == ["torch"]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_autocast_on_a_gpu() -> None:
    """Layers of cuDNN stay in their weights' type: autocast would compute them in float16."""
    x = torch.randn(T, B, I, device="cuda")
    for module in (LSTMLayer(I, H), WeightDrop(nn.GRU(I, H), ["weight_hh_l0"], 0.5), WeightDrop(nn.GRU(I, H), [], 0.0)):
        module.to("cuda").eval()
        with torch.autocast("cuda", torch.bfloat16):
            output = module(x.bfloat16())[0]
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, module(x)[0], rtol=0, atol=1e-2)


def test_what_does_not_fit_a_sequence_is_refused() -> None:
    shapes = [(3, 2, 4), (2, 5), (2, 5), (20, 4), (20, 5), (20,), (20,)]
    right = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
    for number, wrong, message in [
        (0, torch.zeros(0, 2, 4).double(), "Expected sequence length to be larger than 0 in RNN"),
        (0, torch.zeros(3, 4).double(), r"Expected input \[T, B, I\], got \[3, 4\]"),
        (0, torch.zeros(3, 2, 3).double(), r"Expected weight_ih \[20, 3\], got \[20, 4\]"),
        (0, torch.zeros(3, 2, 4), "got torch.float64 and torch.float32"),
        (1, torch.zeros(3, 5).double(), r"Expected h0 \[2, 5\], got \[3, 5\]"),
        (2, torch.zeros(1, 2, 5).double(), r"Expected c0 \[2, 5\], got \[1, 2, 5\]"),
        (4, torch.zeros(15, 5).double(), r"Expected weight_hh \[20, 5\], got \[15, 5\]"),
        (4, torch.zeros(20, 5).bfloat16(), "Expected weights of float32 or float64"),
        (5, torch.zeros(15).double(), r"Expected bias_ih \[20\], got \[15\]"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            lstm_sequence(*right[:number], wrong, *right[number + 1 :])
