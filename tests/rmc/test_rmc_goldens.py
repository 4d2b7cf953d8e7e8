"""The memory and its language model against numbers of the public PyTorch port."""

import warnings
from collections.abc import Callable

import pytest
import torch
from rmc import RelationalMemory
from rmc.convert import layer_from_port, model_from_port
from rmc.language_model import LanguageModel
from torch import Tensor, nn

pytestmark = pytest.mark.shared
Golden = Callable[[str], dict[str, Tensor]]
tight = {"rtol": 1e-9, "atol": 1e-9}


def part(numbers: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def memory_layer(gate: str, blocks: int = 1) -> RelationalMemory:
    return RelationalMemory(5, 1, 4, 2, num_blocks=blocks, gate_style=gate, key_size=3)  # type: ignore[arg-type]


def assert_same_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert grads.keys() <= expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], **tight, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("gate", ["unit", "memory"])
@pytest.mark.parametrize("softmax", ["full", "adaptive"])
@pytest.mark.parametrize("steps", ["at once", "one by one"])
def test_language_model(golden: Golden, gate: str, softmax: str, steps: str) -> None:
    numbers = golden("rmc_slots1")
    prefix = f"lm.{gate}.{softmax}."
    with warnings.catch_warnings():  # one of the tails has no features at this size
        warnings.filterwarnings("ignore", message="Initializing zero-element")
        cutoffs = [5, 12] if softmax == "adaptive" else None
        model = LanguageModel(memory_layer(gate), 20, 5, cutoffs=cutoffs).double().eval()
    model.load_state_dict(model_from_port(part(numbers, f"{prefix}param.")))
    ids, memory, targets = numbers["inp"].t(), numbers["memory0"], numbers["tgt"]
    if steps == "at once":
        output, memory = model(ids, memory)
    else:
        outputs = []
        for step in ids:
            out, memory = model(step[None], memory)
            outputs.append(out)
        output = torch.cat(outputs)
    rows = output.flatten(0, 1)
    if softmax == "full":
        rows_logits = rows @ model.softmax.weight.T + model.softmax.bias  # type: ignore[union-attr,operator]
        torch.testing.assert_close(rows_logits, numbers[f"{prefix}logits"], **tight)
        torch.testing.assert_close(model.softmax.log_probabilities(rows), rows_logits.log_softmax(1), **tight)
    else:
        torch.testing.assert_close(rows, numbers[f"{prefix}logits"], **tight)
        all_words = model.softmax.log_probabilities(rows)
        torch.testing.assert_close(-all_words.gather(1, targets[:, None]).mean(), numbers[f"{prefix}loss"], **tight)
    torch.testing.assert_close(memory, numbers[f"{prefix}memory"], **tight)
    loss = model.softmax.loss(rows, targets)
    torch.testing.assert_close(loss, numbers[f"{prefix}loss"], **tight)
    summed, _ = model.loss_sum(ids, targets.view(ids.shape), numbers["memory0"])
    torch.testing.assert_close(summed / len(targets), numbers[f"{prefix}loss"], **tight)
    loss.backward()
    assert_same_gradients(model, model_from_port(part(numbers, f"{prefix}grad.")))


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("gate", ["unit", "memory"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_memory_over_vectors(golden: Golden, gate: str, blocks: int) -> None:
    numbers = golden("rmc_slots1")
    prefix = f"general.{gate}.blocks{blocks}."
    layer = memory_layer(gate, blocks).double()
    layer.load_state_dict(layer_from_port(part(numbers, f"{prefix}param.")))
    output, memory = layer(numbers["x"].transpose(0, 1), numbers["memory0"])
    torch.testing.assert_close(output.flatten(0, 1), numbers[f"{prefix}out"], **tight)
    torch.testing.assert_close(memory, numbers[f"{prefix}memory"], **tight)
    output.sin().sum().backward()
    assert_same_gradients(layer, layer_from_port(part(numbers, f"{prefix}grad.")))


def test_initial_memory(golden: Golden) -> None:
    expected = golden("rmc_slots1")["initial_state"]
    assert torch.equal(memory_layer("unit").initial_state(3), expected)
