"""What the tests of the layer share: both kinds of operators, and small layers with weights far from their start."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from rmc import RelationalMemory, eager, kernels
from torch import nn


@pytest.fixture(params=["native", "eager"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The layer runs on C++, then on torch's operators."""
    if request.param == "eager":
        monkeypatch.setattr(kernels, "operators", lambda device: eager)
        yield eager
        return
    found = kernels.operators(torch.device("cpu"))
    if found is eager:
        pytest.skip("there is no C++ compiler")
    yield found


@pytest.fixture
def spread() -> Callable[[nn.Module, int], None]:
    """``spread(module, seed)``: all parameters drawn from -0.6 to 0.6, those of normalisations and biases too."""

    def draw(module: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.uniform_(-0.6, 0.6, generator=generator)

    return draw


@pytest.fixture
def small(spread: Callable[[nn.Module, int], None]) -> Callable[..., RelationalMemory]:
    """``small(**options)``: a layer of 5 inputs and 2 heads of 4, keys of 3, in float64."""

    def make(slots: int = 2, **options: Any) -> RelationalMemory:
        layer = RelationalMemory(5, slots, 4, 2, key_size=3, **options).double()
        spread(layer, 7)
        return layer

    return make
