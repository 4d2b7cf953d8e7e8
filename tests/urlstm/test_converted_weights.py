"""Weights from and to torch's own layers, and from a public UR-LSTM."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from torch import Tensor, nn
from urlstm import URGRU, URLSTM, make_layer
from urlstm.convert import from_separate_bias, from_torch, to_torch

T, B, I, H = 6, 3, 4, 5


@pytest.mark.parametrize(
    ("layer", "gate"),
    [(nn.LSTM, None), (nn.LSTM, "u-lstm"), (nn.LSTM, "c-lstm"), (nn.GRU, None)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_there_and_back(layer: Any, gate: str | None, bias: bool, numbers: Callable[..., Tensor]) -> None:
    if gate is not None and not bias:
        pytest.skip("these gates need a bias")
    torch.manual_seed(0)
    given = layer(I, H, 2, bias, True, 0.3, True, dtype=torch.float64).eval()
    ours = from_torch(given, gate)
    assert ours.gate == (gate or ("lstm" if layer is nn.LSTM else "gru"))
    x = numbers(B, T, I)
    torch.testing.assert_close(ours(x)[0], given(x)[0], rtol=1e-12, atol=1e-12)
    again = to_torch(ours)
    assert (again.dropout, again.batch_first, again.training) == (0.3, True, False)
    assert torch.equal(again(x)[0], given(x)[0])
    with torch.no_grad():
        given.weight_hh_l0.zero_()
    assert again.weight_hh_l0.any()
    assert ours.weight_hh_l0.any()


@pytest.mark.parametrize("gate", ["lstm", "u-lstm", "c-lstm", "gru"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fixed_bias_goes_along(gate: str, bias: bool, numbers: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    ours = make_layer(gate, I, H, 2, bias, bidirectional=True, trainable_bias=False, t_max=20).double()
    x = numbers(T, B, I)
    torch.testing.assert_close(to_torch(ours)(x)[0], ours(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["ur-lstm", "r-lstm", "o-lstm", "or-lstm", "ur-gru"])
def test_other_equations_cannot_be_converted(gate: str) -> None:
    ours = make_layer(gate, I, H)
    with pytest.raises(UserError, match=f"{gate} has other equations than torch's layer"):
        to_torch(ours)
    with pytest.raises(UserError, match=f"{gate} has other equations than torch's layer"):
        from_torch(nn.GRU(I, H) if isinstance(ours, URGRU) else nn.LSTM(I, H), gate)


def test_projections_cannot_be_converted() -> None:
    with pytest.raises(UserError, match="proj_size"):
        from_torch(nn.LSTM(I, H, proj_size=2))


def public_state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"forget_bias": (H,), "igates.weight": (4 * H, I), "igates.bias": (4 * H,)}
    shapes |= {"hgates.weight": (4 * H, H), "hgates.bias": (4 * H,)}
    return {f"rnn.layers.0.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_a_public_ur_lstm(numbers: Callable[..., Tensor]) -> None:
    """One step, by the original's own order of blocks."""
    state = public_state()
    layer = URLSTM(I, H)
    layer.load_state_dict(from_separate_bias(state | {"decoder.weight": torch.zeros(2, H)}))
    x, h, c = (numbers(B, n, seed=n, dtype=torch.float32) for n in (I, H, H))
    p = {key.removeprefix("rnn.layers.0."): value for key, value in state.items()}
    gates = x @ p["igates.weight"].T + p["igates.bias"] + h @ p["hgates.weight"].T + p["hgates.bias"]
    f, r, u, o = gates.chunk(4, dim=1)
    f, r = torch.sigmoid(f + p["forget_bias"]), torch.sigmoid(r - p["forget_bias"])
    g = 2 * r * f + (1 - 2 * r) * f**2
    c_new = g * c + (1 - g) * torch.tanh(u)
    out, (_, last) = layer(x[None], (h[None], c[None]))
    torch.testing.assert_close(last[0], c_new)
    torch.testing.assert_close(out[0], torch.sigmoid(o) * torch.tanh(c_new))


@pytest.mark.parametrize(
    "change",
    [
        {"rnn.layers.0.forget_bias": None},
        {"rnn.layers.1.forget_bias": torch.zeros(H)},
        {"rnn.layers.0.x": torch.zeros(1)},
    ],
)
def test_another_models_state_is_refused(change: dict[str, Tensor | None]) -> None:
    state = {key: value for key, value in (public_state() | change).items() if value is not None}
    with pytest.raises(UserError, match=r"not the state of a UR-LSTM: each layers\.N must hold exactly forget_bias"):
        from_separate_bias(state)
    with pytest.raises(UserError, match="not the state of a UR-LSTM"):
        from_separate_bias({})
