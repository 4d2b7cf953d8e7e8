"""What the layers refuse, in the words of torch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from urlstm import URGRU, URLSTM

I, H = 3, 4
PAIRS = [(URLSTM, nn.LSTM, "lstm"), (URLSTM, nn.LSTM, "ur-lstm"), (URGRU, nn.GRU, "gru"), (URGRU, nn.GRU, "ur-gru")]
each_pair = pytest.mark.parametrize(("ours", "theirs", "gate"), PAIRS)


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """The kind of error and its message, where our layers' names are torch's."""
    with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
        call()
    kind = "ValueError" if isinstance(raised.value, ValueError) else type(raised.value).__name__
    return kind, str(raised.value).replace("URLSTM", "LSTM").replace("URGRU", "GRU")


@each_pair
@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_size": 0},
        {"input_size": 0},
        {"num_layers": 0},
        {"hidden_size": 2.0},
        {"input_size": "3"},
        {"bias": 1},
        {"batch_first": 0},
        {"num_layers": 2, "dropout": 2.0},
        {"num_layers": 2, "dropout": True},
    ],
)
def test_arguments(ours: Any, theirs: Any, gate: str, arguments: dict[str, Any]) -> None:
    arguments = {"input_size": I, "hidden_size": H} | arguments
    assert refusal(lambda: ours(**arguments, gate=gate)) == refusal(lambda: theirs(**arguments))


@each_pair
@pytest.mark.parametrize("shape", [(2, 2, 2, I), (I,), (5, 2, I + 1), (0, 2, I), (0, I)])
def test_inputs(ours: Any, theirs: Any, gate: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    assert refusal(lambda: ours(I, H, gate=gate)(x)) == refusal(lambda: theirs(I, H)(x))


@each_pair
def test_another_type(ours: Any, theirs: Any, gate: str) -> None:
    x = torch.zeros(5, 2, I, dtype=torch.float64)
    kind, message = refusal(lambda: ours(I, H, gate=gate)(x))
    assert (kind, message) == refusal(lambda: theirs(I, H)(x))
    assert "does not match weight dtype" in message


@each_pair
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, H), (1, 2, H + 1), (3, 2, H), (2, H), (2,)])
def test_states(ours: Any, theirs: Any, gate: str, shape: tuple[int, ...], bidirectional: bool) -> None:
    x, state = torch.zeros(5, 2, I), torch.zeros(shape)
    hx: Any = (state, state) if ours is URLSTM else state
    layers = ours(I, H, bidirectional=bidirectional, gate=gate), theirs(I, H, bidirectional=bidirectional)
    assert refusal(lambda: layers[0](x, hx)) == refusal(lambda: layers[1](x, hx))


@each_pair
@pytest.mark.parametrize("shape", [(1, 1, H), (1, H + 1), (2, H)])
def test_states_of_one_sequence(ours: Any, theirs: Any, gate: str, shape: tuple[int, ...]) -> None:
    x, state = torch.zeros(5, I), torch.zeros(shape)
    hx: Any = (state, state) if ours is URLSTM else state
    assert refusal(lambda: ours(I, H, gate=gate)(x, hx)) == refusal(lambda: theirs(I, H)(x, hx))


@pytest.mark.parametrize("gate", ["lstm", "ur-lstm"])
def test_a_misshapen_cell(gate: str) -> None:
    x, h, c = torch.zeros(5, 2, I), torch.zeros(1, 2, H), torch.zeros(1, 2, H + 1)
    kind, message = refusal(lambda: URLSTM(I, H, gate=gate)(x, (h, c)))
    assert (kind, message) == refusal(lambda: nn.LSTM(I, H)(x, (h, c)))
    assert "hidden[1]" in message


@each_pair
@pytest.mark.parametrize("shape", [(1, 3, H), (2, H)])
def test_states_of_packed_sequences(ours: Any, theirs: Any, gate: str, shape: tuple[int, ...]) -> None:
    packed, state = pack_padded_sequence(torch.zeros(5, 2, I), [5, 2]), torch.zeros(shape)
    kind, message = refusal(lambda: ours(I, H, gate=gate)(packed, (state, state) if ours is URLSTM else state))
    name = "hidden[0]" if ours is URLSTM else "hidden"
    assert (kind, message) == ("RuntimeError", f"Expected {name} size (1, 2, {H}), got {list(shape)}")


@each_pair
def test_packed_sequences_of_another_width(ours: Any, theirs: Any, gate: str) -> None:
    packed = pack_padded_sequence(torch.zeros(5, 2, I + 1), [5, 2])
    expected = f"input.size(-1) must be equal to input_size. Expected {I}, got {I + 1}"
    assert refusal(lambda: ours(I, H, gate=gate)(packed)) == ("RuntimeError", expected)


def test_unsorted_lengths_are_refused_where_they_are_packed() -> None:
    with pytest.raises(RuntimeError, match="must be sorted in decreasing order"):
        pack_padded_sequence(torch.zeros(5, 2, I), [2, 5])


def test_activations_of_packed_sequences() -> None:
    packed = pack_padded_sequence(torch.zeros(5, 2, I), [5, 2])
    with pytest.raises(UserError, match="takes a tensor of sequences of one length"):
        URLSTM(I, H).gate_activations(packed)  # type: ignore[arg-type]


def test_projections_are_not_offered() -> None:
    with pytest.raises(TypeError, match="proj_size"):
        URLSTM(I, H, proj_size=2)  # type: ignore[call-arg]
