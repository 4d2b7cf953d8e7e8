"""Weight drop: values, gradients, evaluation, copies, and the kernels that stay in use."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore import dropout
from rnncore.dropout import WeightDrop, dropped_weight, weight_mask
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

T, B, I, H = 6, 3, 4, 5


class RecordedNames(TorchDispatchMode):
    """The names of the operators that run below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


RNNS: list[tuple[Callable[..., nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {"num_layers": 2}),
    (nn.LSTM, {"bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"proj_size": 3, "bias": False}),
    (nn.GRU, {"num_layers": 2}),
    (nn.RNN, {}),
]


def recurrent_weights(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters() if name.startswith("weight_hh")]


def known_masks(module: nn.Module, names: list[str], p: float, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: weight_mask(module.get_parameter(name).detach(), p) for name in names}


def multiplied(module: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A plain module whose weights were multiplied by the masks."""
    plain = copy.deepcopy(module)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
    return plain


@pytest.mark.parametrize(("kind", "options"), RNNS)
def test_weight_drop_is_a_plain_module_with_multiplied_weights(
    kind: Callable[..., nn.RNNBase], options: dict[str, Any], device: torch.device
) -> None:
    torch.manual_seed(0)
    plain = kind(I, H, dtype=torch.float64, **options).to(device)
    names = recurrent_weights(plain)
    dropped = WeightDrop(copy.deepcopy(plain), names, 0.5).to(device)
    input = torch.randn(T, B, I, dtype=torch.float64, device=device)
    for seed in (1, 2):
        masks = known_masks(plain, names, 0.5, seed)
        oracle = multiplied(plain, masks)
        expected, _ = oracle(input)
        torch.manual_seed(seed)
        output, _ = dropped(input)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        assert not torch.allclose(output, plain(input)[0], atol=1e-3), "the drop shows in the output"

        dropped.zero_grad()
        upstream = torch.randn_like(output)
        output.backward(upstream)
        expected.backward(upstream)
        for name, parameter in oracle.named_parameters():
            gradient = parameter.grad * masks.get(name, 1)
            torch.testing.assert_close(dropped.module.get_parameter(name).grad, gradient, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "options"), RNNS)
def test_evaluation_uses_the_full_weight_again_and_again(
    kind: Callable[..., nn.RNNBase], options: dict[str, Any], device: torch.device
) -> None:
    torch.manual_seed(0)
    plain = kind(I, H, **options).to(device)
    dropped = WeightDrop(copy.deepcopy(plain), recurrent_weights(plain), 0.5)
    input = torch.randn(T, B, I, device=device)
    outputs = []
    for _ in range(3):
        outputs.append(dropped.train()(input)[0])
        outputs[-1].sum().backward()
        torch.testing.assert_close(dropped.eval()(input)[0], plain(input)[0], rtol=0, atol=1e-6)
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.equal(one, other), "every call draws new masks"


def test_weight_drop_of_linear_and_of_nested_names() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(I, H, dtype=torch.float64)
    input = torch.randn(B, I, dtype=torch.float64)
    for module, name in [(linear, "weight"), (nn.Sequential(nn.Identity(), linear), "1.weight")]:
        masks = known_masks(module, [name], 0.3, 7)
        torch.manual_seed(7)
        assert torch.equal(WeightDrop(module, [name], 0.3)(input), multiplied(module, masks)(input))
        assert isinstance(linear.weight, nn.Parameter)


def test_gradcheck_through_the_dropped_weight() -> None:
    torch.manual_seed(0)
    dropped = WeightDrop(nn.LSTM(2, 3, dtype=torch.float64), ["weight_hh_l0"], 0.5)
    input = torch.randn(3, 2, 2, dtype=torch.float64)

    def output(*_: Tensor) -> Tensor:
        torch.manual_seed(3)
        result: Tensor = dropped(input)[0]
        return result

    assert torch.autograd.gradcheck(output, tuple(dropped.parameters()))


def test_parameters_keep_their_names() -> None:
    plain = nn.LSTM(I, H)
    dropped = WeightDrop(copy.deepcopy(plain), ["weight_hh_l0"], 0.5)
    dropped(torch.randn(T, B, I))
    assert list(dropped.state_dict()) == [f"module.{name}" for name in plain.state_dict()]
    assert [name for name, _ in dropped.named_parameters()] == [
        f"module.{name}" for name, _ in plain.named_parameters()
    ]
    with pytest.raises(ValueError, match=r"no parameters \['weight_hh_l1'\] in LSTM"):
        WeightDrop(plain, ["weight_hh_l1"], 0.5)


def test_copied_saved_loaded_and_converted_after_training_steps() -> None:
    torch.manual_seed(0)
    dropped = WeightDrop(nn.LSTM(I, H, num_layers=2), ["weight_hh_l0", "weight_hh_l1"], 0.5)
    input = torch.randn(T, B, I)
    optimizer = torch.optim.SGD(dropped.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        dropped(input)[0].square().sum().backward()
        optimizer.step()
    twin = copy.deepcopy(dropped)
    fresh = WeightDrop(nn.LSTM(I, H, num_layers=2), ["weight_hh_l0", "weight_hh_l1"], 0.5)
    fresh.load_state_dict(dropped.state_dict())
    outputs = []
    for module in (dropped, twin, fresh):
        torch.manual_seed(1)
        outputs.append(module(input)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])

    with torch.no_grad():
        dropped.module.weight_hh_l0.zero_()
    assert twin.module.weight_hh_l0.abs().min() > 0, "a copy has its own weights"

    twin.to(torch.float64)
    masks = known_masks(twin.module, ["weight_hh_l0", "weight_hh_l1"], 0.5, 2)
    torch.manual_seed(2)
    output = twin(input.double())[0]
    torch.testing.assert_close(output, multiplied(twin.module, masks)(input.double())[0], rtol=0, atol=1e-12)


def test_optimizer_steps_reach_the_recurrence() -> None:
    """The module reads the weights of now, not those of its construction."""
    torch.manual_seed(0)
    dropped = WeightDrop(nn.GRU(I, H), ["weight_hh_l0"], 0.5)
    input = torch.randn(T, B, I)
    outputs = []
    for shift in (0.0, 0.5):
        with torch.no_grad():
            dropped.module.weight_hh_l0.add_(shift)
        torch.manual_seed(1)
        outputs.append(dropped(input)[0])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_no_autograd_graph_outlives_the_step() -> None:
    dropped = WeightDrop(nn.LSTM(I, H), ["weight_hh_l0"], 0.5)
    dropped(torch.randn(T, B, I))[0].sum().backward()
    assert all(weight.grad_fn is None for weight in dropped.module._flat_weights)
    with pytest.raises(ValueError, match="2D or 3D"):
        dropped(torch.randn(T, B, I, 1))
    assert all(weight.grad_fn is None for weight in dropped.module._flat_weights), "nor a failed one"


def test_zero_probability_draws_and_copies_nothing() -> None:
    plain = nn.LSTM(I, H)
    dropped = WeightDrop(plain, ["weight_hh_l0"], 0.0)
    input = torch.randn(T, B, I)
    before = torch.get_rng_state()
    with RecordedNames() as ours:
        output = dropped(input)[0]
    with RecordedNames() as theirs:
        expected = plain(input)[0]
    assert torch.equal(output, expected)
    assert ours.names == theirs.names
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_the_fused_lstm_stays_in_use() -> None:
    dropped = WeightDrop(nn.LSTM(I, H), ["weight_hh_l0"], 0.5)
    with RecordedNames() as recorded:
        dropped(torch.randn(T, B, I))[0].sum().backward()
    assert "mkldnn_rnn_layer" in recorded.names
    assert "mkldnn_rnn_layer_backward" in recorded.names


def test_packed_sequences_and_states_pass_through() -> None:
    torch.manual_seed(0)
    plain = nn.LSTM(I, H)
    masks = known_masks(plain, ["weight_hh_l0"], 0.5, 4)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, I), torch.tensor([6, 4, 1]))
    state = (torch.randn(1, B, H), torch.randn(1, B, H))
    expected, expected_state = multiplied(plain, masks)(packed, state)
    torch.manual_seed(4)
    output, last_state = WeightDrop(plain, ["weight_hh_l0"], 0.5)(packed, state)
    torch.testing.assert_close(output.data, expected.data)
    torch.testing.assert_close(last_state, expected_state)
    assert not torch.allclose(output.data, plain(packed, state)[0].data, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cudnn_weights_stay_where_they_are() -> None:
    """A captured CUDA graph reads the weights at their addresses."""
    dropped = WeightDrop(nn.LSTM(I, H), ["weight_hh_l0"], 0.5).cuda()
    addresses = [parameter.data_ptr() for parameter in dropped.parameters()]
    for _ in range(2):
        dropped.train()(torch.randn(T, B, I, device="cuda"))[0].sum().backward()
        dropped.eval()(torch.randn(T, B, I, device="cuda"))
    assert addresses == [parameter.data_ptr() for parameter in dropped.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_native_code_drops_what_the_eager_one_drops(
    monkeypatch: pytest.MonkeyPatch, p: float, dtype: torch.dtype
) -> None:
    """By the same random numbers, to the bit; the sizes are odd, and more than a part of the native code's."""
    raw = torch.linspace(-2, 3, 3 * 3001, dtype=dtype).view(3, 3001)
    if not dropout._native(raw):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    found = []
    for native_code in (True, False):
        monkeypatch.setattr(dropout, "_native", lambda weight, use=native_code: use)
        for weight in (raw.clone().requires_grad_(), raw.t().clone().t().requires_grad_()):
            torch.manual_seed(7)
            dropped = dropped_weight(weight, p)
            (grad,) = torch.autograd.grad((dropped * raw).sum(), weight)
            found.append([dropped.detach(), grad, torch.rand(1)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert bool((found[0][0] == 0).any()) == (p > 0)


def test_without_rescaling_what_is_kept_stays_as_large_as_it_is() -> None:
    weight = torch.linspace(1, 2, 400, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    scaled = dropped_weight(weight, 0.25)
    torch.manual_seed(3)
    plain = dropped_weight(weight, 0.25, rescale=False)
    kept = scaled != 0
    assert 0.6 < kept.double().mean() < 0.9
    assert torch.equal(plain, torch.where(kept, weight, 0))
    plain.sum().backward()
    assert torch.equal(weight.grad, kept.double())
