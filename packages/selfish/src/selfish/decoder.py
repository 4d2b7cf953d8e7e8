"""Decoding over a vocabulary, for the models that have one softmax.

Shapes: T time steps, B batch, E features, V vocabulary.
"""

import torch
from rnncore.device import autocast_dtype
from rnncore.errors import UserError
from rnncore.loss import cross_entropy_rows, linear_cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """A linear map to V logits, and its losses, which never hold all logits; ``targets`` are int64 ``[T, B]``."""

    def __init__(self, features: int, encoder: nn.Embedding, *, tied: bool, limit: float = 0.1) -> None:
        """Makes the parameters: weights uniform up to ``limit``, biases 0; ``tied``, the encoder's weight is its own.

        Raises:
            UserError: Tied, and the sizes differ.
        """
        super().__init__()
        words, size = encoder.weight.shape
        if tied and features != size:
            raise UserError(
                f"tied weights need as many units in the last layer, {features}, as in the embedding, {size}"
            )
        self.weight = encoder.weight if tied else nn.Parameter(torch.empty(words, features))
        self.bias = nn.Parameter(torch.zeros(words))
        if not tied:
            nn.init.uniform_(self.weight, -limit, limit)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of ``output [T, B, E]``, in nats per token."""
        rows = output.flatten(0, 1).to(self.weight.dtype)
        return linear_cross_entropy(rows, self.weight, self.bias, targets.flatten(), autocast_dtype(output.device))

    @torch.no_grad()
    def loss_rows(self, output: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy of each row of ``output [T, B, E]``, in nats: ``[T B]``."""
        rows = output.flatten(0, 1).to(self.weight.dtype)
        return cross_entropy_rows(rows, self.weight, self.bias, targets.flatten(), autocast_dtype(output.device))

    @torch.no_grad()
    def log_probabilities(self, output: Tensor) -> Tensor:
        """Log probabilities ``[T, B, V]``."""
        return F.linear(output.to(self.weight.dtype), self.weight, self.bias).log_softmax(2)
