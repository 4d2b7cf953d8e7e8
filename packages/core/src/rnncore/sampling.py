"""Drawing the next token from logits: temperature, top-k, nucleus.

Legend: V vocabulary size, ``...`` any batch shape.
"""

import math

import torch
from torch import Tensor

from rnncore.errors import UserError


def sample(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Tensor:
    """Draw one token id per row.

    The steps, in this order:

    1. ``temperature`` 0 takes the most probable id (the smallest of equals); nothing is drawn and nothing filtered.
    2. The logits are divided by ``temperature``.
    3. ``top_k`` keeps the k ids with the largest logits (of equals, the smaller ids); None or k >= V keeps all.
    4. ``top_p`` (nucleus; Holtzman et al. 2020, arXiv 1904.09751, section 3.1) keeps the smallest number of most
       probable ids whose probabilities, renormalised after step 3, sum to at least p: always one at least. None and 1
       keep all.
    5. One id is drawn from the kept ids with their renormalised probabilities.

    Args:
        logits: float ``[..., V]``; -inf rules an id out.
        temperature: at least 0, finite.
        top_k: at least 1, or None.
        top_p: above 0 and at most 1, or None.
        generator: on the device of the logits.

    Returns:
        int64 ``[...]``: the ids.

    Raises:
        UserError: a setting out of its range; logits that hold NaN or +inf, or rule out every id.
    """
    _check_settings(temperature, top_k, top_p)
    top = logits.amax(dim=-1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        raise UserError("cannot sample: the logits hold NaN or infinity, so the model's weights are damaged")
    if temperature == 0:
        return logits.argmax(dim=-1)
    # In float64, and relative to the largest logit, no temperature can overflow.
    scaled = (logits.double() - top.double()) / temperature
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[..., top_k:] = -math.inf
    probabilities = ordered.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    drawn = torch.multinomial(rows, 1, generator=generator).view(*probabilities.shape[:-1], 1)
    return ids.gather(-1, drawn).squeeze(-1)


def _check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature must be 0 (the most probable token) or above, and finite, not {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"--top_k must be at least 1, not {top_k}; leave it out to keep every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"--top_p must lie above 0 and at most at 1, not {top_p}")
