"""What the tests of the recurrent layers share: where their operators come from."""

import pytest
import torch
from rnncore.panel_linear import PanelLinear
from selfish import eager, kernels, onlstm_sequence, rhn_sequence


@pytest.fixture(params=["native", "eager"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The layers' operators: C++ or torch's own."""
    if request.param == "eager":
        for module in (rhn_sequence, onlstm_sequence):
            monkeypatch.setattr(module, "operators", lambda like: eager)
        monkeypatch.setattr(PanelLinear, "available", lambda device, dtype: False)
    elif kernels.operators(torch.empty(0)) is eager:
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return str(request.param)
