"""Chooses the operators of one step: C++ on CPU, else, or where it cannot be built, those of `selfish.eager`."""

from pathlib import Path
from typing import Any

import torch
from rnncore import native

from selfish import eager


def operators(device: torch.device) -> Any:
    """The namespace of the operators for a device; the docstrings are in `selfish.eager`."""
    if device.type == "cpu" and native.load(Path(__file__).with_name("native") / "kernels.cpp"):
        return torch.ops.selfish
    return eager
