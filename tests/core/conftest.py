"""What the tests of the core share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import lstm_steps
from rnncore.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(tmp_path / "run", command="demo", config={})
    yield directory
    directory.close()


@pytest.fixture
def native_operators() -> Any:
    """The C++ operators."""
    found = lstm_steps.operators(torch.device("cpu"))
    if found is lstm_steps.EAGER:
        pytest.skip("there are no native kernels: no C++ compiler, or RNNCORE_NATIVE=0")
    return found


@pytest.fixture(params=["native", "eager"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The C++ operators, then the readable ones, each chosen for the test."""
    if request.param == "native":
        return request.getfixturevalue("native_operators")
    monkeypatch.setattr(lstm_steps, "operators", lambda device: lstm_steps.EAGER)
    return lstm_steps.EAGER
