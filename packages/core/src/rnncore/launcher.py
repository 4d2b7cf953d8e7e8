"""What a launcher such as ``torchrun`` tells the processes that it starts; torch itself is not needed to read it."""

import os
from typing import NamedTuple

from rnncore.errors import UserError

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class Place(NamedTuple):
    """One process among those of a run: its number among all, its number on this machine, and how many all are."""

    rank: int
    local_rank: int
    size: int


def place() -> Place:
    """The place of this process by the variables of its environment; without a launcher it is alone.

    Raises:
        UserError: The variables are not numbers that make a place.
    """
    words = [os.environ.get(name) for name in VARIABLES]
    if None in words:
        return Place(0, 0, 1)
    try:
        found = Place(*(int(word) for word in words if word is not None))
    except ValueError:
        found = Place(-1, -1, 0)
    if not (0 <= found.rank < found.size and found.local_rank >= 0):
        shown = " ".join(f"{name}={word}" for name, word in zip(VARIABLES, words, strict=True))
        raise UserError(f"{shown} is no place among processes; start them with torchrun, or unset these variables")
    return found


def require_one_process(command: str) -> None:
    """Raises UserError where a launcher has started several: they would overwrite each other's run."""
    if place().size > 1:
        raise UserError(f"{command} runs as one process; start it without torchrun")
