"""The mixture of softmaxes (Yang et al., ICLR 2018, arXiv 1711.03953, equation 4) and its loss, in blocks of rows.

``p(v) = sum_k prior_k softmax(W l_k + b)_v``. The logits of all experts, K times those of an ordinary decoder, never
exist at once: with the loss of a block its gradients are taken, and its logits are turned into them in place.

Shapes: N rows (time steps times batch), K experts, E features, V vocabulary. ``latent`` is ``[N, K, E]``,
``log_prior`` ``[N, K]``, ``weight`` ``[V, E]``, ``bias`` ``[V]``, ``targets`` int64 ``[N]``. ``epsilon`` is added to a
probability before its logarithm. ``dtype`` is what the product is computed in (bfloat16 under mixed precision).
"""

from collections.abc import Iterator
from typing import Any

import torch
from rnncore.opaque import opaque
from torch import Tensor
from torch.nn import functional as F

#: Logits of a block, 64 MiB in float32.
BLOCK = 2**24


@torch.no_grad()
def mixture_loss_rows(
    latent: Tensor,
    log_prior: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """-log p(target) of each row, in nats: ``[N]``, no gradient."""
    losses = latent.new_empty(len(latent))
    for rows in _blocks(latent, weight):
        logits = _logits(latent[rows], weight, bias, dtype)
        losses[rows] = _negative_log(_at_target(logits, log_prior[rows], targets[rows]).logsumexp(1), epsilon)
    return losses


@torch.no_grad()
def mixture_log_probabilities(
    latent: Tensor,
    log_prior: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """log p of every word: ``[N, V]``, no gradient."""
    result = latent.new_empty(len(latent), len(weight))
    for rows in _blocks(latent, weight):
        parts = _logits(latent[rows], weight, bias, dtype).log_softmax(2).add_(log_prior[rows, :, None])
        result[rows] = _negative_log(parts.logsumexp(1), epsilon).neg_()
    return result


@opaque
def mixture_loss(
    latent: Tensor,
    log_prior: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The mean of `mixture_loss_rows`, with gradients by all but the targets.

    The gradients are taken with the loss and kept until ``backward``.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in (latent, log_prior, weight, bias))):
        return mixture_loss_rows(latent, log_prior, weight, bias, targets, epsilon=epsilon, dtype=dtype).mean()
    loss: Tensor = _Loss.apply(latent, log_prior, weight, bias, targets, epsilon, dtype)  # type: ignore[no-untyped-call]
    return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        latent: Tensor,
        log_prior: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        epsilon: float,
        dtype: torch.dtype | None,
    ) -> Tensor:
        total, scale = latent.new_zeros(()), 1 / len(targets)
        grads = [torch.empty_like(latent), torch.empty_like(log_prior), *map(torch.zeros_like, (weight, bias))]
        for rows in _blocks(latent, weight):
            total += _add_block(latent[rows], log_prior[rows], weight, bias, targets[rows], epsilon, dtype, grads, rows)
        ctx.save_for_backward(*(grad.mul_(scale) for grad in grads))
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * grads[0] for saved in ctx.saved_tensors), None, None, None


def _add_block(
    latent: Tensor,
    log_prior: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    epsilon: float,
    dtype: torch.dtype | None,
    grads: list[Tensor],
    rows: slice,
) -> Tensor:
    """The sum of a block's losses; puts its gradients into ``grads``, those by latent, log_prior, weight and bias."""
    logits = _logits(latent, weight, bias, dtype)
    parts = _at_target(logits, log_prior, targets)
    log_p = parts.logsumexp(1)
    losses = _negative_log(log_p, epsilon)
    # How much of p + epsilon each expert gives: what its cross entropy counts in the gradient of the loss.
    shares = torch.exp(parts + losses[:, None])
    gradient = torch.softmax(logits, 2, out=logits) if logits.is_contiguous() else logits.softmax(2)
    gradient *= shares[:, :, None]
    gradient.scatter_add_(2, targets[:, None, None].expand(-1, shares.shape[1], 1), -shares[:, :, None])
    flat, narrow = gradient.flatten(0, 1), dtype or latent.dtype
    grads[0][rows] = (flat.to(narrow) @ weight.to(narrow)).view_as(latent).to(latent.dtype)
    grads[1][rows] = -shares
    if narrow == weight.dtype:
        grads[2].addmm_(flat.t(), latent.flatten(0, 1))
    else:
        grads[2] += flat.to(narrow).t() @ latent.flatten(0, 1).to(narrow)
    grads[3] += flat.sum(0)
    return losses.sum()


def _blocks(latent: Tensor, weight: Tensor) -> Iterator[slice]:
    """Blocks of rows of about `BLOCK` logits each, one row at least."""
    rows, per_row = len(latent), latent.shape[1] * len(weight)
    count = min(rows, -(-rows * per_row // BLOCK))
    for k in range(count):
        yield slice(rows * k // count, rows * (k + 1) // count)


def _logits(latent: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``[n, K, V]``."""
    if dtype is None:
        return F.linear(latent, weight, bias)
    return F.linear(latent.to(dtype), weight.to(dtype)).to(weight.dtype).add_(bias)


def _at_target(logits: Tensor, log_prior: Tensor, targets: Tensor) -> Tensor:
    """The logarithm of what each expert adds to the target's probability, ``[n, K]``."""
    picked = logits.gather(2, targets[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
    return log_prior + picked - logits.logsumexp(2)


def _negative_log(log_p: Tensor, epsilon: float) -> Tensor:
    """-log(p + epsilon)."""
    return -log_p if epsilon == 0 else -torch.log(log_p.exp().add_(epsilon))
