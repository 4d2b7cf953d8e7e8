"""Softmax cross entropy of logits that are at hand, and its gradient in their place; the gradient of cumax.

On CPU one native pass of the cross entropy reads a row of logits once and writes it once; without it torch's operators
pass over them seven times. Shapes: N rows, V logits of each.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rnncore import native


def cross_entropy(logits: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """-log softmax(logits + bias)[target] of each row, in nats: ``[N]``, of the bias's precision, no gradient.

    Args:
        logits: ``[N, V]``; of a bfloat16 row the softmax is taken in float32.
        bias: ``[V]``, in float32 for bfloat16 logits.
        targets: int64 ``[N]``.
    """
    if _native(logits):
        losses: Tensor = torch.ops.rnncore.cross_entropy(logits.contiguous(), bias, targets.contiguous())
        return losses
    return F.cross_entropy(_widened(logits, bias), targets, reduction="none")


def cross_entropy_gradient(
    logits: Tensor, bias: Tensor | None, targets: Tensor, grad_bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of each row ``[N]``, and the gradient of their sum by the logits, of the logits' type.

    ``logits``, contiguous, may become the gradient; ``scale`` times that by the bias is added to ``grad_bias [V]``.
    Where there are more logits than targets, the rows that are left have a gradient of zero.
    """
    rows, left = logits[: len(targets)], len(logits) - len(targets)
    if _native(logits):
        losses = torch.ops.rnncore.cross_entropy_gradient(rows, bias, targets.contiguous(), grad_bias, scale)
        logits[len(targets) :] = 0
        return losses, logits
    wide = _widened(rows, bias)
    at_target = torch.arange(len(wide), device=wide.device), targets
    (top, likeliest), picked = wide.max(1), wide[at_target]
    gradient = torch.softmax(wide, 1)
    # log sum exp, by the largest probability: that is at least 1/V, so its logarithm is exact where others are not.
    losses = (top - picked) - gradient.gather(1, likeliest[:, None]).squeeze(1).log()
    gradient[at_target] -= 1
    if grad_bias is not None:
        grad_bias.add_(gradient.sum(0), alpha=scale)
    return losses, F.pad(gradient.to(logits.dtype), (0, 0, 0, left))


def cumax_gradient(grad: Tensor, shares: Tensor) -> Tensor:
    """The gradient by the logits of cumax, the cumulative sum of a softmax (Shen et al. 2019, arXiv 1810.09536).

    Args:
        grad: By the cumulative sum, ``[N, V]``.
        shares: The softmax, ``[N, V]``.
    """
    later = grad.flip(1).cumsum(1).flip(1)
    return shares * (later - (shares * later).sum(1, keepdim=True))


def _widened(logits: Tensor, bias: Tensor | None) -> Tensor:
    wide = logits.float() if logits.dtype == torch.bfloat16 else logits
    return wide if bias is None else wide + bias


def _native(logits: Tensor) -> bool:
    """Whether there is native code for such logits; the first call may compile it."""
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    return native.load(Path(__file__).with_name("kernels") / "softmax.cpp")
