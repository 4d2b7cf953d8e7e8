"""Chooses the operators of a time step: native ones on CPU where there is a compiler, else those of `revrnn.eager`."""

from pathlib import Path
from typing import Any

import torch
from rnncore import native

from revrnn import eager


def operators(device: torch.device) -> Any:
    """The namespace of the operators for a device; the docstrings are in `revrnn.eager`."""
    if device.type == "cpu" and native.load(Path(__file__).with_name("native") / "kernels.cpp"):
        return torch.ops.revrnn
    return eager
