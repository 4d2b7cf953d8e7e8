"""The information buffer: where the bits go that multiplication by a forget gate would lose.

Shapes: B batch, G units of one group.
"""

import functools
import math

import torch
from torch import Tensor

from revrnn.fixed_point import FORGET_BITS

#: A word must stay below this before a multiplication, which appends 10 bits to it.
WORD_LIMIT = 2 ** (63 - FORGET_BITS)


class InformationBuffer:
    """A stack of int64 words for each unit, filled forward in time and emptied in reverse.

    All units begin a new word together. On CPU a word ends when some unit's is full. Looking for that would make a
    CUDA device wait for the host at every step, so there a word ends after as many multiplications as fit in the
    worst case that ``max_forget`` allows: the buffer is larger but nothing waits.
    """

    def __init__(self, batch_size: int, units: int, *, max_forget: float, device: torch.device | str = "cpu") -> None:
        """An empty buffer for ``[batch_size, units]`` numbers whose forget gates are at least ``1 - max_forget``."""
        self._empty: list[Tensor] = list(torch.zeros(1, batch_size, units, dtype=torch.int64, device=device))
        self.word = self._empty.pop()
        self.fullest = 0
        self._full: list[Tensor] = []
        self._began: list[bool] = []
        self._uses = 0
        self._scheduled = uses_per_word(max_forget) if self.word.device.type != "cpu" else None

    def make_room(self) -> None:
        """Begins a new word if this one cannot take another multiplication; to be called before each."""
        began = self._uses == self._scheduled if self._scheduled else self.fullest >= WORD_LIMIT
        if began:
            self._full.append(self.word)
            if not self._empty:
                # Ever larger blocks: single words, allocated between large tensors, would scatter the heap.
                self._empty = list(self.word.new_zeros(len(self._full), *self.word.shape))
            self.word, self.fullest, self._uses = self._empty.pop(), 0, 0
        self._began.append(began)
        self._uses += 1

    def took(self, fullest: int | None = None) -> None:
        """Notes the largest word after a multiplication, which decides when the next begins; looked up if absent."""
        if not self._scheduled:
            self.fullest = (int(self.word.max()) if self.word.numel() else 0) if fullest is None else fullest

    def give_back(self) -> None:
        """Returns to the previous word if the multiplication that was just undone began this one."""
        self._uses -= 1
        if self._began.pop():
            self._empty.append(self.word)  # what it took has been given back: it holds zeros again
            self.word, self.fullest, self._uses = self._full.pop(), WORD_LIMIT, self._scheduled or 0

    @property
    def used_bits(self) -> int:
        """Bits of memory that the buffer holds now: its words, and a flag for each multiplication."""
        return 64 * self.word.numel() * (len(self._full) + 1) + 8 * (len(self._began) // 8 + 1)


@functools.cache
def uses_per_word(max_forget: float) -> int:
    """How many multiplications an int64 word surely takes when every gate is at least ``1 - max_forget``."""
    smallest = max(1, math.floor((1 - max_forget) * 2**FORGET_BITS))
    if smallest >= 2**FORGET_BITS:
        return 2**62  # nothing is ever forgotten
    word = uses = 0
    while word < WORD_LIMIT:
        word = ((word + 1 << FORGET_BITS) - 1) // smallest
        uses += 1
    return uses


def make_room(buffer: InformationBuffer | None) -> Tensor | None:
    """The word to multiply into, of a buffer if there is one."""
    if buffer is None:
        return None
    buffer.make_room()
    return buffer.word


def took(buffer: InformationBuffer | None, fullest: int | None) -> None:
    """`InformationBuffer.took`, of a buffer if there is one."""
    if buffer is not None:
        buffer.took(fullest)
