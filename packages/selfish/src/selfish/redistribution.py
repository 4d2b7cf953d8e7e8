"""How many weights grow where: shares of parameters or gates, and whole numbers in proportion to them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from selfish.selection import count


def mean_magnitude(values: Tensor, mask: Tensor) -> float:
    """The mean magnitude of ``values`` where ``mask`` is true; 0 where it is nowhere true.

    Of weights it is the share of ``magnitude`` and of cell-gate redistribution, of momenta that of ``momentum``.
    """
    living = count(mask)
    return float(torch.linalg.vector_norm(values * mask, 1, dtype=torch.float64)) / living if living else 0.0


def large_weights(weight: Tensor, threshold: float) -> float:
    """How many weights have a magnitude above ``threshold``: the share of ``nonzeros`` redistribution."""
    return float(count(weight.abs() > threshold))


def spread(shares: Sequence[float], total: float, room: Sequence[float]) -> list[float]:
    """Amounts in proportion to ``shares``, none above its ``room``; what does not fit goes to the others.

    Shares that are not finite count as 0; if all are 0, they count as equal. The amounts add up to ``total``, or to
    all the room where that is less.
    """
    shares = [share if math.isfinite(share) else 0.0 for share in shares]
    amounts = [0.0] * len(shares)
    left = min(total, sum(room))
    open_places = {place for place, space in enumerate(room) if space > 0}
    while open_places and left > 1e-9 * max(total, 1.0):
        weight = sum(shares[place] for place in open_places)
        parts = {place: shares[place] / weight if weight else 1 / len(open_places) for place in open_places}
        full = {place for place in open_places if amounts[place] + left * parts[place] >= room[place]}
        if not full:
            for place in open_places:
                amounts[place] += left * parts[place]
            break
        for place in full:
            left -= room[place] - amounts[place]
            amounts[place] = room[place]
        open_places -= full
    return amounts


def apportion(shares: Sequence[float], total: int, room: Sequence[int]) -> list[int]:
    """`spread` in whole numbers that add up exactly: the largest remainders are rounded up."""
    amounts = spread(shares, total, room)
    whole = [math.floor(amount + 1e-9) for amount in amounts]
    order = sorted(range(len(whole)), key=lambda place: whole[place] - amounts[place])
    missing = min(total, sum(room)) - sum(whole)
    while missing > 0:
        for place in order:
            if missing and whole[place] < room[place]:
                whole[place] += 1
                missing -= 1
    return whole


def death_rate_of(rate: float, sparsity: float, share: float, parameters: int) -> float:
    """The death rate of one parameter: a nearly dense one with more than an equal share loses no more than it lacks.

    ``share``: of all shares, which add up to 1; ``parameters``: how many have one. From the original code, where a
    sparsity below 0.2 is nearly dense.
    """
    return min(sparsity, rate) if sparsity < 0.2 and share * parameters > 1 + 1e-9 else rate
