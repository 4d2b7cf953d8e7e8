"""The loss of a batch of sentences: cross entropy summed over target tokens, padding aside.

Shapes: T time steps, B batch, H features, V vocabulary.
"""

import torch
from rnncore.loss import cross_entropy_and_gradient, cross_entropy_sum, linear_cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F

from revrnn.embedding import gradient


class Criterion:
    """Decodes features with ``weight [V, H]`` and ``bias [V]`` and compares with target ids.

    With ``smoothing`` e the targets are not one-hot but have 1 - e on the token and e spread over the vocabulary
    (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, padding: int, smoothing: float = 0.0) -> None:
        self.weight, self.bias, self.padding, self.smoothing = weight, bias, padding, smoothing

    def loss(self, features: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The sum of ``[T, B, H]`` against ``[T, B]`` in nats, for ``backward``."""
        rows = torch.nonzero(targets.flatten() != self.padding).squeeze(1)
        hidden, wanted = features.flatten(0, 1).index_select(0, rows), targets.flatten().index_select(0, rows)
        if not len(rows):
            return hidden.sum()
        if self.smoothing:
            logits = F.linear(hidden, self.weight, self.bias)
            return F.cross_entropy(logits, wanted, label_smoothing=self.smoothing, reduction="sum")
        return linear_cross_entropy(hidden, self.weight, self.bias, wanted, dtype) * len(rows)

    @torch.no_grad()
    def plain_loss(self, features: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The sum without smoothing and gradient, for evaluation."""
        rows = torch.nonzero(targets.flatten() != self.padding).squeeze(1)
        hidden, wanted = features.flatten(0, 1).index_select(0, rows), targets.flatten().index_select(0, rows)
        return cross_entropy_sum(hidden, self.weight, self.bias, wanted, dtype)

    def loss_backward(
        self, features: Tensor, targets: Tensor, scale: float, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        """`loss`, and the gradient of ``scale`` times it: by ``features`` returned, by parameters added to them."""
        if self.smoothing:
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                loss = self.loss(leaf, targets, dtype)
                (loss * scale).backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            return loss.detach(), leaf.grad
        rows = torch.nonzero(targets.flatten() != self.padding).squeeze(1)
        flat = features.detach().flatten(0, 1)
        hidden, wanted = flat.index_select(0, rows), targets.flatten().index_select(0, rows)
        total, by_hidden = cross_entropy_and_gradient(
            hidden, self.weight, self.bias, wanted, scale, gradient(self.weight), gradient(self.bias), dtype
        )
        grad = torch.zeros_like(flat).index_copy_(0, rows, by_hidden)
        return total, grad.view_as(features)
