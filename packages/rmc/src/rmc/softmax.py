"""What turns a model's outputs into probabilities of words: a softmax over all of them, or an adaptive one.

Shapes: N rows (time steps times batch), E features, V vocabulary.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rnncore.device import autocast_dtype
from rnncore.errors import UserError
from rnncore.loss import cross_entropy_sum, filled, linear_cross_entropy
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
    """The adaptive softmax of Grave et al. 2016 (arXiv 1609.04309), over words sorted by frequency.

    The parameters are those of torch's ``AdaptiveLogSoftmaxWithLoss``: a head over the most frequent words and one
    class for each tail of others, and for each tail a product with few features and one with its words. The loss is
    made of ordinary ones: the head's over all rows, and each tail's over the rows whose word lies in it.
    """

    def __init__(self, vocabulary_size: int, features: int, cutoffs: Sequence[int]) -> None:
        """``cutoffs`` part the words, and must be below V; `usable_cutoffs` sees to that."""
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(features, vocabulary_size, list(cutoffs))

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of ``rows [N, E]`` in nats; ``targets [N]``.

        A tail without targets has no gradient. On a GPU the host waits once, to learn how many rows each tail has.
        """
        dtype = autocast_dtype(rows.device)
        parts = [
            linear_cross_entropy(part.rows, part.weight, part.bias, part.targets, dtype) * len(part.targets)
            for part in self._parts(rows, targets)
        ]
        return torch.stack(parts).sum() / len(targets)

    @torch.no_grad()
    def loss_sum(self, rows: Tensor, targets: Tensor) -> Tensor:
        """The summed cross entropy, without gradient."""
        dtype = autocast_dtype(rows.device)
        parts = [
            cross_entropy_sum(part.rows, part.weight, part.bias, part.targets, dtype)
            for part in self._parts(rows, targets)
        ]
        return torch.stack(parts).sum()

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """``[N, V]``."""
        return self.adaptive.log_prob(rows)

    def _parts(self, rows: Tensor, targets: Tensor) -> list["_Part"]:
        """The softmaxes whose losses add up to the rows': the head, and the tails that have any."""
        head, first = self.adaptive.head, self.adaptive.shortlist_size
        starts = self.adaptive.cutoffs[:-1]  # the last one is V
        tail = torch.stack([targets >= start for start in starts]).sum(0)  # 0 for a target in the head
        counts = tail.bincount(minlength=len(starts) + 1).tolist()
        members_of = torch.split(tail.argsort(stable=True), counts)[1:]
        found = [_Part(rows, head.weight, head.bias, torch.where(tail > 0, first - 1 + tail, targets))]
        for number, (start, members) in enumerate(zip(starts, members_of, strict=True)):
            if len(members):
                several = rows[filled(members, autocast_dtype(rows.device))]
                narrow = F.linear(several, self._tail_weight(number, 0))[: len(members)].to(rows.dtype)
                found.append(_Part(narrow, self._tail_weight(number, 1), None, targets[members] - start))
        return found

    def _tail_weight(self, number: int, layer: int) -> nn.Parameter:
        return self.adaptive.get_parameter(f"tail.{number}.{layer}.weight")


class _Part(NamedTuple):
    """A linear decoder, what it decodes and the words that it should give."""

    rows: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor


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
