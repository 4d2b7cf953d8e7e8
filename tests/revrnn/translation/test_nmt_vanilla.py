"""The plain encoder and decoder layers against recorded numbers and torch's layers."""

from collections.abc import Callable

import pytest
import torch
from revrnn.translation.vanilla import TorchStack, VanillaStack, fast_lstm, gru, lstm
from torch import Tensor, nn
from torch.nn import functional as F

Golden = Callable[[str], dict[str, Tensor]]


def active(numbers: dict[str, Tensor]) -> Tensor:
    return torch.arange(len(numbers["x"]))[:, None] < numbers["lengths"]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.shared
def test_gru_is_the_recorded_one(golden: Golden) -> None:
    numbers = golden("nmt_cells")
    ih, hh, bias = (
        torch.cat([numbers[f"mygru.param.W{side}{gate}.{kind}"] for gate in "zrh"])
        for side, kind in (("i", "weight"), ("h", "weight"), ("i", "bias"))
    )
    bias = bias + torch.cat([numbers[f"mygru.param.Wh{gate}.bias"] for gate in "zrh"])
    x, start = F.linear(numbers["x"], ih, bias), (numbers["h0"][0],)
    outputs, (last,) = gru(x, start, hh, active(numbers))
    close(outputs, numbers["mygru.out"])
    close(last, numbers["mygru.hn0"][0])
    close(gru(x, start, hh, None)[0], numbers["mygru.out_nolen"])


@pytest.mark.shared
def test_lstm_is_the_recorded_one_but_for_the_old_cell(golden: Golden) -> None:
    numbers = golden("nmt_cells")
    weights = [numbers[f"mylstm.param.{name}"] for name in ("i2h.weight", "i2h.bias", "h2h.weight", "h2h.bias")]
    order = [1, 0, 3, 2]  # f i o g, as recorded, to i f g o
    ih, bias_ih, hh, bias_hh = (torch.cat([w.chunk(4)[gate] for gate in order]) for w in weights)
    x, start = F.linear(numbers["x"], ih, bias_ih + bias_hh), (numbers["h0"][0], numbers["c0"][0])
    outputs, last = lstm(x, start, hh, active(numbers), old_cell=True)
    close(outputs, numbers["mylstm.out"])
    close(last[0], numbers["mylstm.hn0"][0])
    close(last[1], numbers["mylstm.hn1"][0])
    close(lstm(x, start, hh, None, old_cell=True)[0], numbers["mylstm.out_nolen"])
    real = nn.LSTM(5, 7).double()
    values = {"weight_ih_l0": ih, "weight_hh_l0": hh, "bias_ih_l0": bias_ih, "bias_hh_l0": bias_hh}
    real.load_state_dict(values)
    expected = real(numbers["x"], (numbers["h0"], numbers["c0"]))[0].detach()
    close(lstm(x, start, hh, None)[0], expected)
    assert not torch.allclose(expected, numbers["mylstm.out_nolen"])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("stack", [VanillaStack, TorchStack])
def test_padding_changes_nothing(stack: type[VanillaStack], kind: str) -> None:
    """Each sentence of a batch alone gives the same outputs and last state; masks are used."""
    torch.manual_seed(2)
    layers = stack(kind, 4, 6, 2).double()  # type: ignore[arg-type]
    x, lengths = torch.randn(5, 3, 4).double(), torch.tensor([2, 5, 1])
    between, weights = [torch.rand(1, 3, 6).double()], [torch.rand_like(w) for w in layers.recurrent_weights()]
    outputs, state, *_ = layers(x, None, lengths, between, weights)
    for b, length in enumerate(lengths.tolist()):
        mask = [between[0][:, b : b + 1]]
        alone, last, *_ = layers(x[:length, b : b + 1], None, None, mask, weights)
        close(outputs[:length, b : b + 1], alone)
        for part, expected in zip(state, last, strict=True):
            close(part[:, b : b + 1], expected)
    unmasked = layers(x, None, lengths, [None], [None, None]).outputs
    assert not torch.allclose(outputs[0], unmasked[0])
    halves = layers(x[:3], None, None, between, weights)
    close(
        layers(x[3:], halves.state, None, between, weights).outputs, layers(x, None, None, between, weights).outputs[3:]
    )


def test_vanilla_lstm_has_torchs_numbers() -> None:
    torch.manual_seed(3)
    ours, theirs = VanillaStack("lstm", 4, 6, 2).double(), nn.LSTM(4, 6, 2).double()
    with torch.no_grad():
        for k in range(2):
            getattr(theirs, f"weight_ih_l{k}").copy_(getattr(ours, f"weight_ih_l{k}"))
            getattr(theirs, f"weight_hh_l{k}").copy_(getattr(ours, f"weight_hh_l{k}"))
            getattr(theirs, f"bias_ih_l{k}").copy_(getattr(ours, f"bias_l{k}"))
            getattr(theirs, f"bias_hh_l{k}").zero_()
    x = torch.randn(5, 3, 4).double()
    outputs, state, *_ = ours(x, None, None, [None], [None, None])
    expected, last = theirs(x)
    close(outputs, expected)
    close(torch.stack(state), torch.stack(last))


@pytest.mark.parametrize("lengths", [None, [5, 2, 1]])
def test_fast_lstm_is_the_plain_one(lengths: list[int] | None) -> None:
    """Outputs, states and all gradients, with sequences that end before others."""
    generator = torch.Generator().manual_seed(4)
    shapes = [(5, 3, 4), (3, 6), (3, 6), (24, 4), (24, 6), (24,)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    x, h, c, weight_ih, weight_hh, bias = tensors
    active = None if lengths is None else torch.arange(5)[:, None] < torch.tensor(lengths)
    results = []
    for outputs, (last_h, last_c) in (
        fast_lstm(x, (h, c), weight_ih, weight_hh, bias, active),
        lstm(F.linear(x, weight_ih, bias), (h, c), weight_hh, active),
    ):
        total = (outputs * torch.linspace(1, 2, 6)).sum() + (last_h * last_c).sin().sum()
        results.append([outputs, last_h, last_c, *torch.autograd.grad(total, tensors)])
    for found, expected in zip(*results, strict=True):
        close(found, expected)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_mixed_precision(kind: str) -> None:
    """Under autocast the numbers are those of float32, roughly, and gradients arrive."""
    torch.manual_seed(5)
    layers = VanillaStack(kind, 4, 6, 1)  # type: ignore[arg-type]
    x, lengths = torch.randn(5, 3, 4), torch.tensor([5, 2, 1])
    expected = layers(x, None, lengths, [None], [None]).outputs
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layers(x, None, lengths, [None], [None]).outputs
    torch.testing.assert_close(outputs.float(), expected, rtol=0, atol=0.02)
    outputs.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layers.parameters())
