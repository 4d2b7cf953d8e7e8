"""The information buffer: when it begins a word, that it never overflows, that it gives everything back."""

import random

import pytest
import torch
from revrnn.buffer import WORD_LIMIT, InformationBuffer, uses_per_word
from revrnn.fixed_point import multiply, unmultiply
from torch import Tensor

MAX_FORGETS = [0.5, 0.75, 0.875, 0.96875, 1.0]


def scheduled(units: int, max_forget: float) -> InformationBuffer:
    """A buffer on CPU that begins words by schedule, as one on a CUDA device does."""
    buffer = InformationBuffer(1, units, max_forget=max_forget)
    buffer._scheduled = uses_per_word(max_forget)
    return buffer


def push(buffer: InformationBuffer, h: Tensor, z: Tensor) -> Tensor:
    buffer.make_room()
    product, word = multiply(h, z, buffer.word)
    assert word is not None
    buffer.word = word
    buffer.took()
    return product.to(torch.int32)


def pop(buffer: InformationBuffer, h: Tensor, z: Tensor) -> Tensor:
    units, buffer.word = unmultiply(h.to(torch.int64), z, buffer.word)
    buffer.give_back()
    return units


def draws(count: int, batch: int, units: int, smallest: int) -> list[tuple[Tensor, Tensor]]:
    """Units with random low bits, and gates that forget as much as they may half of the time."""
    generator = torch.Generator().manual_seed(smallest)
    h = torch.randint(-(2**31), 2**31 - 1, (count, batch, units), generator=generator).to(torch.int32)
    z = torch.randint(smallest, 1025, (count, batch, units), generator=generator)
    z[torch.rand(z.shape, generator=generator) < 0.5] = smallest
    return list(zip(h, z, strict=True))


@pytest.mark.parametrize("max_forget", MAX_FORGETS)
def test_a_new_word_when_and_only_when_one_is_full(max_forget: float) -> None:
    """Against Python's integers, which decide for themselves when some unit's word is full."""
    smallest = max(1, round((1 - max_forget) * 1024))
    buffer, words, filled = InformationBuffer(2, 3, max_forget=max_forget), [0] * 6, 0
    for uses, (h, z) in enumerate(draws(300, 2, 3, smallest), 1):
        if max(words) >= WORD_LIMIT:
            words, filled = [0] * 6, filled + 1
        push(buffer, h, z)
        pairs = zip(h.flatten().tolist(), z.flatten().tolist(), words, strict=True)
        words = [(word * 1024 + unit % 1024) // gate for unit, gate, word in pairs]
        assert max(words) < 2**63
        assert buffer.word.flatten().tolist() == words
        assert buffer.used_bits == 64 * 6 * (filled + 1) + 8 * (uses // 8 + 1)
    assert filled >= 2


@pytest.mark.parametrize("by_schedule", [False, True])
@pytest.mark.parametrize("max_forget", MAX_FORGETS)
def test_everything_comes_back(max_forget: float, by_schedule: bool) -> None:
    buffer = InformationBuffer(1, 3, max_forget=max_forget)
    if by_schedule:
        buffer = scheduled(3, max_forget)
    empty = buffer.used_bits
    steps = draws(300, 1, 3, max(1, round((1 - max_forget) * 1024)))
    products = [push(buffer, h, z) for h, z in steps]
    assert buffer.used_bits > 3 * empty
    for product, (h, z) in zip(reversed(products), reversed(steps), strict=True):
        assert torch.equal(pop(buffer, product, z), h)
    assert buffer.used_bits == empty
    assert not buffer.word.any()


def most_states(smallest: int, uses: int) -> int:
    """How many states a word can have after so many multiplications, at worst; exact."""
    states = 1
    for _ in range(uses):
        states = -(-1024 * states // smallest)
    return states


@pytest.mark.parametrize("max_forget", MAX_FORGETS)
def test_the_schedule_holds_in_the_worst_case(max_forget: float) -> None:
    """Smallest gates and low bits that are all ones leave the largest words; none may reach the limit before a use."""
    smallest = max(1, round((1 - max_forget) * 1024))
    buffer, word, uses = scheduled(1, max_forget), 0, 0
    h, z = torch.tensor([[-1]], dtype=torch.int32), torch.tensor([[smallest]])
    for _ in range(3 * uses_per_word(max_forget)):
        if uses == uses_per_word(max_forget):
            word, uses = 0, 0
        assert word < WORD_LIMIT
        push(buffer, h, z)
        word, uses = (word * 1024 + 1023) // smallest, uses + 1
        assert buffer.word.item() == word
    assert word >= WORD_LIMIT  # a word could not have taken one more: no schedule with fewer words would do


def test_the_schedule_holds_for_every_smallest_gate() -> None:
    failing = []
    for smallest in range(1, 1024):
        uses = uses_per_word(1 - smallest / 1024)
        if most_states(smallest, uses - 1) > WORD_LIMIT:
            failing.append(smallest)
    assert failing == []


def test_known_schedules() -> None:
    """53 bits to fill before the last multiplication, at 1, 2, 3, 5 and 10 bits each."""
    assert [uses_per_word(m) for m in MAX_FORGETS] == [54, 27, 18, 11, 6]


def test_a_buffer_can_be_filled_again_after_a_partial_reversal() -> None:
    """Back to a word that was full, and forward once more: the full word must not take another multiplication."""
    buffer = InformationBuffer(1, 1, max_forget=1.0)
    z, draw = torch.tensor([[1]]), random.Random(0)
    units = [torch.tensor([[draw.randint(-(2**31), 2**31 - 1)]], dtype=torch.int32) for _ in range(20)]
    products = [push(buffer, h, z) for h in units[:7]]
    assert torch.equal(pop(buffer, products.pop(), z), units[6])
    products += [push(buffer, h, z) for h in units[6:]]
    for product, h in zip(reversed(products), reversed(units), strict=True):
        assert torch.equal(pop(buffer, product, z), h)
