"""Softmax cross entropy in two steps over a vocabulary that is sorted by frequency: the head, then a tail.

The adaptive softmax of the AWD-LSTM code (Merity, Keskar, Socher 2018, arXiv 1803.08240, section 3; after Grave et al.
2016, arXiv 1609.04309), which shares the decoder's weight. Split points c_1 < ... < c_S part the words into a head
[0, c_1) and S tails, tail k being [c_k, c_{k+1}). Each tail has a tombstone, one more class of the head's softmax:

    p(w) = softmax_head(w)                            for a word of the head
    p(w) = softmax_head(tombstone_k) softmax_k(w)     for a word of tail k

So a tail's words are decoded only for the rows whose target lies in it.

Shapes: N rows (time steps times batch), E features, V vocabulary, S split points.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rnncore.loss import cross_entropy_and_gradient, cross_entropy_rows, linear_cross_entropy
from rnncore.opaque import opaque


def splits_for(vocabulary_size: int) -> tuple[int, ...]:
    """The split points of the AWD-LSTM code: none up to 75,000 words, others above that and above 500,000.

    A point that is not below ``vocabulary_size`` would begin a tail without words and is left out.
    """
    if vocabulary_size > 500_000:
        return 4200, 35_000, 180_000
    if vocabulary_size > 75_000:
        return tuple(split for split in (2800, 20_000, 76_000) if split < vocabulary_size)
    return ()


class SplitCrossEntropy(nn.Module):
    """The cross entropy described above, given the decoder's weight and bias; without splits the plain softmax.

    ``tail_vectors [S, E]`` and ``tail_bias [S]`` decode the tombstones, that of tail k (from 1) by row -k as in the
    AWD-LSTM code. They start at zero; without splits they are None.
    """

    tail_vectors: nn.Parameter | None
    tail_bias: nn.Parameter | None

    def __init__(self, embedding_size: int, splits: Sequence[int] = ()) -> None:
        """``ValueError`` if ``splits`` do not increase from 1 or more."""
        super().__init__()
        self.splits = tuple(splits)
        if any(last <= first for first, last in itertools.pairwise((0, *self.splits))):
            raise ValueError(f"splits must be positive and increase, but they are {list(self.splits)}")
        size = len(self.splits)
        self.tail_vectors = nn.Parameter(torch.zeros(size, embedding_size)) if size else None
        self.tail_bias = nn.Parameter(torch.zeros(size)) if size else None

    @opaque
    def loss(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The mean over rows of -log p(target), in nats, with gradients by ``hidden`` and all parameters.

        They are taken with the loss and kept until ``backward``, as by `rnncore.loss.linear_cross_entropy`. On a GPU
        the host waits once, to learn how many rows each tail has.

        Args:
            hidden: ``[N, E]``.
            weight: ``[V, E]``.
            bias: ``[V]``.
            targets: int64 ``[N]``.
            dtype: What products are computed in (bfloat16 under mixed precision); ``hidden``'s own when absent.

        Raises:
            ValueError: A split point is not below V.
        """
        tail_vectors, tail_bias = self.tail_vectors, self.tail_bias
        if tail_vectors is None or tail_bias is None:
            return linear_cross_entropy(hidden, weight, bias, targets, dtype)
        inputs = hidden, weight, bias, tail_vectors, tail_bias
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)):
            return self.loss_sum(hidden, weight, bias, targets, dtype) / len(targets)
        self._check(weight)
        loss: Tensor = _SplitCrossEntropy.apply(*inputs, targets, self.splits, dtype)  # type: ignore[no-untyped-call]
        return loss

    @opaque
    @torch.no_grad()
    def loss_rows(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """-log p(target) of each row, ``[N]``, without gradient. Arguments and errors as of `loss`."""
        if self.tail_vectors is None or self.tail_bias is None:
            return cross_entropy_rows(hidden, weight, bias, targets, dtype)
        self._check(weight)
        head_weight, head_bias = _head(weight, bias, self.tail_vectors, self.tail_bias, self.splits[0])
        head_targets, tails = _grouped(targets, self.splits, len(weight))
        losses = cross_entropy_rows(hidden, head_weight, head_bias, head_targets, dtype)
        for rows, words, within in tails:
            losses[rows] += cross_entropy_rows(hidden[rows], weight[words], bias[words], within, dtype)
        return losses

    def loss_sum(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The sum of `loss_rows`."""
        return self.loss_rows(hidden, weight, bias, targets, dtype).sum()

    @torch.no_grad()
    def log_probabilities(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """log p of every word after each row, in nats: ``[N, V]``, no gradient. Arguments and errors as of `loss`.

        For generation and the cache pointer: every tail is decoded for every row.
        """
        logits = F.linear(hidden, weight, bias)
        if self.tail_vectors is None or self.tail_bias is None:
            return logits.log_softmax(1)
        self._check(weight)
        first = self.splits[0]
        tombstones = F.linear(hidden, self.tail_vectors, self.tail_bias)
        in_head = torch.cat([logits[:, :first], tombstones], 1).log_softmax(1)
        logits[:, :first] = in_head[:, :first]
        for tail, words in enumerate(_tail_words(self.splits, len(weight)), start=1):
            logits[:, words] += (in_head[:, -tail] - logits[:, words].logsumexp(1))[:, None]
        return logits

    def extra_repr(self) -> str:
        return f"splits={list(self.splits)}"

    def _check(self, weight: Tensor) -> None:
        if self.splits[-1] >= len(weight):
            raise ValueError(f"splits must be below the vocabulary of {len(weight)}, but they are {list(self.splits)}")


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        tail_vectors: Tensor,
        tail_bias: Tensor,
        targets: Tensor,
        splits: tuple[int, ...],
        dtype: torch.dtype | None,
    ) -> Tensor:
        first, scale = splits[0], 1 / len(targets)
        head_weight, head_bias = _head(weight, bias, tail_vectors, tail_bias, first)
        head_targets, tails = _grouped(targets, splits, len(weight))
        grad_head, grad_head_bias = torch.zeros_like(head_weight), torch.zeros_like(head_bias)
        total, grad_hidden = cross_entropy_and_gradient(
            hidden, head_weight, head_bias, head_targets, scale, grad_head, grad_head_bias, dtype
        )
        # One gradient of the whole weight, filled part by part: by slices, autograd would make one for each.
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_weight[:first], grad_bias[:first] = grad_head[:first], grad_head_bias[:first]
        for rows, words, within in tails:
            part = hidden[rows], weight[words], bias[words], within, scale, grad_weight[words], grad_bias[words]
            tail_total, grad_rows = cross_entropy_and_gradient(*part, dtype)
            total += tail_total
            grad_hidden.index_add_(0, rows, grad_rows)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_head[first:], grad_head_bias[first:])
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * grads[0] for saved in ctx.saved_tensors), None, None, None


class _Tail(NamedTuple):
    """The rows whose target lies in a tail, the words of the tail, and those targets counted from its first word."""

    rows: Tensor
    words: slice
    targets: Tensor


def _head(weight: Tensor, bias: Tensor, tail_vectors: Tensor, tail_bias: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The weight and the bias of the head's classes: its words, then the tombstones."""
    return torch.cat([weight[:first], tail_vectors]), torch.cat([bias[:first], tail_bias])


def _tail_words(splits: tuple[int, ...], vocabulary_size: int) -> list[slice]:
    return [slice(first, last) for first, last in itertools.pairwise((*splits, vocabulary_size))]


def _grouped(targets: Tensor, splits: tuple[int, ...], vocabulary_size: int) -> tuple[Tensor, list[_Tail]]:
    """The targets as classes of the head, and the tails that have any rows."""
    reached = torch.stack([targets >= split for split in splits])
    tail = reached.sum(0)  # 0 for a target in the head
    head_targets = torch.where(tail > 0, splits[0] + len(splits) - tail, targets)
    order = tail.argsort(stable=True)
    starts = [len(targets) - rows for rows in reached.sum(1).tolist()]
    tails = []
    for (start, end), words in zip(
        itertools.pairwise((*starts, len(targets))), _tail_words(splits, vocabulary_size), strict=True
    ):
        if end > start:
            rows = order[start:end]
            tails.append(_Tail(rows, words, targets[rows] - words.start))
    return head_targets, tails
