"""Batch columns parted between processes: of a text ``[T, B]``, and of the recurrent state that belongs to it.

A state is a tensor, None, or tuples and lists of these, nested. Which of a tensor's dimensions is the batch is learned
from a model's ``initial_state(batch_size)``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Makes the state before a text, of so many columns.
InitialState = Callable[[int], Any]


def share(total: int, rank: int, size: int) -> slice:
    """The columns of one of ``size`` processes: neighbours, as many as the others have, or one more."""
    return slice(total * rank // size, total * (rank + 1) // size)


def part_of_state(state: Any, initial_state: InitialState, columns: slice) -> Any:
    """Some columns of a state."""

    def cut(one: Tensor, two: Tensor, whole: Tensor) -> Tensor:
        return whole.narrow(_batch(one, two), columns.start, columns.stop - columns.start).contiguous()

    return _mapped(cut, initial_state(1), initial_state(2), state)


def joined_state(parts: Sequence[Any], initial_state: InitialState) -> Any:
    """The state whose parts, in order, these are."""

    def join(one: Tensor, two: Tensor, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, _batch(one, two))

    return _mapped(join, initial_state(1), initial_state(2), *parts)


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state, in a fixed order."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [tensor for part in state for tensor in tensors_of(part)]
    return [state]


def _batch(one: Tensor, two: Tensor) -> int:
    """The dimension of the batch, from states of one column and of two."""
    return next(k for k in range(one.dim()) if one.shape[k] != two.shape[k])


def _mapped(function: Callable[..., Tensor], *states: Any) -> Any:
    """``function`` of the tensors in the same place of each state, in a state nested alike."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, (tuple, list)):
        make = getattr(first, "_make", type(first))  # a named tuple keeps its type
        return make(_mapped(function, *parts) for parts in zip(*states, strict=True))
    return function(*states)
