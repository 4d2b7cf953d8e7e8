"""Chooses what does the pointwise work of a step: C++ on CPU, else, or where it cannot be built, `rmc.eager`."""

from pathlib import Path
from typing import Any

import torch
from rnncore import native

from rmc import eager


def operators(device: torch.device) -> Any:
    """The namespace of the operators for a device; the first call may compile them."""
    if device.type == "cpu" and native.load(Path(__file__).with_name("native") / "kernels.cpp"):
        return torch.ops.rmc
    return eager
