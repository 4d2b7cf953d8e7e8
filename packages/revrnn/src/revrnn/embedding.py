"""Embedding of token ids with dropout, forward and, where no autograd runs, its gradient.

Shapes: T time steps, B batch, E embedding size, V vocabulary.
"""

import torch
from rnncore.dropout import embedded_dropout
from torch import Tensor


def embed(weight: Tensor, ids: Tensor, words: Tensor | None, mask: Tensor | None) -> Tensor:
    """``[T, B]`` ids to rows of ``weight [V, E]``; ``words [V, 1]`` drops words, ``mask [1, B, E]`` features."""
    x = embedded_dropout(weight, ids, mask=words)
    return x if mask is None else x * mask


def embed_backward(weight: Tensor, ids: Tensor, words: Tensor | None, mask: Tensor | None, grad: Tensor) -> None:
    """Adds to ``weight.grad`` what `embed` contributes, given the gradient ``[T, B, E]`` by its result."""
    if mask is not None:
        grad = grad * mask
    if words is not None:
        grad = grad * words[ids]
    gradient(weight).index_add_(0, ids.flatten(), grad.flatten(0, 1))


def gradient(parameter: Tensor) -> Tensor:
    """A parameter's gradient, zeros to begin with; for one that is frozen, a tensor that nobody looks at."""
    if not parameter.requires_grad:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
