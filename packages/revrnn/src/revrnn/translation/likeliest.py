"""The likeliest words after each hypothesis, without ever holding the logits of all.

Shapes: N rows, H features, V vocabulary, K words of each row.
"""

from pathlib import Path

import torch
from rnncore import native
from rnncore.opaque import opaque
from torch import Tensor
from torch.nn import functional as F

#: The score of what must not be chosen.
NEVER = -1e20
#: Logits of a block: few enough for a processor's cache, where each is read several times.
BLOCK = 2**21


@opaque
@torch.no_grad()
def likeliest(
    features: Tensor, weight: Tensor, bias: Tensor, count: int, barred: int | None = None
) -> tuple[Tensor, Tensor]:
    """The largest of log softmax(features weight^T + bias) in each row, falling, and which words they are.

    Args:
        features: ``[N, H]``.
        weight: ``[V, H]``.
        bias: ``[V]``.
        count: K, at most V.
        barred: A word whose score is `NEVER`, though it has its part in the softmax.

    Returns:
        Log-probabilities and ids, ``[N, K]``.
    """
    blocks = -(-len(features) * len(weight) // BLOCK) if features.device.type == "cpu" else 1
    found = [_of_logits(F.linear(rows, weight), bias, count, barred) for rows in features.chunk(max(1, blocks))]
    values, words = zip(*found, strict=True)
    return torch.cat(values), torch.cat(words)


def _of_logits(logits: Tensor, bias: Tensor, count: int, barred: int | None) -> tuple[Tensor, Tensor]:
    if _native(logits):
        pair: tuple[Tensor, Tensor] = torch.ops.revrnn.likeliest(
            logits, bias, count, -1 if barred is None else barred, NEVER
        )
        return pair
    logits = logits.to(bias.dtype).add_(bias)
    total = logits.logsumexp(1, keepdim=True)
    if barred is not None:
        logits[:, barred] = NEVER
    values, words = logits.topk(count, dim=1)
    return values - total, words


def _native(logits: Tensor) -> bool:
    """Whether there is native code for such logits; the first call may compile it."""
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return False
    return native.load(Path(__file__).parents[1] / "native" / "likeliest.cpp")
