"""What the tests of the gated layers share: the two ways to run a recurrence, numbers, and layers made of cells.

Shapes: T time steps, B batch, I inputs, H units.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from urlstm import URGRU, URGRUCell, URLSTMCell, kernels, make_layer


@pytest.fixture(params=["native", "eager"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The C++ recurrences, then the readable ones, each chosen for the test."""
    if request.param == "native" and not kernels.use_native(torch.device("cpu")):
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    monkeypatch.setattr(kernels, "use_native", lambda device: request.param == "native")
    return str(request.param)


@pytest.fixture
def numbers() -> Callable[..., Tensor]:
    """Normal random numbers of a shape and seed."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)

    return make


@pytest.fixture
def make() -> Callable[..., Any]:
    """A layer in float64 with a gate's name, all its parameters large enough to matter."""

    def made(gate: str, *sizes: int, scale: float = 0.7, **options: Any) -> Any:
        torch.manual_seed(0)
        layer = make_layer(gate, *sizes, t_max=9, **options).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-scale, scale)
        return layer

    return made


@pytest.fixture
def cell_of() -> Callable[..., Any]:
    """The cell that has the weights of one direction of a layer."""

    def made(layer: Any, suffix: str) -> nn.Module:
        kind = URGRUCell if isinstance(layer, URGRU) else URLSTMCell
        options = {} if isinstance(layer, URGRU) else {"t_max": 9}
        size = getattr(layer, f"weight_ih{suffix}").shape[1]
        fixed = hasattr(layer, f"gate_bias{suffix}")
        cell = kind(size, layer.hidden_size, layer.bias, gate=layer.gate, trainable_bias=not fixed, **options).double()
        state = {name: getattr(layer, name + suffix) for name in cell.state_dict()}
        cell.load_state_dict(state)
        return cell

    return made
