"""What all layers have in common: batches of 0 are torch's, and torch can compile and recompute what is around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from awdlm import QRNN
from revrnn import RevGRU, RevLSTM
from rmc import RelationalMemory
from rnncore import native
from rnncore.lstm import LSTMLayer
from selfish import ONLSTM, RHN
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from urlstm import URGRU, URLSTM

INPUTS, UNITS = 4, 6
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "LSTMLayer": (LSTMLayer, {}),
    "QRNN": (QRNN, {"window": 2, "num_layers": 2}),
    "RevGRU": (RevGRU, {}),
    "RevGRU-stored": (RevGRU, {"reversible": False}),
    "RevLSTM": (RevLSTM, {"num_layers": 2}),
    "URLSTM": (URLSTM, {"bidirectional": True}),
    "URLSTM-ordered": (URLSTM, {"gate": "or-lstm"}),
    "URGRU": (URGRU, {}),
    "ONLSTM": (ONLSTM, {"num_layers": 2, "chunk_size": 2}),
    "RHN": (RHN, {"depth": 3, "recurrent_dropout": 0.5}),
    "RelationalMemory": (RelationalMemory, {"head_size": 3, "num_heads": 2}),
    "RelationalMemory-sonnet": (RelationalMemory, {"head_size": 3, "num_blocks": 2, "variant": "sonnet"}),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    kind, options = LAYERS[request.param]
    sizes = (INPUTS, 2) if kind is RelationalMemory else (INPUTS, UNITS)  # of a memory: slots
    return kind(*sizes, **options)


def tensors(nested: Any) -> list[Tensor]:
    return [nested] if isinstance(nested, Tensor) else [each for part in nested for each in tensors(part)]


@pytest.mark.parametrize("operators", ["native", "eager"])
@pytest.mark.parametrize("steps", [1, 9])
def test_an_empty_batch_has_empty_outputs_and_zero_gradients(
    layer: nn.Module, steps: int, operators: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if operators == "eager":
        monkeypatch.setattr(native, "load", lambda source: False)
    one, state_of_one = layer(torch.zeros(steps, 1, INPUTS))
    x = torch.zeros(steps, 0, INPUTS, requires_grad=True)
    output, state = layer(x)
    output.sum().backward()
    with torch.no_grad():
        again, _ = layer(x)
    assert output.shape == again.shape == (steps, 0, one.shape[2])
    pairs = zip(tensors(state), tensors(state_of_one), strict=True)
    assert all(empty.numel() == 0 and empty.dim() == full.dim() for empty, full in pairs)
    assert x.grad is not None
    assert x.grad.shape == x.shape
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained)


def test_no_time_step_is_refused(layer: nn.Module) -> None:
    x, message = torch.zeros(0, 2, INPUTS), "^Expected sequence length to be larger than 0 in RNN$"
    for each in (layer, nn.LSTM(INPUTS, UNITS)):
        with pytest.raises(RuntimeError, match=message):
            each(x)


def test_a_layer_can_be_computed_anew_for_its_gradient(layer: nn.Module) -> None:
    x = torch.randn(5, 2, INPUTS, generator=torch.Generator().manual_seed(0))
    grads = []
    for function in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)  # of dropout
        function(leaf)[0].square().sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@pytest.mark.filterwarnings(  # of torch's compiler
    "ignore::UserWarning:torch",
    "ignore:The .grad attribute:UserWarning",
    "ignore:Guards may run slower:RuntimeWarning",
)
@pytest.mark.parametrize(
    "layer", ["LSTMLayer", "QRNN", "RevGRU", "URLSTM", "ONLSTM", "RHN", "RelationalMemory"], indirect=True
)
def test_torch_compile_leaves_a_layer_as_it_is(layer: nn.Module) -> None:
    """It cannot see into native kernels, and a compiled model need not know that there are any."""

    def run(function: Callable[[Tensor], Any]) -> list[Tensor]:
        model.zero_grad()
        output, state = function(x)
        output.square().sum().backward()
        return [output, *tensors(state), *(each.grad for each in model.parameters() if each.grad is not None)]

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, INPUTS), layer).eval(), torch.randn(9, 2, 3)  # dropout would draw anew
    expected = run(model)
    torch.compiler.reset()
    found = run(torch.compile(model, backend="eager"))
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
