"""The whole model against the original code: outputs, losses with and without splits, penalties, gradients."""

from collections.abc import Callable

import pytest
import torch
from awdlm import model as model_module
from awdlm.convert import from_original
from awdlm.model import AWDModel
from rnncore import dropout
from rnncore.penalties import activation_penalty, temporal_penalty
from rnncore.windows import detach
from torch import Tensor

Golden = Callable[[str], dict[str, Tensor]]

FILES = {"LSTM": "awd_lstm", "QRNN": "awd_qrnn"}
SPLITS = {"nosplit": (), "split": (5, 12)}
EXACT = {"rtol": 0.0, "atol": 1e-9}


def part(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


def build(kind: str, golden: dict[str, Tensor], splits: str) -> AWDModel:
    """The golden's model: 20 words, layers of 8, 8 and 6 units, weight drop alone."""
    rates = dict.fromkeys(("dropout", "dropout_hidden", "dropout_input", "dropout_words"), 0.0)
    model = AWDModel(
        kind, 20, embedding_size=6, hidden_size=8, num_layers=3, **rates, weight_drop=0.5, splits=SPLITS[splits]
    ).double()
    state = from_original({**part(golden, "param."), "decoder.weight": golden["param.encoder.weight"]})
    if SPLITS[splits]:
        state |= {f"criterion.{name}": golden[name] for name in ("tail_vectors", "tail_bias")}
    model.load_state_dict(state)
    return model


@pytest.mark.shared
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("kind", FILES)
def test_losses_penalties_and_gradients(
    kind: str, splits: str, mode: str, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = golden(FILES[kind])
    model = build(kind, known, splits).train(mode == "train")
    dropped = (known[f"train.dropped.{layer}"] for layer in range(3))
    # Masks that give the golden's dropped weights, which are the raw weights, doubled, or 0.
    monkeypatch.setattr(dropout, "dropped_weight", lambda weight, p: weight * (next(dropped) / weight).detach())
    outputs = model(known["inp"], model.initial_state(3))
    loss = model.loss(outputs.dropped[-1], known["tgt"].view(7, 3))
    ar, tar = activation_penalty(outputs.dropped[-1], 2.0), temporal_penalty(outputs.raw[-1], 1.0)
    (loss + ar + tar).backward()
    for layer in range(3):
        torch.testing.assert_close(outputs.raw[layer], known[f"{mode}.raw.{layer}"], **EXACT)
        torch.testing.assert_close(outputs.dropped[layer], known[f"{mode}.output.{layer}"], **EXACT)
    torch.testing.assert_close(ar, known[f"{mode}.ar"], **EXACT)
    torch.testing.assert_close(tar, known[f"{mode}.tar"], **EXACT)
    torch.testing.assert_close(loss, known[f"{mode}.{splits}.f64.loss"], **EXACT)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = from_original(
        {
            **part(known, f"{mode}.{splits}.grad."),
            "decoder.weight": known[f"{mode}.{splits}.grad.encoder.weight"],
            **{f"criterion.{k}": v for k, v in part(known, f"{mode}.{splits}.grad_crit.").items()},
        }
    )
    expected.pop("decoder.weight")  # the embedding's own
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.shared
@pytest.mark.parametrize("kind", FILES)
def test_the_state_is_carried_into_the_next_window(kind: str, golden: Golden) -> None:
    known = golden(FILES[kind])
    model = build(kind, known, "nosplit").eval()
    first = model(known["inp"], model.initial_state(3))
    second = model(known["inp2"], detach(first.state))
    torch.testing.assert_close(second.dropped[-1].flatten(0, 1), known["eval.result2"], **EXACT)
    for layer, state in enumerate(first.state):
        hidden = state if isinstance(state, Tensor) else state[0]
        torch.testing.assert_close(hidden.view(1, 3, -1), known[f"eval.hn.{layer}"], **EXACT)


@pytest.mark.shared
@pytest.mark.parametrize("kind", FILES)
def test_log_probabilities_of_a_split_vocabulary(kind: str, golden: Golden) -> None:
    known = golden(FILES[kind])
    model = build(kind, known, "split").eval()
    found, _ = model.log_probabilities(known["inp"], model.initial_state(3))
    torch.testing.assert_close(found.flatten(0, 1), known["split.logprob"], **EXACT)
    assert model_module.splits_for(20) == ()
