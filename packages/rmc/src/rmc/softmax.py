"""What turns a model's outputs into probabilities of words: a softmax over all of them, or an adaptive one.

Shapes: N rows (time steps times batch), E features, V vocabulary.
"""

import itertools
from collections.abc import Sequence

import torch
from rnncore.device import autocast_dtype
from rnncore.errors import UserError
from rnncore.loss import cross_entropy_sum, linear_cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F


class FullSoftmax(nn.Module):
    """A softmax over all words; logits are never held all at once."""

    def __init__(self, vocabulary_size: int, features: int, tied: nn.Parameter | None = None) -> None:
        """``tied`` is an embedding's weight ``[V, E]`` to share; without it there is one of its own."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, features)) if tied is None else tied
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        if tied is None:
            nn.init.uniform_(self.weight, -0.1, 0.1)

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of ``rows [N, E]`` in nats; ``targets [N]``."""
        return linear_cross_entropy(rows, self.weight, self.bias, targets, autocast_dtype(rows.device))

    def loss_sum(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The summed cross entropy, without gradient."""
        return cross_entropy_sum(rows, self.weight, self.bias, targets, autocast_dtype(rows.device))

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """``[N, V]``."""
        return F.linear(rows, self.weight, self.bias).log_softmax(1)


class AdaptiveSoftmax(nn.Module):
    """The adaptive softmax of Grave et al. 2016 (arXiv 1609.04309), as torch has it, over words sorted by frequency."""

    def __init__(self, vocabulary_size: int, features: int, cutoffs: Sequence[int]) -> None:
        """``cutoffs`` part the words, and must be below V; `usable_cutoffs` sees to that."""
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(features, vocabulary_size, list(cutoffs))

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of ``rows [N, E]`` in nats; ``targets [N]``."""
        loss: Tensor = self.adaptive(rows, targets).loss
        return loss

    def loss_sum(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The summed cross entropy."""
        found: Tensor = self.adaptive(rows, targets).output
        return -found.sum()

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """``[N, V]``."""
        return self.adaptive.log_prob(rows)


def usable_cutoffs(cutoffs: Sequence[int], vocabulary_size: int) -> list[int]:
    """The cutoffs that lie within a vocabulary.

    Raises:
        UserError: They do not increase, or none is left.
    """
    shown = " ".join(map(str, cutoffs))
    if any(second <= first for first, second in itertools.pairwise((0, *cutoffs))):
        raise UserError(f"--cutoffs must increase, from 1 or more, but they are {shown or 'none'}")
    found = [cutoff for cutoff in cutoffs if cutoff < vocabulary_size]
    if not found:
        advice = f"give --cutoffs below {vocabulary_size}, or leave --adaptivesoftmax out"
        raise UserError(
            f"--cutoffs {shown or '(none)'}: no word lies beyond, the vocabulary has {vocabulary_size}; {advice}"
        )
    return found
