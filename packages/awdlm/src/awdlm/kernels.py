"""Chooses the operators of the QRNN's recurrence, and the type that they compute in."""

import functools
import logging
from pathlib import Path
from typing import Any

import torch
from rnncore import native

from awdlm import eager

logger = logging.getLogger("awdlm")


def operators(device: torch.device) -> Any:
    """The namespace of the operators for a device: C++ on CPU, Triton's on CUDA, else those of `awdlm.eager`.

    The docstrings are there. Where a compiler or Triton is missing or fails, the eager ones stand in.
    """
    if device.type == "cpu" and native.load(Path(__file__).with_name("native") / "kernels.cpp"):
        return torch.ops.awdlm
    if device.type == "cuda":
        return _cuda_operators()
    return eager


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the recurrence's state where the gates are of ``dtype``: float32 for the 16-bit types."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@functools.cache
def _cuda_operators() -> Any:
    """Triton's operators if they run, which the first use of a GPU tries; a failure is one warning."""
    try:
        from awdlm import triton_kernels  # Triton takes a second to import, and only this device needs it

        zeros = torch.zeros(1, 1, 3, device="cuda")
        triton_kernels.gates_forward(zeros, zeros[0, 0], zeros[0, :, :1].contiguous(), True)
    except Exception as error:  # Triton raises what its compiler, the driver and the system's compiler raise
        logger.warning("no Triton kernels (%s): the slower eager ones are used", str(error).strip().split("\n")[-1])
        return eager
    return triton_kernels
