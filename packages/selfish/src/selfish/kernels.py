"""Chooses the operators of one step: C++ on CPU, else, or where it cannot be built, those of `selfish.eager`."""

from pathlib import Path
from typing import Any

import torch
from rnncore import native
from rnncore.lstm import WIDE
from torch import Tensor

from selfish import eager


def operators(like: Tensor) -> Any:
    """The namespace of the operators for tensors like one; the docstrings are in `selfish.eager`."""
    fused = like.device.type == "cpu" and like.dtype in WIDE
    if fused and native.load(Path(__file__).with_name("native") / "kernels.cpp"):
        return torch.ops.selfish
    return eager
