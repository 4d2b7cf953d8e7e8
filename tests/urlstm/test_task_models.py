"""The networks around the gated layer, against torch's functions on the same weights."""

import pytest
import torch
from rnncore.errors import UserError
from torch.nn import functional as F
from urlstm.language_model import LanguageModel
from urlstm.models import AddingModel, CopyModel, ImageModel


def test_adding_model_answers_after_the_last_step() -> None:
    torch.manual_seed(1)
    model = AddingModel("ur-lstm", 6).double()
    inputs = torch.rand(9, 4, 2, dtype=torch.float64)
    output, _ = model.recurrent(inputs)
    expected = output[8] @ model.readout.weight[0] + model.readout.bias
    torch.testing.assert_close(model(inputs), expected.float())


def test_copy_model_reads_one_hot_categories() -> None:
    torch.manual_seed(2)
    model = CopyModel("ur-lstm", 10, 6).double()
    ids = torch.randint(10, (7, 3))
    assert torch.equal(model.encoded(ids), F.one_hot(ids, 10).double())
    output, _ = model.recurrent(F.one_hot(ids, 10).double())
    torch.testing.assert_close(model(ids), F.linear(output, model.readout.weight, model.readout.bias).float())
    torch.testing.assert_close(model(ids, 2), model(ids)[-2:])


@pytest.mark.parametrize("readout", ["last", "all"])
def test_image_model_reads_what_it_is_told_to(readout: str) -> None:
    torch.manual_seed(3)
    model = ImageModel("ur-lstm", 3, 8, 5, 7, 10, readout=readout).double()  # type: ignore[arg-type]
    pixels = torch.rand(8, 4, 3, dtype=torch.float64)
    output, _ = model.recurrent(pixels)
    rows = [output[-1, b] if readout == "last" else torch.cat(list(output[:, b])) for b in range(4)]
    hidden = torch.relu(F.linear(torch.stack(rows), model.between.weight, model.between.bias))
    expected = F.linear(hidden, model.readout.weight, model.readout.bias)
    torch.testing.assert_close(model(pixels), expected.float())


def test_image_model_refuses_another_size() -> None:
    model = ImageModel("ur-lstm", 1, 8, 5, 7, 10, readout="all")
    with pytest.raises(UserError, match="reads pictures of 8 pixels, not 9"):
        model(torch.zeros(9, 2, 1))


def language_model(*, reset_state: bool = False) -> LanguageModel:
    torch.manual_seed(4)
    return LanguageModel("ur-lstm", 20, 6, 8, reset_state=reset_state).double()


def test_embedding_and_decoder_are_one_parameter() -> None:
    model = language_model()
    of_the_vocabulary = [name for name, weight in model.named_parameters() if 20 in weight.shape]
    assert of_the_vocabulary == ["embedding.weight"]
    ids, targets = torch.randint(20, (2, 5, 3))
    loss, _ = model.loss(ids, targets, None)
    output, _ = model.recurrent(F.embedding(ids, model.embedding.weight))
    decoded = F.linear(output, model.projection.weight, model.projection.bias)
    logits = decoded @ model.embedding.weight.t()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss, [model.embedding.weight], retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, [model.embedding.weight])
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)  # both uses in one gradient


def test_a_carried_state_joins_windows() -> None:
    ids, targets = torch.randint(20, (2, 9, 3))
    for reset_state in (False, True):
        model = language_model(reset_state=reset_state).eval()
        whole, _ = model.loss_sum(ids, targets, None)
        first, state = model.loss_sum(ids[:4], targets[:4], None)
        second, _ = model.loss_sum(ids[4:], targets[4:], state)
        alone, _ = model.loss_sum(ids[4:], targets[4:], None)
        if reset_state:
            assert torch.equal(second, alone)
        else:
            assert float(first + second) == pytest.approx(float(whole), rel=1e-12)
            assert float(second) != pytest.approx(float(alone), rel=1e-6)


def test_dropout_is_on_the_embedding_and_off_in_evaluation() -> None:
    torch.manual_seed(5)
    model = LanguageModel("ur-lstm", 20, 50, 8, dropout=0.5)
    ids = torch.randint(20, (40, 10))
    dropped = (model.embedded(ids) == 0).double().mean()
    assert float(dropped) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(model.eval().embedded(ids), F.embedding(ids, model.embedding.weight))
