"""How gates start: uniform, chrono, constant, and as torch's layers; trained or fixed."""

import math
from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from torch import Tensor, nn
from urlstm import URGRU, URLSTM, URLSTMCell, make_layer

UNIFORM = ["u-lstm", "ur-lstm", "ur-gru"]


def distance_from_uniform(sample: Tensor, low: float, high: float) -> float:
    """Kolmogorov and Smirnov's: the largest distance of the empirical distribution from the uniform, times sqrt n."""
    values = ((sample.double() - low) / (high - low)).sort().values
    ranks = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    largest = torch.maximum(ranks[1:] - values, values - ranks[:-1]).max()
    return float(largest) * math.sqrt(len(values))


def test_the_distance_tells_distributions_apart() -> None:
    torch.manual_seed(0)
    uniform = torch.rand(4000)
    assert distance_from_uniform(uniform, 0, 1) < 1.63  # the 1 % point
    assert distance_from_uniform(uniform.clamp(max=0.96), 0, 1) > 1.63
    assert distance_from_uniform(torch.sigmoid(torch.randn(4000)), 0, 1) > 5


@pytest.mark.parametrize("gate", UNIFORM)
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("units", [10, 4000])
def test_forget_activations_are_uniform(gate: str, trainable: bool, units: int) -> None:
    torch.manual_seed(1)
    count = 4000 // units
    layers = [make_layer(gate, 1, units, trainable_bias=trainable) for _ in range(count)]
    values = [layer.gate_activations(torch.zeros(1, 1, 1)) for layer in layers]
    name, opposite = ("update" if gate == "ur-gru" else "forget"), ("input" if gate == "u-lstm" else "refine")
    forget = torch.cat([each[name].flatten() for each in values])
    assert distance_from_uniform(forget, 1 / units, 1 - 1 / units) < 1.63
    assert forget.min() >= 1 / units - 1e-6
    assert forget.max() <= 1 - 1 / units + 1e-6
    other = torch.cat([each[opposite].flatten() for each in values])
    torch.testing.assert_close(other, 1 - forget, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trainable", [True, False])
def test_chrono_spreads_the_time_scales(trainable: bool) -> None:
    torch.manual_seed(1)
    layer = URLSTM(1, 4000, gate="c-lstm", t_max=500, trainable_bias=trainable)
    values = layer.gate_activations(torch.zeros(1, 1, 1, dtype=torch.float32))
    forget = values["forget"].double().flatten()
    assert distance_from_uniform(forget / (1 - forget), 1, 499) < 1.63
    torch.testing.assert_close(values["input"].double().flatten(), 1 - forget, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs", "gate"), [(URLSTM, nn.LSTM, "lstm"), (URGRU, nn.GRU, "gru")])
@pytest.mark.parametrize("forget_bias", [None, 1.0, -0.5])
def test_all_else_starts_as_in_torch(ours: Any, theirs: Any, gate: str, forget_bias: float | None) -> None:
    torch.manual_seed(3)
    expected = theirs(3, 5, 2, bidirectional=True).state_dict()
    torch.manual_seed(3)
    found = ours(3, 5, 2, bidirectional=True, gate=gate, forget_bias=forget_bias).state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        if forget_bias is not None and name.startswith("bias"):
            value[5:10] = forget_bias if name.startswith("bias_ih") else 0
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("gate", ["r-lstm", "o-lstm"])
def test_a_constant_forget_bias(gate: str) -> None:
    layer = URLSTM(3, 4, gate=gate, forget_bias=2.0)
    total = layer.bias_ih_l0 + layer.bias_hh_l0
    assert torch.equal(total[4:8], torch.full((4,), 2.0))
    assert not torch.equal(total[:4], torch.zeros(4))


def test_each_direction_of_each_layer_has_its_own_start() -> None:
    layer = URLSTM(3, 50, 2, bidirectional=True)
    starts = {tuple(getattr(layer, f"bias_ih{suffix}")[50:100].tolist()) for suffix in layer.suffixes}
    assert len(starts) == 4


@pytest.mark.parametrize("gate", ["u-lstm", "ur-lstm", "c-lstm", "lstm", "ur-gru"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fixed_start_is_not_trained(gate: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer = make_layer(gate, 2, 6, bias=bias, trainable_bias=False, t_max=9)
    before = layer.gate_bias_l0.clone()
    assert before.any()
    assert "gate_bias_l0" in layer.state_dict()
    assert [name for name, _ in layer.named_parameters() if "gate_bias" in name] == []
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    weight = layer.weight_ih_l0.clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(3, 2, 2))[0].sum().backward()
        optimizer.step()
    assert torch.equal(layer.gate_bias_l0, before)
    assert not torch.equal(layer.weight_ih_l0, weight)


@pytest.mark.parametrize("gate", ["u-lstm", "ur-lstm", "ur-gru"])
def test_trained_and_fixed_start_alike(gate: str) -> None:
    layers = []
    for trainable in (True, False):
        torch.manual_seed(5)
        layers.append(make_layer(gate, 2, 6, 2, trainable_bias=trainable))
    x = torch.randn(7, 3, 2)
    torch.testing.assert_close(layers[0](x)[0], layers[1](x)[0], rtol=0, atol=1e-6)


def test_without_bias_a_fixed_start_is_all_there_is() -> None:
    layer = URLSTM(2, 6, bias=False, trainable_bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight_ih_l0", "weight_hh_l0"]
    zero = layer.gate_activations(torch.zeros(1, 1, 2))
    torch.testing.assert_close(zero["output"], torch.full((1, 1, 1, 6), 0.5))
    torch.testing.assert_close(zero["forget"][0, 0, 0], torch.sigmoid(layer.gate_bias_l0[6:12]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate": "urlstm"}, r"gate must be one of lstm, c-lstm, .*, or-lstm, not 'urlstm'"),
        ({"gate": "gru"}, r"gate must be one of lstm, .*, not 'gru'"),
        ({"gate": "ur-lstm", "hidden_size": 1}, r"uniform gates need a hidden_size of at least 2"),
        ({"gate": "u-lstm", "hidden_size": 1}, r"uniform gates need a hidden_size of at least 2"),
        ({"gate": "c-lstm"}, r"chrono initialisation needs t_max, .* at least 3, not None"),
        ({"gate": "c-lstm", "t_max": 2}, r"chrono initialisation needs t_max, .* at least 3, not 2"),
        ({"gate": "u-lstm", "bias": False}, r"a gate that starts uniform needs a bias: .*trainable_bias=False"),
    ],
)
def test_mistakes_get_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    arguments = {"input_size": 3, "hidden_size": 4} | arguments
    with pytest.raises(UserError, match=message):
        URLSTM(**arguments)
    with pytest.raises(UserError, match=message) as raised:
        URLSTMCell(**arguments)
    assert "\n" not in str(raised.value)


def test_the_factory_knows_all_gates() -> None:
    assert type(make_layer("ur-gru", 2, 3)) is URGRU
    assert type(make_layer("or-lstm", 2, 3)) is URLSTM
    with pytest.raises(UserError, match=r"gate must be one of lstm, .*, gru, ur-gru, not 'ur'"):
        make_layer("ur", 2, 3)
