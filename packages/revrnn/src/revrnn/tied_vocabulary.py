"""Embedding and decoder with one weight (Press & Wolf 2016, arXiv 1608.05859), and their dropout.

Shapes: T time steps, B batch, E embedding size, V vocabulary, N = T B rows.
"""

import torch
from rnncore.loss import cross_entropy_and_gradient, cross_entropy_sum, linear_cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F

from revrnn.embedding import embed, embed_backward, gradient


class TiedVocabulary(nn.Module):
    """``weight [V, E]``, uniform in (-0.1, 0.1), both embeds and decodes; ``bias [V]``, zero, decodes."""

    def __init__(self, vocabulary_size: int, embedding_size: int) -> None:
        """Makes the parameters."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, embedding_size).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def embed(self, ids: Tensor, words: Tensor | None, mask: Tensor | None) -> Tensor:
        """``[T, B]`` ids to ``[T, B, E]``; ``words [V, 1]`` drops words, ``mask [1, B, E]`` features."""
        return embed(self.weight, ids, words, mask)

    def embed_backward(self, ids: Tensor, words: Tensor | None, mask: Tensor | None, grad: Tensor) -> None:
        """Adds to ``weight.grad`` what ``embed`` contributes, given the gradient ``[T, B, E]`` by its result."""
        embed_backward(self.weight, ids, words, mask, grad)

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits ``[..., V]`` of outputs ``[..., E]``."""
        return F.linear(outputs, self.weight, self.bias)

    def loss(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Mean cross entropy of ``[T, B, E]``, in nats; ``dtype`` is what products are computed in."""
        return linear_cross_entropy(outputs.flatten(0, 1), self.weight, self.bias, targets.flatten(), dtype)

    def loss_sum(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The sum over ``[T, B]`` instead of the mean, without gradient."""
        return cross_entropy_sum(outputs.flatten(0, 1), self.weight, self.bias, targets.flatten(), dtype)

    def loss_backward(
        self, outputs: Tensor, targets: Tensor, scale: float, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        """`loss_sum`, and the gradient of ``scale`` times it: by ``outputs`` returned, by parameters added to them."""
        grads = gradient(self.weight), gradient(self.bias)
        total, grad = cross_entropy_and_gradient(
            outputs.flatten(0, 1), self.weight, self.bias, targets.flatten(), scale, *grads, dtype
        )
        return total, grad.view_as(outputs)
