"""What a chunk of time steps leaves behind for its gradient, and the gradient's products.

Shapes: K time steps of the chunk, B batch, G units of one group.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Trace(NamedTuple):
    """The values of one layer over a chunk: rebuilt by reversal, or stored by the ordinary forward pass.

    ``groups``: the groups of the state, each ``[K + 1, B, G]``, the state before the chunk first; ``gates``: what the
    kernel keeps of its gates, ``[K, B, .]`` tensors; ``active``: bool ``[K, B]``, or None when no sequence ends.
    """

    groups: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]
    active: Tensor | None


class GateGradient(NamedTuple):
    """The gradient of some gates before their activation, ``[K, B, N]``.

    ``rows``: which N rows of the weights they come from; ``operand``: what ``weight_hh`` multiplied, ``[K, B, G]``.
    """

    rows: slice
    gradient: Tensor
    operand: Tensor


def forgotten_bits(gates: Sequence[Tensor], max_forget: float, active: Tensor | None) -> Tensor:
    """The sum of -log2(z) over forget gates z = m s + (1 - m), given as the sigmoids s ``[K, B, .]``.

    No buffer can avoid these bits. Rows that are not ``active`` forget nothing.
    """
    sums = [-torch.log2(s * max_forget + (1 - max_forget)).sum(dim=2, dtype=torch.float64) for s in gates]
    return torch.stack([(each if active is None else each * active).sum() for each in sums]).sum()


def save_slices(into: Tensor, state: Sequence[Tensor], slices: tuple[int, int]) -> None:
    """Copies the first ``slices[a]`` units of the hidden groups a = 0, 1 of a state to ``into [B, S]``."""
    into[:, : slices[0]] = state[0][:, : slices[0]]
    into[:, slices[0] :] = state[1][:, : slices[1]]


def restore_slice(saved: Tensor, state: Sequence[Tensor], slices: tuple[int, int], a: int) -> None:
    """Puts back into group ``a`` what `save_slices` took of it."""
    first = a * slices[0]
    state[a][:, : slices[a]] = saved[:, first : first + slices[a]]


def rows_at(active: Tensor | None, t: int) -> Tensor | None:
    """The rows that are active at step t; None when all are, always."""
    return None if active is None else active[t]
