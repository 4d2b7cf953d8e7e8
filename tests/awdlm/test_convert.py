"""State dicts of the authors' code: names to ours and back, leftovers of weight drop, and mistakes."""

from collections.abc import Callable, Iterable
from typing import Literal

import pytest
import torch
from awdlm.convert import from_original, to_original
from awdlm.model import AWDModel
from rnncore.errors import UserError
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]
State = dict[str, Tensor]

RECURRENT = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
OUTSIDE = ("encoder.weight", "decoder.weight", "decoder.bias")
#: The names that the authors' code gives to the parameters of a layer, by kind and weight drop.
LAYER = {
    ("LSTM", True): [*(f"module.{name}" for name in RECURRENT), "module.weight_hh_l0_raw"],
    ("LSTM", False): [*RECURRENT, "weight_hh_l0"],
    ("QRNN", True): ["linear.module.bias", "linear.module.weight_raw"],
    ("QRNN", False): ["linear.bias", "linear.weight"],
}


def tensors(names: Iterable[str]) -> State:
    """A tensor that is known again for each name."""
    return {name: torch.tensor([float(number)]) for number, name in enumerate(names)}


def original(kind: str = "LSTM", weight_drop: bool = True, layers: int = 2) -> State:
    inside = LAYER[kind, weight_drop]
    return tensors([*OUTSIDE, *(f"rnns.{layer}.{name}" for layer in range(layers) for name in inside)])


def assert_same(got: State, expected: State) -> None:
    """Names and tensors: the same objects, nothing copied."""
    assert got.keys() == expected.keys()
    assert all(got[name] is expected[name] for name in expected)


@pytest.mark.shared
@pytest.mark.parametrize(("file", "weight_drop"), [("awd_lstm", True), ("awd_qrnn", True), ("pointer", False)])
def test_recorded_models_there_and_back(file: str, weight_drop: bool, golden: Golden) -> None:
    """The recorded parameters have a tied weight once."""
    parameters = {name[6:]: tensor for name, tensor in golden(file).items() if name.startswith("param.")}
    back = to_original(from_original(parameters), weight_drop=weight_drop)
    assert_same(back, {**parameters, "decoder.weight": parameters["encoder.weight"]})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("splits", [(), (3, 7)])
def test_our_models_there_and_back(kind: Literal["LSTM", "GRU", "QRNN"], tied: bool, splits: tuple[int, ...]) -> None:
    model = AWDModel(kind, 11, embedding_size=4, hidden_size=5, num_layers=12, tied=tied, splits=splits)
    state = dict(model.state_dict())
    for weight_drop in (True, False):
        theirs = to_original(state, weight_drop=weight_drop)
        back = from_original(theirs)
        assert list(back) == list(state)
        assert_same(back, state)
        names = LAYER["QRNN" if kind == "QRNN" else "LSTM", weight_drop]
        assert {name[len("rnns.11.") :] for name in theirs if name.startswith("rnns.11.")} == set(names)
        assert {name for name in theirs if not name.startswith("rnns.")} == {
            *OUTSIDE,
            *(f"criterion.{name}" for name in ("tail_vectors", "tail_bias") if splits),
        }


@pytest.mark.parametrize(("kind", "weight_drop"), LAYER)
def test_each_tensor_arrives_at_its_name(kind: str, weight_drop: bool) -> None:
    theirs = original(kind, weight_drop)
    ours = from_original(theirs)
    assert ours["embedding.weight"] is theirs["encoder.weight"]
    assert ours["decoder.weight"] is theirs["decoder.weight"]
    assert ours["decoder.bias"] is theirs["decoder.bias"]
    for layer in range(2):
        for name in LAYER[kind, weight_drop]:
            proper = name.replace("module.", "").removesuffix("_raw")
            assert ours[f"layers.{layer}.module.{proper}"] is theirs[f"rnns.{layer}.{name}"]
    assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("kind", "copy", "proper"),
    [("LSTM", "module.weight_hh_l0", "weight_hh_l0"), ("QRNN", "linear.module.weight", "linear.weight")],
)
def test_a_dropped_copy_is_ignored(kind: str, copy: str, proper: str) -> None:
    """Weight drop leaves its last result in the model, beside the whole weight and sometimes before it."""
    theirs = original(kind)
    expected = from_original(theirs)
    dropped = {f"rnns.{layer}.{copy}": torch.tensor([-1.0]) for layer in range(2)}
    assert_same(from_original({**dropped, **theirs}), expected)
    assert_same(from_original({**theirs, **dropped}), expected)
    assert expected[f"layers.0.module.{proper}"] is theirs[f"rnns.0.{copy}_raw"]

    whole = theirs.pop(f"rnns.0.{copy}_raw")
    assert whole >= 0
    with pytest.raises(UserError, match=rf"lacks rnns\.0\.{copy}_raw$"):
        from_original({**theirs, **dropped})


def test_one_stored_weight_serves_a_tied_model() -> None:
    theirs = original()
    del theirs["decoder.weight"]
    ours = from_original(theirs)
    assert ours["decoder.weight"] is ours["embedding.weight"] is theirs["encoder.weight"]
    del ours["decoder.weight"]
    assert_same(to_original(ours), {**theirs, "decoder.weight": theirs["encoder.weight"]})


def with_more(state: State, *names: str) -> State:
    return {**state, **tensors(names)}


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


MISTAKES = {
    "has names that are not the authors': rnn.weight_ih_l0": with_more(original(), "rnn.weight_ih_l0"),
    "not the authors': a, b, c and 2 more": with_more(original(), "a", "b", "c", "d", "e"),
    "not the authors': rnns.0.module.weight_hh_l1_raw": with_more(original(), "rnns.0.module.weight_hh_l1_raw"),
    "not the authors': embedding.weight, layers.0.module.weight_ih_l0": from_original(original()),
    "lacks encoder.weight": without(original(), "encoder.weight"),
    "lacks decoder.bias": without(original(), "decoder.bias"),
    "lacks rnns.1.module.weight_hh_l0_raw": without(original(), "rnns.1.module.weight_hh_l0_raw"),
    "lacks rnns.1.bias_hh_l0": without(original(weight_drop=False), "rnns.1.bias_hh_l0"),
    "lacks rnns.0.linear.module.bias": without(original("QRNN"), "rnns.0.linear.module.bias"),
    "lacks rnns.0.linear.weight": without(original("QRNN", weight_drop=False), "rnns.0.linear.weight"),
    "lacks rnns.1.module.weight_ih_l0, rnns.1.module.weight_hh_l0_raw": with_more(
        original(layers=1), *(f"rnns.2.{name}" for name in LAYER["LSTM", True])
    ),
    "lacks rnns.0.weight_ih_l0": tensors(OUTSIDE),
    "lacks criterion.tail_bias": with_more(original(), "criterion.tail_vectors"),
    "with and without weight drop: rnns.0.module.bias_ih_l0, rnns.0.bias_ih_l0": with_more(
        original(), "rnns.0.bias_ih_l0"
    ),
    "different kinds: rnns.1.module.bias_hh_l0": with_more(original("QRNN"), "rnns.1.bias_hh_l0"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_in_the_authors_names(message: str) -> None:
    with pytest.raises(UserError) as raised:
        from_original(MISTAKES[message])
    assert message in raised.value.message
    assert raised.value.message.startswith("the state dict ")
    assert "\n" not in raised.value.message


def test_mistakes_in_our_names() -> None:
    ours = from_original(original())
    with pytest.raises(UserError, match=r"not AWDModel's: encoder\.weight, rnns\.0\.module\.weight_ih_l0, "):
        to_original(original())
    with pytest.raises(UserError, match=r"lacks layers\.1\.module\.weight_hh_l0$"):
        to_original(without(ours, "layers.1.module.weight_hh_l0"))
    with pytest.raises(UserError, match=r"not AWDModel's: layers\.0\.module\.weight_hh_l0_raw$"):
        to_original(with_more(ours, "layers.0.module.weight_hh_l0_raw"))
