"""Outputs and states of the original's QRNN layers, in float64; the reference data tells how they were made."""

from collections.abc import Callable

import pytest
import torch
from awdlm import QRNN, QRNNLayer, QRNNState
from torch import Tensor

pytestmark = pytest.mark.shared

Numbers = dict[str, Tensor]
EXACT = {"rtol": 0.0, "atol": 1e-9}


def layers_of(numbers: Numbers, mode: str) -> list[QRNNLayer]:
    """The three layers, the first with window 2; in training with the weights that were dropped."""
    layers = []
    for number, (before, after) in enumerate([(6, 8), (8, 8), (8, 6)]):
        layer = QRNNLayer(before, after, window=1 if number else 2).double()
        raw = f"param.rnns.{number}.linear.module."
        weight = numbers[f"{raw}weight_raw" if mode == "eval" else f"train.dropped.{number}"]
        layer.linear.load_state_dict({"weight": weight, "bias": numbers[f"{raw}bias"]})
        layers.append(layer.train(mode == "train"))
    return layers


def embedded(numbers: Numbers, name: str) -> Tensor:
    return numbers["param.encoder.weight"][numbers[name]]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_and_states(mode: str, golden: Callable[[str], Numbers]) -> None:
    numbers = golden("awd_qrnn")
    x = embedded(numbers, "inp")
    for number, layer in enumerate(layers_of(numbers, mode)):
        x, (hidden, _) = layer(x)
        torch.testing.assert_close(x, numbers[f"{mode}.raw.{number}"], **EXACT)
        torch.testing.assert_close(hidden, numbers[f"{mode}.hn.{number}"][0], **EXACT)


def test_the_state_goes_on_into_the_next_window(golden: Callable[[str], Numbers]) -> None:
    """The original keeps the first layer's last input in the layer, we keep it in the state."""
    numbers = golden("awd_qrnn")
    x, following = embedded(numbers, "inp"), embedded(numbers, "inp2")
    for layer in layers_of(numbers, "eval"):
        x, state = layer(x)
        following, _ = layer(following, state)
    torch.testing.assert_close(following.flatten(0, 1), numbers["eval.result2"], **EXACT)


def test_a_stack_gives_the_same(golden: Callable[[str], Numbers]) -> None:
    """The second layer alone, as a `QRNN` that starts from the numbers of the first."""
    numbers = golden("awd_qrnn")
    rnn = QRNN(8, 8).double()
    rnn.load_state_dict({f"layers.0.{key}": value for key, value in layers_of(numbers, "eval")[1].state_dict().items()})
    output, state = rnn(numbers["eval.raw.0"])
    assert isinstance(state, QRNNState)
    torch.testing.assert_close(output, numbers["eval.raw.1"], **EXACT)
    torch.testing.assert_close(state.hidden, numbers["eval.hn.1"], **EXACT)
