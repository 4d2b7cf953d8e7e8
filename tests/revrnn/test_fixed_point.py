"""Fixed-point numbers against exact arithmetic: Python's integers and fractions."""

import itertools
import math
import random
from fractions import Fraction

import pytest
import torch
from revrnn.fixed_point import STATE_LIMIT, forget_to_fixed, multiply, scaled, to_fixed, to_float, unmultiply
from torch import Tensor

EXTREME_UNITS = [-(2**31), -(2**31) + 1, -(2**31) + 1023, -1025, -1024, -1023, -1, 0, 1, 1023, 1024, 2**31 - 1]
EXTREME_GATES = [1, 2, 3, 511, 512, 1023, 1024]
EXTREME_WORDS = [0, 1, 1023, 1024, 2**52 + 1, 2**53 - 1024, 2**53 - 2, 2**53 - 1]


def exact_multiply(h: int, z: int, word: int) -> tuple[int, int]:
    """The paper's algorithm 1 on integers without bounds."""
    word = word * 1024 + h % 1024
    h = (h // 1024) * z
    return h + word % z, word // z


def exact_unmultiply(h: int, z: int, word: int) -> tuple[int, int]:
    word = word * z + h % z
    h = (h // z) * 1024
    return h + word % 1024, word // 1024


def cases() -> list[tuple[int, int, int]]:
    draw = random.Random(0)
    drawn = [
        (draw.randint(-(2**31), 2**31 - 1), draw.randint(1, 1024), draw.randrange(2 ** draw.randint(1, 53)))
        for _ in range(20_000)
    ]
    return drawn + list(itertools.product(EXTREME_UNITS, EXTREME_GATES, EXTREME_WORDS))


def tensors(columns: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    h, z, word = (torch.tensor([column], dtype=torch.int64) for column in zip(*columns, strict=True))
    return h.to(torch.int32), z, word


def test_multiply_is_the_papers_algorithm() -> None:
    expected = [exact_multiply(*case) for case in cases()]
    assert all(word < 2**63 for _, word in expected)
    product, word = multiply(*tensors(cases()))
    assert word is not None
    assert list(zip(product[0].tolist(), word[0].tolist(), strict=True)) == expected


def test_unmultiply_is_the_papers_algorithm() -> None:
    """On products as they come, from the whole range of int64 that multiply gives."""
    before = [(*exact_multiply(h, z, word), z) for h, z, word in cases()]
    expected = [exact_unmultiply(h, z, word) for h, word, z in before]
    assert expected == [(h, word) for h, _, word in cases()]
    h, word, z = (torch.tensor([column], dtype=torch.int64) for column in zip(*before, strict=True))
    units, words = unmultiply(h, z, word)
    assert units.dtype == torch.int32
    assert list(zip(units[0].tolist(), words[0].tolist(), strict=True)) == expected


def test_round_trip() -> None:
    h, z, word = tensors(cases())
    product, grown = multiply(h, z, word)
    assert grown is not None
    units, words = unmultiply(product, z, grown)
    assert torch.equal(units, h)
    assert torch.equal(words, word)


def test_the_word_grows_by_what_the_gate_forgets() -> None:
    """A product takes log2(1024 / z) bits: of all states of h and word, none is lost and none is wasted."""
    for z in (1, 3, 512, 1000, 1024):
        results = {exact_multiply(h, z, word) for h in range(4096) for word in range(4)}
        assert len(results) == 4096 * 4
        assert max(word for _, word in results) == (4 * 1024 - 1) // z


def test_without_a_word_the_low_bits_are_lost() -> None:
    h, z, _ = tensors(cases())
    product, word = multiply(h, z, None)
    assert word is None
    assert product[0].tolist() == [(h // 1024) * z for h, z, _ in cases()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_fixed_rounds_half_to_even(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5_000, generator=generator, dtype=dtype)
    halves = (torch.arange(-50, 50, dtype=dtype) + 0.5) * 2.0**-23
    x = torch.cat([x, halves, torch.tensor([-254.0, -1.0, 0.0, 1.0, 254.0], dtype=dtype)])
    bits = to_fixed(x)
    assert bits.dtype == torch.int32
    assert bits.tolist() == [round(Fraction(value) * 2**23) for value in x.tolist()]


def test_to_float_is_exact() -> None:
    bits = torch.tensor([*EXTREME_UNITS, 2**24, -(2**24), 123_456_789], dtype=torch.int32)
    values = to_float(bits, torch.float64)
    assert [Fraction(value) for value in values.tolist()] == [Fraction(unit, 2**23) for unit in bits.tolist()]
    assert torch.equal(to_fixed(values), bits)
    small = torch.arange(-(2**24), 2**24 + 1, 997, dtype=torch.int32)
    assert torch.equal(to_fixed(to_float(small, torch.float32)), small)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forget_gates_are_from_1_to_1024(dtype: torch.dtype) -> None:
    z = torch.tensor([0.0, 1e-9, 0.5 / 1024, 1.5 / 1024, 2.5 / 1024, 0.3, 1023.5 / 1024, 1.0], dtype=dtype)
    gates = forget_to_fixed(z)
    assert gates.dtype == torch.int64
    assert gates.tolist() == [1, 1, 1, 2, 2, 307, 1024, 1024]


def test_what_is_no_number_or_out_of_range_stays_out_of_range() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -300.0, 300.0])
    assert bool((scaled(x).abs() >= STATE_LIMIT).all())
    assert bool((scaled(torch.tensor([255.9, -255.9])).abs() < 2**31).all())
