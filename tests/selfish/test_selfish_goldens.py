"""The four models against the original code: outputs, losses, gradients, distances, in float64."""

from collections.abc import Callable

import pytest
import torch
from rnncore.windows import detach
from selfish import onlstm
from selfish.convert import Model, from_original
from selfish.mos_model import MoSModel
from selfish.onlstm import ONLSTMLayer
from selfish.rhn_model import RHNModel
from selfish.stacked_lstm import StackedLSTM
from torch import Tensor

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("backend")]

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 0.0, "atol": 1e-9}


def part(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


def same_gradients(model: Model, theirs: dict[str, Tensor]) -> None:
    expected = from_original(model, theirs)
    if model.decoder.weight is model.encoder.weight:
        expected.pop("decoder.weight")
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("tied", [False, True])
def test_stacked_lstm(tied: bool, golden: Golden) -> None:
    known = golden("stacked_lstm")
    own = part(known, f"tied{int(tied)}.")
    model = StackedLSTM(12, embedding_size=8, hidden_size=8, dropout=0.5, tied=tied).double().eval()
    model.load_state_dict(from_original(model, part(own, "param.")))
    state = [(known["h0"][k : k + 1], known["c0"][k : k + 1]) for k in range(2)]
    outputs = model(known["inp"], state)
    loss = model.loss(outputs.dropped[-1], known["tgt"].view(6, 3))
    loss.backward()
    torch.testing.assert_close(loss, own["loss"], **EXACT)
    for place, name in enumerate(("hn", "cn")):
        found = torch.cat([layer[place] for layer in detach(outputs.state)])
        torch.testing.assert_close(found, own[name], **EXACT)
    found, _ = model.log_probabilities(known["inp"], state)
    torch.testing.assert_close(found, own["logits"].log_softmax(2), **EXACT)
    same_gradients(model, part(own, "grad."))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("couple", [False, True])
def test_rhn(couple: bool, layers: int, golden: Golden) -> None:
    """The original starts its second layer from the first one's last state; ours does when it is told to.

    Its last word has no gradient as an input, because its embedding takes -1 for padding: ours has.
    """
    known = golden("rhn")
    own = part(known, f"couple{int(couple)}.layers{layers}.")
    model = RHNModel(12, embedding_size=8, hidden_size=8, num_layers=layers, depth=3, couple=couple, tied=True)
    model.double().eval().load_state_dict(from_original(model, part(own, "param.")))
    state = known["h0"].requires_grad_()
    embedded = model.encoder(known["inp"])
    embedded.retain_grad()
    x, last = embedded, state[None]
    for layer in model.layers:
        x, last = layer(x, last)
    if layers == 1:
        outputs = model(known["inp"], [state[None]])
        assert torch.equal(outputs.dropped[-1], x)
        assert torch.equal(outputs.state[0], last)
    loss = model.loss(x, known["tgt"].view(6, 3))
    loss.backward()
    torch.testing.assert_close(loss, own["loss"], **EXACT)
    torch.testing.assert_close(last[0], own["hidden"], **EXACT)
    torch.testing.assert_close(model.decoder.log_probabilities(x), own["logits"].log_softmax(2), **EXACT)
    torch.testing.assert_close(state.grad, own["grad_h0"], **EXACT)
    own["grad.embedding.weight"][11] += embedded.grad[known["inp"] == 11].sum(0)
    same_gradients(model, part(own, "grad."))


@pytest.mark.parametrize("mode", ["eval", "evaldc", "traindc"])
def test_onlstm(mode: str, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    known = golden("onlstm")
    own, layers = part(known, f"{mode}."), []
    masks = iter([known["traindc.hh_mask.0"], known["traindc.hh_mask.1"]])

    def drop(weight: Tensor, p: float, *, rescale: bool) -> Tensor:
        assert (p, rescale) == (0.45, False)
        return weight * next(masks)

    monkeypatch.setattr(onlstm, "dropped_weight", drop)
    for number, size in enumerate((6, 8)):
        layer = ONLSTMLayer(size, 8, 4, drop_connect=0.0 if mode == "eval" else 0.45).double()
        ours = {"ih.0": "ih", "hh": "hh"}
        weights = {
            f"{kind}_{name}_l0": known[f"param.cells.{number}.{theirs}.{kind}"]
            for theirs, name in ours.items()
            for kind in ("weight", "bias")
        }
        layer.load_state_dict(weights)
        layers.append(layer.train(mode == "traindc"))
    x, loss, forget, input = known["x"], torch.zeros(()).double(), [], []
    for number, layer in enumerate(layers):
        steps = layer.run(x, (known[f"h0.{number}"][None], known[f"c0.{number}"].flatten(1)[None]))
        x = steps.output
        torch.testing.assert_close(x, own[f"raw.{number}"], **EXACT)
        torch.testing.assert_close(steps.h, own[f"hn.{number}"], **EXACT)
        torch.testing.assert_close(steps.c, own[f"cn.{number}"].flatten(1), **EXACT)
        loss = loss + steps.h.sin().sum() + steps.c.cos().sum()
        forget.append(steps.forget_distance)
        input.append(steps.input_distance)
    loss = loss + (x * known["R"]).sum()
    loss.backward()
    torch.testing.assert_close(loss, own["loss"], **EXACT)
    torch.testing.assert_close(torch.stack(forget), own["dist_forget"], **EXACT)
    torch.testing.assert_close(torch.stack(input), own["dist_in"], **EXACT)
    for number, layer in enumerate(layers):
        for theirs, name in (("ih.0", "ih"), ("hh", "hh")):
            for kind in ("weight", "bias"):
                found = layer.get_parameter(f"{kind}_{name}_l0").grad
                torch.testing.assert_close(found, own[f"grad.cells.{number}.{theirs}.{kind}"], **EXACT)


def test_mos(golden: Golden) -> None:
    known = golden("mos")
    rates = dict.fromkeys(("dropout", "dropout_hidden", "dropout_input", "dropout_words", "weight_drop"), 0.0)
    sizes = {"embedding_size": 6, "hidden_size": 8, "last_hidden_size": 7, "num_layers": 2, "n_experts": 3}
    model = MoSModel(12, **sizes, **rates, epsilon=1e-8).double().eval()
    model.load_state_dict(from_original(model, part(known, "param.")))
    outputs = model(known["inp"], model.initial_state(3))
    torch.testing.assert_close(outputs.raw[-1], known["rnn_out"], **EXACT)
    loss = model.loss(outputs.dropped[-1], known["tgt"].view(6, 3))
    loss.backward()
    torch.testing.assert_close(loss, known["loss"], **EXACT)
    same_gradients(model, part(known, "grad."))
    found, _ = model.log_probabilities(known["inp"], model.initial_state(3))
    torch.testing.assert_close(found, known["log_prob"], **EXACT)
    model.epsilon = 0.0
    found, _ = model.log_probabilities(known["inp"], model.initial_state(3))
    torch.testing.assert_close(found.exp(), known["prob"], rtol=0, atol=1.1e-8)  # theirs may have it added in place
