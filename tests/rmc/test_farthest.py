"""The task Nth farthest: its questions, and what answers them. Shapes: O objects, D dimensions, B batch."""

import math

import pytest
import torch
from rmc import RelationalMemory
from rmc.farthest import farthest_batch, generator_for
from rmc.farthest_model import FarthestModel
from rmc.rnn import StackedRNN
from rnncore.errors import UserError
from torch import nn
from torch.nn import functional as F

CPU = torch.device("cpu")


def test_answers_are_those_of_a_slow_search() -> None:
    inputs, answers = farthest_batch(generator_for(1, 0, 0, CPU), 200, objects=5, dimensions=3)
    assert inputs.shape == (5, 200, 3 + 15)
    for question, answer in zip(inputs.unbind(1), answers.tolist(), strict=True):
        vectors, rest = question[:, :3].tolist(), question[:, 3:]
        labels, ranks, targets = (part.argmax(1).tolist() for part in rest.chunk(3, dim=1))
        assert rest.sum() == 15
        assert sorted(labels) == list(range(5))
        assert len(set(ranks)) == len(set(targets)) == 1
        centre = vectors[labels.index(targets[0])]
        order = sorted(range(5), key=lambda k: -math.dist(vectors[k], centre))
        assert labels[order[ranks[0]]] == answer


def test_draws_are_even() -> None:
    inputs, answers = farthest_batch(generator_for(2, 0, 0, CPU), 20000, objects=4, dimensions=2)
    vectors, rest = inputs[..., :2], inputs[..., 2:]
    assert float(vectors.abs().max()) <= 1
    assert float(vectors.mean()) == pytest.approx(0, abs=0.01)
    assert float(vectors.square().mean()) == pytest.approx(1 / 3, abs=0.01)
    for share in (*rest.mean((0, 1)).tolist(), *rest[0].mean(0).tolist()):
        assert share == pytest.approx(0.25, abs=0.015)
    for count in answers.bincount().tolist():
        assert count / 20000 == pytest.approx(0.25, abs=0.015)


def test_questions_are_a_function_of_seed_purpose_and_number() -> None:
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    drawn = [farthest_batch(generator_for(*key, CPU), 4)[0] for key in keys]
    again = farthest_batch(generator_for(1, 0, 0, CPU), 4)[0]
    assert torch.equal(drawn[0], again)
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize(("objects", "dimensions"), [(1, 2), (3, 0)])
def test_impossible_sizes_are_refused(objects: int, dimensions: int) -> None:
    with pytest.raises(UserError, match="two objects and one dimension at least"):
        farthest_batch(generator_for(1, 0, 0, CPU), 2, objects, dimensions)


@pytest.mark.parametrize("kind", ["rmc", "lstm"])
def test_matrices_start_large_enough_for_relu_layers(kind: str) -> None:
    recurrent = RelationalMemory(10, 3, 32, 2) if kind == "rmc" else StackedRNN("LSTM", 10, 64, 1)
    model = FarthestModel(recurrent, steps=3, input_size=10, classes=3, mlp_size=64, mlp_layers=2)
    count = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "norm" not in name:
            count += 1
            deviation = float(parameter.detach().square().mean().sqrt()) * parameter.shape[1] ** 0.5
            assert deviation == pytest.approx(2**0.5, rel=0.12), name
    assert count == 3 + (5 if kind == "rmc" else 2)
    assert not any(layer.bias.any() for layer in model.modules() if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("kind", ["rmc", "lstm", "mlp"])
def test_memory_learns_the_task_where_guessing_has_a_third(kind: str) -> None:
    """Reduced: 3 objects on a line, 150 steps. The rivals learn something of it, too."""
    torch.manual_seed(3)
    recurrent: RelationalMemory | StackedRNN | None = None
    if kind == "rmc":
        recurrent = RelationalMemory(10, 3, 8, 2)
    elif kind == "lstm":
        recurrent = StackedRNN("LSTM", 10, 32, 1)
    model = FarthestModel(recurrent, steps=3, input_size=10, classes=3, mlp_size=32, mlp_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for number in range(150):
        inputs, answers = farthest_batch(generator_for(3, 0, number, CPU), 64, 3, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), answers).backward()
        optimizer.step()
    inputs, answers = farthest_batch(generator_for(3, 1, 0, CPU), 1000, 3, 1)
    accuracy = float((model(inputs).argmax(1) == answers).float().mean())
    assert accuracy > (0.6 if kind == "rmc" else 0.45)
