"""Chooses what runs the recurrences: C++ on CPU, else, or where it cannot be built, `urlstm.eager`."""

from pathlib import Path
from typing import cast

import torch
from rnncore import native
from rnncore.lstm import WIDE
from rnncore.step_linear import StepLinear
from torch import Tensor

from urlstm import eager
from urlstm.gates import Unit

#: Native code is told a unit by its place here.
UNITS: tuple[Unit, ...] = ("refine", "cumax-refine", "ordered", "refine-gru")


def use_native(device: torch.device) -> bool:
    """Whether there is native code for a device; the first call may compile it."""
    return device.type == "cpu" and native.load(Path(__file__).with_name("native") / "kernels.cpp")


def _is_native(gates: Tensor) -> bool:
    return gates.dtype in WIDE and use_native(gates.device)


def forward(
    unit: Unit,
    gates: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None,
    bias: Tensor,
    h0: Tensor,
    c0: Tensor,
    rows: list[int],
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`urlstm.eager.forward`, by whatever is fastest; recurrent products are in ``dtype``, if given."""
    if not _is_native(gates):
        product = StepLinear(weight, max(rows), dtype)
        return eager.forward(unit, gates, product, bias, h0, c0, rows, reverse)
    laid_out, packed = _laid_out(weight, max(rows), dtype)
    results = torch.ops.urlstm.forward(UNITS.index(unit), gates, laid_out, packed, bias, h0, c0, rows, reverse)
    return cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)


def backward(
    unit: Unit,
    grad: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    gates: Tensor,
    cells: Tensor,
    before: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None,
    rows: list[int],
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`urlstm.eager.backward`, likewise; the weight is that of `forward`."""
    if not _is_native(gates):
        product = StepLinear(weight.t(), max(rows), dtype)
        return eager.backward(unit, grad, grad_h, grad_c, gates, cells, before, product, rows, reverse)
    laid_out, packed = _laid_out(weight.t(), max(rows), dtype)
    results = torch.ops.urlstm.backward(
        UNITS.index(unit), grad, grad_h, grad_c, gates, cells, before, laid_out, packed, rows, reverse
    )
    return cast("tuple[Tensor, Tensor, Tensor]", results)


def _laid_out(weight: Tensor, rows: int, dtype: torch.dtype | None) -> tuple[Tensor, bool]:
    """A weight as the native code takes it: plain, or for products of a narrower type as `StepLinear` has it."""
    if dtype is None or dtype == weight.dtype:
        return weight, False
    product = StepLinear(weight, rows, dtype)
    return product.weight, product.packed
