"""Softmax cross entropy over a vocabulary, without ever holding all logits.

The rows are decoded some at a time; with the loss of a block its gradients are taken at once, so that a block of
logits, turned in place into their gradient (`rnncore.softmax`), is all that exists.

Shapes: N rows (time steps times batch), E features, V vocabulary.
"""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rnncore.opaque import opaque
from rnncore.softmax import cross_entropy, cross_entropy_gradient

#: Logits of a block, 32 MiB in float32, and the fewest rows of one: each passes over the whole weight gradient.
BLOCK, FEWEST_ROWS = 2**23, 256
#: In a 16-bit type on CPU, rows are multiplied in multiples of this: see `filled`.
TOGETHER = 64


def filled(rows: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Rows ``[N, ...]`` that are to be multiplied in ``dtype``, followed by zeros where that saves memory.

    In a 16-bit type on CPU oneDNN keeps one to three megabytes for each number of rows that it has seen, and takes time
    for a new one. Where the number differs from step to step (words of a class, of sentences), few are left so.
    """
    narrow = dtype is not None and dtype.itemsize == 2 and rows.device.type == "cpu"
    missing = -len(rows) % TOGETHER if narrow else 0
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


@opaque
@torch.no_grad()
def cross_entropy_rows(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """-log softmax(hidden weight^T + bias)[target] of each row, in nats: ``[N]`` of the weight's type, no gradient.

    Args:
        hidden: ``[N, E]``, of any floating type with ``dtype``.
        weight: ``[V, E]``.
        bias: ``[V]``.
        targets: int64 ``[N]``.
        dtype: What the product is computed in (bfloat16 under mixed precision); ``hidden``'s own when absent.
    """
    losses, factor = weight.new_empty(len(hidden)), _factor(weight, dtype)
    for rows in _blocks(hidden, weight):
        block = filled(hidden[rows].to(factor.dtype), dtype)
        logits = F.linear(block, factor)[: rows.stop - rows.start]
        losses[rows] = cross_entropy(logits, bias, targets[rows])
    return losses


def cross_entropy_sum(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """The sum of `cross_entropy_rows`."""
    return cross_entropy_rows(hidden, weight, bias, targets, dtype).sum()


@torch.no_grad()
def cross_entropy_and_gradient(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    grad_weight: Tensor,
    grad_bias: Tensor | None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """`cross_entropy_sum` and the gradient of ``scale`` times it.

    Args:
        hidden, weight, bias, targets, dtype: As for `cross_entropy_rows`.
        scale: Factor of all gradients, 1/N for the mean.
        grad_weight: ``[V, E]``, the weight's gradient is added to it.
        grad_bias: ``[V]``, likewise.

    Returns:
        The sum (not scaled), and the gradient by ``hidden``, ``[N, E]``.
    """
    total, grad_hidden = weight.new_zeros(()), torch.empty_like(hidden)
    factor = _factor(weight, dtype)
    for rows in _blocks(hidden, weight):
        block = filled(hidden[rows].to(factor.dtype), dtype)
        losses, gradient = cross_entropy_gradient(F.linear(block, factor), bias, targets[rows], grad_bias, scale)
        total += losses.sum()
        if factor.dtype == weight.dtype == hidden.dtype:
            torch.mm(gradient, factor, out=grad_hidden[rows])
            grad_weight.addmm_(gradient.t(), block, alpha=scale)
        else:
            grad_hidden[rows] = (gradient @ factor)[: len(losses)]
            grad_weight.add_(gradient.t() @ block, alpha=scale)
    return total, grad_hidden.mul_(scale)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype | None
    ) -> Tensor:
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        total, grad_hidden = cross_entropy_and_gradient(
            hidden, weight, bias, targets, 1 / len(targets), grad_weight, grad_bias, dtype
        )
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if saved is None else saved * grads[0] for saved in ctx.saved_tensors]
        return *scaled, None, None


@opaque
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """The mean cross entropy of a linear decoder, in nats, with gradients by ``hidden``, ``weight`` and ``bias``.

    As ``F.cross_entropy(F.linear(hidden, weight, bias), targets)``, in blocks; the gradients are taken with the loss
    and kept until ``backward``. Arguments as for `cross_entropy_rows`.
    """
    if not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))):
        return cross_entropy_sum(hidden, weight, bias, targets, dtype) / len(targets)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def _blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Blocks of rows of nearly equal size: about `BLOCK` logits each, but no fewer than `FEWEST_ROWS` rows."""
    rows = len(hidden)
    count = max(1, min(-(-rows * len(weight) // BLOCK), rows // FEWEST_ROWS))
    edges = [rows * k // count for k in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(edges) if last > first]


def _factor(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    return weight if dtype is None else weight.to(dtype)
