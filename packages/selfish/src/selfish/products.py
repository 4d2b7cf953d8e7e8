"""The products of a recurrent layer: with the inputs, at each step, and for the gradients by the weights.

Shapes: T time steps, B batch, I inputs, H units, W rows of a weight. ``dtype`` is what products are computed in (mixed
precision); the tensors' own type when it is None.
"""

from collections.abc import Callable
from functools import partial

import torch
from rnncore.panel_linear import PanelLinear
from rnncore.step_linear import StepLinear
from torch import Tensor
from torch.nn import functional as F

#: Fewest time steps for which laying a weight out costs less than it saves.
FEW_STEPS = 8


def project(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """The inputs' part of all gates: ``x [T, B, I]`` and ``weight [W, I]`` to ``[T, B, W]``, of the weight's type."""
    if dtype is None:
        return F.linear(x, weight, bias)
    product = F.linear(x.to(dtype), weight.to(dtype)).to(weight.dtype)
    return product if bias is None else product.add_(bias)


def step_product(weight: Tensor, rows: int, steps: int, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """What multiplies ``[B, K]`` with ``weight [W, K]`` at each of so many steps, to ``[B, W]`` of the same type."""
    if steps < FEW_STEPS and dtype is None:
        return partial(F.linear, weight=weight)
    if dtype is None and PanelLinear.available(weight.device, weight.dtype):
        return PanelLinear(weight)
    return StepLinear(weight, rows, dtype)


def input_gradient(by_gates: Tensor, weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The gradient by x ``[T, B, I]`` of `project`, of the gates' type."""
    rows = by_gates.flatten(0, 1).to(dtype or by_gates.dtype)
    return (rows @ weight.to(rows.dtype)).view(*by_gates.shape[:2], weight.shape[1]).to(by_gates.dtype)


def weight_gradient(by_gates: Tensor, operand: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The gradient by a weight, from that by all steps' gates ``[T, B, W]`` and what it was multiplied with."""
    rows = by_gates.flatten(0, 1).to(dtype or by_gates.dtype)
    return (rows.t() @ operand.flatten(0, 1).to(rows.dtype)).to(by_gates.dtype)


def bias_sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of two biases of which each may be None."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def expect(name: str, tensor: Tensor | None, *shape: int) -> None:
    """Raises RuntimeError for a tensor of another shape, as torch's layers do."""
    if tensor is not None and tensor.shape != shape:
        raise RuntimeError(f"Expected {name} {list(shape)}, got {list(tensor.shape)}")


def expect_inputs(x: Tensor, input_size: int) -> None:
    """Raises RuntimeError, as torch's layers do, unless x is ``[T, B, input_size]`` with a time step at least."""
    if x.dim() != 3:
        raise RuntimeError(f"Expected input [T, B, I], got {list(x.shape)}")
    if x.shape[2] != input_size:
        raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[2]}")
    if not len(x):
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
