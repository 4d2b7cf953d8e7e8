"""Choosing so many elements of large tensors, exactly: the smallest ones, or any ones by lot.

Sorting or permuting ten million weights takes seconds; these take a few passes over them. All functions give the same
result for the same generator state, on every device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_SMALL = 2**16
_SAMPLE = 2**16


def kth_smallest(values: Sequence[Tensor], k: int) -> Tensor:
    """The ``k``-th smallest (from 1) of all elements of ``values`` together, a scalar tensor.

    Two elements of a sample enclose it; only what lies between them is sorted. Elements must not be NaN.
    """
    flat = [value.flatten() for value in values]
    total = sum(value.numel() for value in flat)
    if total <= 2 * _SMALL:
        return torch.cat(flat).kthvalue(k).values
    stride = (total // _SAMPLE) | 1  # odd, so that it does not fall into step with rows
    sample = torch.cat([value[::stride] for value in flat]).sort().values
    share = k / total
    margin = 4 * math.sqrt(len(sample) * share * (1 - share)) + 2
    first, last = math.floor(share * len(sample) - margin), math.ceil(share * len(sample) + margin)
    low = sample[first] if first >= 0 else torch.full_like(sample[0], -math.inf)
    high = sample[last] if last < len(sample) else torch.full_like(sample[0], math.inf)
    below = sum(count(value < low) for value in flat)
    if low == high and below < k <= below + sum(count(value == low) for value in flat):
        return low  # of very many: the dead are all 0
    between = torch.cat([value[(value >= low).logical_and_(value <= high)] for value in flat])
    if below < k <= below + len(between):
        return between.kthvalue(k - below).values
    return torch.cat(flat).kthvalue(k).values  # the sample misled


def random_subset(eligible: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Exactly ``number`` of the true elements of ``eligible``, each set of so many as likely as any other.

    Each is first drawn by itself with about the right probability; then the few too many or too few are drawn from
    those. Given their number, both draws are uniform, so their result is.

    Args:
        eligible: bool, any shape.
        number: Not above the number of true elements.
        generator: On the CPU.

    Returns:
        bool, of the same shape.
    """
    flat = eligible.reshape(-1)
    available = count(flat)
    if number > available:
        raise ValueError(f"there are {available} elements to choose from, not {number}")
    if flat.numel() <= _SMALL:
        chosen = torch.zeros_like(flat)
        chosen[_few(flat, number, available, generator)] = True
        return chosen.view(eligible.shape)
    cutoff = min(round(2**16 * number / max(available, 1)), 2**16 - 1) - 2**15
    chosen = (_noise(flat.numel(), generator).to(flat.device) < cutoff).logical_and_(flat)
    have = count(chosen)
    if have < number:
        free = flat.logical_xor(chosen)
        chosen[_few(free, number - have, available - have, generator)] = True
    elif have > number:
        chosen[_few(chosen, have - number, have, generator)] = False
    return chosen.view(eligible.shape)


def count(flags: Tensor) -> int:
    """How many elements are true or not 0."""
    if flags.device.type == "cpu" and flags.dtype == torch.bool:
        return int(np.count_nonzero(flags.numpy()))  # many times as fast as torch's
    return int(torch.count_nonzero(flags))


def _noise(number: int, generator: torch.Generator) -> Tensor:
    """Uniform int16. Four are cut from each number that is drawn, since drawing takes the time."""
    wide = torch.empty(number // 4 + 1, dtype=torch.int64)
    return wide.random_(-(2**63), None, generator=generator).view(torch.int16)[:number]


def _few(eligible: Tensor, number: int, available: int, generator: torch.Generator) -> Tensor:
    """Positions of ``number`` of the ``available`` true elements of a flat tensor, by lot."""
    size = eligible.numel()
    if size <= _SMALL or 4 * number > available or 64 * available < size:
        picks = torch.randperm(available, generator=generator)[:number]
        return eligible.nonzero().flatten()[picks.to(eligible.device)]
    found = torch.empty(0, dtype=torch.int64, device=eligible.device)
    while len(found) < number:
        tries = 2 * (number - len(found)) * size // available + 16
        drawn = torch.randint(size, (tries,), generator=generator).to(eligible.device)
        found = torch.unique(torch.cat([found, drawn[eligible[drawn]]]))
    return found[torch.randperm(len(found), generator=generator)[:number].to(found.device)]
