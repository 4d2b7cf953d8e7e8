"""The three products of a linear map in a narrower type than its weight's: the output, and both gradients.

The operands are laid out as the libraries for CPUs multiply them fastest (`rnncore.transposed`).

Shapes: N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rnncore.opaque import opaque
from rnncore.transposed import transposed


def product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``x [N, I]`` times the transpose of ``weight [O, I]``: ``[N, O]``, computed and returned in ``dtype``."""
    return torch.mm(x.to(dtype), transposed(weight, dtype))


def by_input(grad: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient by x ``[N, I]`` from that by the output, ``grad [N, O]``."""
    return torch.mm(grad.to(dtype), weight.to(dtype))


def by_weight(grad: Tensor, operands: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The gradients by the weights ``[O, .]`` that each of ``operands [N, .]`` was multiplied with."""
    turned = transposed(grad, dtype)
    return [torch.mm(turned, operand.to(dtype)) for operand in operands]


@opaque
def narrow_linear(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``x [..., I]`` times the transpose of ``weight [O, I]``, with gradients: ``[..., O]`` in ``dtype``."""
    output: Tensor = _Linear.apply(x.flatten(0, -2), weight, dtype)  # type: ignore[no-untyped-call]
    return output.view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.dtype = dtype
        return product(x, weight, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        by_x, by_w, _ = ctx.needs_input_grad
        grad_x = by_input(grad, weight, ctx.dtype) if by_x else None
        grad_weight = by_weight(grad, [x], ctx.dtype)[0].to(weight.dtype) if by_w else None
        return grad_x, grad_weight, None
