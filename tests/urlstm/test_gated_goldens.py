"""The recurrences against numbers of the original codes: a public UR-LSTM, and ON-LSTM."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from urlstm import URLSTM
from urlstm.convert import from_separate_bias

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("operators")]
tight = {"rtol": 1e-9, "atol": 1e-9}


def part(numbers: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def test_ur_lstm(golden: Callable[[str], dict[str, Tensor]]) -> None:
    """The original has blocks f, r, u, o, and a bias b_f of its own that f gets and r loses: its gradient is the
    difference of those of the two parts of our ``bias_ih``."""
    numbers = golden("urlstm")
    layer = URLSTM(5, 7, 2).double()
    layer.load_state_dict(from_separate_bias(part(numbers, "param.")))
    x, h0, c0 = (numbers[name].clone().requires_grad_() for name in ("x", "h0", "c0"))
    out, (hn, cn) = layer(x, (h0, c0))
    for name, value in (("out", out), ("hn", hn), ("cn", cn)):
        torch.testing.assert_close(value, numbers[name], **tight)
    loss = (out * numbers["R"]).sum() + (hn**2).sum() + torch.sin(cn).sum()
    torch.testing.assert_close(loss, numbers["loss"], **tight)
    loss.backward()
    for name, tensor in (("x", x), ("h0", h0), ("c0", c0)):
        torch.testing.assert_close(tensor.grad, numbers[f"grad_{name}"], **tight)
    grads = part(numbers, "grad.")
    for k in range(2):
        refine, forget, *_ = layer.get_parameter(f"bias_ih_l{k}").grad.chunk(4)
        torch.testing.assert_close(forget - refine, grads[f"layers.{k}.forget_bias"], **tight)
        for ours, theirs in (("ih", "igates"), ("hh", "hgates")):
            for kind in ("weight", "bias"):
                r, f, u, o = layer.get_parameter(f"{kind}_{ours}_l{k}").grad.chunk(4)
                torch.testing.assert_close(torch.cat([f, r, u, o]), grads[f"layers.{k}.{theirs}.{kind}"], **tight)


def from_on_lstm(weight: Tensor, low: float, chunk: int) -> Tensor:
    """Our rows (i, f, u, o, master input, master forget) from those of ON-LSTM (master input and forget, one row a
    chunk of units; then o, u, i, f).

    A chunk's master gates are those of single units, where all but the chunk's first have no share of the softmax: zero
    weights and the bias ``low``.
    """
    count = weight.shape[0] // (4 * chunk + 2)
    masters, (o, u, i, f) = weight[: 2 * count], weight[2 * count :].chunk(4)
    spread = weight.new_full((2 * count, chunk, *weight.shape[1:]), low)
    spread[:, 0] = masters
    a, b = spread.flatten(0, 1).chunk(2)
    return torch.cat([i, f, u, o, a, b])


def test_ordered_neurons(golden: Callable[[str], dict[str, Tensor]]) -> None:
    numbers = golden("onlstm")
    layer = URLSTM(6, 8, 2, gate="o-lstm").double()
    with torch.no_grad():
        for k in range(2):
            for ours, theirs in (("ih", "ih.0"), ("hh", "hh")):
                for kind in ("weight", "bias"):
                    low = -500.0 if kind == "bias" else 0.0
                    value = from_on_lstm(numbers[f"param.cells.{k}.{theirs}.{kind}"], low, 4)
                    layer.get_parameter(f"{kind}_{ours}_l{k}").copy_(value)
    x = numbers["x"].clone().requires_grad_()
    h0 = torch.stack([numbers["h0.0"], numbers["h0.1"]])
    c0 = torch.stack([numbers["c0.0"].flatten(1), numbers["c0.1"].flatten(1)])
    out, (hn, cn) = layer(x, (h0, c0))
    torch.testing.assert_close(out, numbers["eval.out"], **tight)
    for k in range(2):
        torch.testing.assert_close(hn[k], numbers[f"eval.hn.{k}"], **tight)
        torch.testing.assert_close(cn[k], numbers[f"eval.cn.{k}"].flatten(1), **tight)
    loss = (out * numbers["R"]).sum() + torch.sin(hn).sum() + torch.cos(cn).sum()
    torch.testing.assert_close(loss, numbers["eval.loss"], **tight)
    loss.backward()
    for k in range(2):
        for ours, theirs in (("ih", "ih.0"), ("hh", "hh")):
            for kind in ("weight", "bias"):
                expected = from_on_lstm(numbers[f"eval.grad.cells.{k}.{theirs}.{kind}"], 0.0, 4)
                grad = layer.get_parameter(f"{kind}_{ours}_l{k}").grad
                torch.testing.assert_close(grad, expected, **tight)
