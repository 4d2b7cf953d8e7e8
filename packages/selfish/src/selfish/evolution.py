"""Which weights of a sparse network die and which grow: functions of tensors, without state.

A mask is a bool tensor of the weight's shape, true where the weight lives; the weights of all others are 0. Death
gives the survivors, growth gives a mask that holds the old one. A weight that dies and grows in the same update never
stopped living. Sources: Liu et al. 2021 (arXiv 2101.09048); Mocanu et al. 2018 (SET); Dettmers & Zettlemoyer 2019
(arXiv 1907.04840, momentum growth and redistribution); Evci et al. 2020 (arXiv 1911.11134, gradient growth).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfish.selection import count, kth_smallest, random_subset


def magnitude_death(weight: Tensor, mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Kills the ``number`` living weights that are nearest to 0; of equal ones, by lot."""
    return global_magnitude_death([weight], [mask], number, generator)[0]


def global_magnitude_death(
    weights: Sequence[Tensor], masks: Sequence[Tensor], number: int, generator: torch.Generator
) -> list[Tensor]:
    """Kills the ``number`` living weights of several parameters together that are nearest to 0.

    With all gates of a recurrent layer this is the removal of Liu et al.: gates with larger weights keep more of them.
    """
    if number == 0:
        return [mask.clone() for mask in masks]
    sizes = [weight.abs() for weight in weights]
    dead = sum(mask.numel() - count(mask) for mask in masks)
    least = kth_smallest(sizes, dead + number)  # the dead are 0, so they come first
    survivors = [(size > least).logical_and_(mask) for size, mask in zip(sizes, masks, strict=True)]
    spared = sum(map(count, masks)) - number - sum(map(count, survivors))
    for size, mask, survivor in zip(sizes, masks, survivors, strict=True):
        if spared == 0:
            break
        ties = (size == least).logical_and_(mask)
        here = min(spared, count(ties))
        survivor.logical_or_(random_subset(ties, here, generator))
        spared -= here
    return survivors


def set_death(weight: Tensor, mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Kills ``number`` weights, half of them positive, half negative: those nearest to 0 on either side (SET).

    The odd one is positive; 0 counts as positive; where one side has too few, the other gives the rest.
    """
    negative = (weight < 0).logical_and_(mask)
    positive = mask.logical_xor(negative)
    above, below = count(positive), count(negative)
    from_below = min(max(number // 2, number - above), below)
    kept_above = _nearest_die(weight, positive, number - from_below, generator)
    return kept_above.logical_or_(_nearest_die(weight, negative, from_below, generator))


def _nearest_die(weight: Tensor, mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    return magnitude_death(weight * mask, mask, number, generator)


def threshold_death(weight: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Kills the weights whose magnitude is not above ``threshold``, however many they are."""
    return (weight.abs() > threshold).logical_and_(mask)


def random_growth(mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Grows exactly ``number`` of the dead weights, by lot."""
    return random_subset(mask.logical_not(), number, generator).logical_or_(mask)


def expected_growth(mask: Tensor, number: int, uniform: Tensor) -> Tensor:
    """Grows each dead weight whose draw in [0, 1) is below ``number`` over the number of dead: so many on average.

    This is the original code's growth; the density of a network drifts with it.
    """
    dead = mask.numel() - count(mask)
    return mask.logical_or(uniform < number / dead) if dead else mask.clone()


def strongest_growth(mask: Tensor, score: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Grows exactly the ``number`` dead weights whose ``score`` is largest in magnitude; of equal ones, by lot.

    The score is the gradient, or the momentum of the optimizer.
    """
    if number == 0:
        return mask.clone()
    size = score.abs()
    size.mul_(mask.logical_not()).sub_(mask.to(size.dtype))  # the living last, at -1
    least = kth_smallest([size], size.numel() - number + 1)
    grown = size > least
    missing = number - count(grown)
    if missing:
        grown.logical_or_(random_subset(size == least, missing, generator))
    return grown.logical_or_(mask)
