"""What holds of all four models: one manner of use, carried state, dropout, conversion, masks in place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.windows import detach
from selfish.convert import Model, from_original, to_original
from selfish.mos_model import MoSModel
from selfish.onlstm_model import ONLSTMModel
from selfish.rhn_model import RHNModel
from selfish.stacked_lstm import Dropout, StackedLSTM

WORDS = 13
SIZES: dict[str, Any] = {"embedding_size": 6, "hidden_size": 6, "num_layers": 2}
MODELS: dict[str, Callable[[], Model]] = {
    "lstm": lambda: StackedLSTM(WORDS, **SIZES),
    "lstm tied": lambda: StackedLSTM(WORDS, **SIZES, tied=True),
    "rhn": lambda: RHNModel(WORDS, **SIZES, depth=2),
    "rhn coupled and tied": lambda: RHNModel(WORDS, **SIZES, depth=2, couple=True, tied=True),
    "onlstm": lambda: ONLSTMModel(WORDS, embedding_size=6, hidden_size=9, chunk_size=3),
    "mos": lambda: MoSModel(WORDS, **SIZES, n_experts=2),
    "mos untied": lambda: MoSModel(WORDS, **SIZES, last_hidden_size=5, n_experts=2, tied=False),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(8)
    return MODELS[request.param]().double()


def tokens(steps: int, batch: int = 3) -> torch.Tensor:
    return torch.randint(WORDS, (steps, batch), generator=torch.Generator().manual_seed(9))


def test_a_window_gives_what_its_parts_give(model: Model) -> None:
    model.eval()
    ids = tokens(12)
    outputs = model(ids, model.initial_state(3))
    first = model(ids[:4], model.initial_state(3))
    second = model(ids[4:], detach(first.state))
    assert outputs.dropped[-1].shape[:2] == ids.shape
    assert len(outputs.raw) == len(outputs.dropped) == len(outputs.state) == len(model.layers)
    joined = torch.cat([first.dropped[-1], second.dropped[-1]])
    torch.testing.assert_close(joined, outputs.dropped[-1], rtol=0, atol=1e-12)


def test_evaluation_is_the_mean_of_the_log_probabilities(model: Model) -> None:
    text = tokens(20)
    found = evaluate(model, text, length=7)
    assert model.training
    log_p, _ = model.eval().log_probabilities(text[:-1], model.initial_state(3))
    assert found == pytest.approx(-log_p.gather(2, text[1:, :, None]).mean().item(), rel=1e-12)


def test_a_few_steps_of_training_learn_a_text(model: Model) -> None:
    text, optimizer = tokens(11), torch.optim.Adam(model.parameters(), lr=0.02)
    before = evaluate(model, text)
    torch.manual_seed(10)
    for _ in range(60):
        optimizer.zero_grad()
        outputs = model(text[:-1], model.initial_state(3))
        model.loss(outputs.dropped[-1], text[1:]).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert evaluate(model, text) < before - 0.15


@pytest.mark.parametrize("kind", MODELS)
def test_weights_masked_in_place_stay_out(kind: str) -> None:
    """No layer keeps a copy of its weights from one call to the next."""
    model, fresh = MODELS[kind]().double().eval(), MODELS[kind]().double().eval()
    text = tokens(12)
    before = evaluate(model, text)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(11)) < 0.3)
    fresh.load_state_dict(model.state_dict())
    assert evaluate(model, text) == evaluate(fresh, text) != before


def test_dropout_differs_from_call_to_call_in_training_alone(model: Model) -> None:
    ids, state = tokens(5), model.initial_state(3)
    results = [model(ids, state).dropped[-1].detach() for _ in range(2)]
    assert not torch.equal(*results)
    model.eval()
    results = [model(ids, state).dropped[-1].detach() for _ in range(2)]
    assert torch.equal(*results)


def test_the_originals_names_there_and_back(model: Model) -> None:
    theirs = to_original(model)
    back = from_original(model, theirs)
    own = model.state_dict()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_a_state_dict_of_another_model_is_refused_in_one_line(model: Model) -> None:
    theirs = to_original(model)
    with pytest.raises(UserError, match=r"^the state dict has names that are not this model's: extra\.weight$"):
        from_original(model, {**theirs, "extra.weight": torch.zeros(1)})
    layer = next(name for name in theirs if name.startswith("rnn"))
    with pytest.raises(UserError, match=r"^the state dict lacks "):
        from_original(model, {name: tensor for name, tensor in theirs.items() if name != layer})
    with pytest.raises(UserError, match=r"^the state dict has .* where this model needs"):
        from_original(model, {**theirs, layer: torch.zeros(2, 2)})
    if model.decoder.weight is model.encoder.weight:
        decoder = next(name for name in theirs if name in ("decoder.weight", "fc1.weight"))
        with pytest.raises(UserError, match=r"not tied$"):
            from_original(model, {**theirs, decoder: theirs[decoder] + 1})


def test_names_of_weight_drop_are_taken() -> None:
    model = MODELS["mos"]()
    plain = to_original(model)
    dropped = {}
    for name, tensor in plain.items():
        if not name.startswith("rnns"):
            dropped[name] = tensor
            continue
        inner = name[:7] + "module." + name[7:]
        if "weight_hh" in name:
            dropped[inner] = torch.zeros(1)  # what the last step left
            inner += "_raw"
        dropped[inner] = tensor
    found = from_original(model, dropped)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_distances_lie_between_zero_and_one() -> None:
    model = MODELS["onlstm"]().eval()
    outputs = model(tokens(7), model.initial_state(3))
    assert outputs.distances is not None
    for distances in outputs.distances:
        assert distances.shape == (3, 7, 3)
        assert not distances.requires_grad
        assert bool(((distances > 0) & (distances < 1)).all())


def test_tied_weights_are_one_parameter_and_need_equal_sizes() -> None:
    model = MODELS["lstm tied"]()
    assert model.decoder.weight is model.encoder.weight
    assert "decoder.weight" not in dict(model.named_parameters())
    with pytest.raises(UserError, match="tied weights need as many units in the last layer, 8, as in the embedding, 6"):
        StackedLSTM(WORDS, embedding_size=6, hidden_size=8, tied=True)
    with pytest.raises(UserError, match="a chunk size of 4 does not divide the 6 units"):
        ONLSTMModel(WORDS, embedding_size=6, hidden_size=8, chunk_size=4)


def test_plain_dropout_keeps_the_mean_and_draws_each_element() -> None:
    torch.manual_seed(12)
    x = torch.ones(200, 30, 4, requires_grad=True)
    dropped = Dropout(0.25)(x)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(dropped[0], dropped[1])
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped)
    assert Dropout(0.25).eval()(x) is x


@pytest.mark.cuda
def test_a_gpu_gives_what_the_cpu_gives(model: Model) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    model.eval()
    ids, results = tokens(9), []
    for place in ("cpu", "cuda"):
        model.to(place).zero_grad()
        moved = ids.to(place)
        outputs = model(moved[:-1], model.initial_state(3))
        loss = model.loss(outputs.dropped[-1], moved[1:])
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours.cpu(), rtol=0, atol=1e-10)
