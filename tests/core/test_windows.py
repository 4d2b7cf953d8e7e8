"""Columns, windows and the carried state."""

import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rnncore.errors import UserError
from rnncore.windows import (
    batchify,
    bucket_length,
    detach,
    fixed_windows,
    generator_state,
    random_length,
    random_windows,
    restore_generator,
    window,
)


@pytest.mark.parametrize(("tokens", "batch"), [(10, 1), (10, 3), (12, 4), (13, 4), (4, 2)])
def test_columns_are_contiguous_pieces(tokens: int, batch: int) -> None:
    columns = batchify(torch.arange(tokens), batch)
    rows = tokens // batch
    assert columns.shape == (rows, batch)
    assert columns.is_contiguous()
    assert [columns[:, b].tolist() for b in range(batch)] == [
        list(range(b * rows, (b + 1) * rows)) for b in range(batch)
    ]


def test_columns_go_to_the_device() -> None:
    assert batchify(torch.arange(8), 2, "meta").device.type == "meta"


@pytest.mark.parametrize(("tokens", "batch"), [(10, 6), (1, 1), (0, 1), (10, 0), (10, -1)])
def test_batch_size_that_does_not_fit(tokens: int, batch: int) -> None:
    with pytest.raises(UserError, match=f"batch (size is|of) {batch}"):
        batchify(torch.arange(tokens), batch)


@pytest.mark.parametrize(("rows", "length"), [(2, 1), (2, 5), (11, 5), (12, 5), (13, 5), (70, 70), (71, 70)])
def test_fixed_windows_cover_each_target_once(rows: int, length: int) -> None:
    pairs = list(fixed_windows(rows, length))
    assert [target for start, size in pairs for target in range(start + 1, start + size + 1)] == list(range(1, rows))
    assert all(size == length for _, size in pairs[:-1])


@pytest.mark.parametrize("length", [0, -3])
def test_fixed_windows_need_a_length(length: int) -> None:
    with pytest.raises(UserError, match=str(length)):
        list(fixed_windows(10, length))


def test_random_length_is_the_mixture_of_the_paper() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([random_length(70, generator) for _ in range(20_000)])
    long = drawn[drawn > 52]
    # Cutting to whole steps takes half a step off the mean, and adds a variance of 1/12.
    assert abs(len(long) / len(drawn) - 0.95) < 0.006
    assert abs(long.mean() - 69.5) < 0.15
    assert abs(drawn[drawn <= 52].mean() - 34.5) < 0.6
    assert abs(long.std() - np.sqrt(25 + 1 / 12)) < 0.12
    assert drawn.max() > 80


def test_random_length_has_its_bounds() -> None:
    generator = np.random.default_rng(1)
    short = [random_length(6, generator) for _ in range(2000)]
    assert min(short) == 5
    assert max(random_length(70, generator, maximum=75) for _ in range(2000)) == 75
    for base, maximum in ((0, None), (-5, None), (70, 0)):
        with pytest.raises(UserError, match="at least 1"):
            random_length(base, generator, maximum)


def test_random_lengths_may_be_multiples() -> None:
    lengths = {random_length(70, np.random.default_rng(seed), multiple=5) for seed in range(500)}
    assert len(lengths) < 25
    assert all(length % 5 == 0 for length in lengths)
    assert random_length(70, np.random.default_rng(0), maximum=3, multiple=5) == 3


def test_bucket_lengths() -> None:
    assert [bucket_length(length, 8, 5) for length in (1, 4, 5, 7, 8, 15, 16, 70, 75)] == [1, 4, 5, 5, 8, 8, 16, 64, 72]
    assert [bucket_length(length, 1, 1) for length in range(1, 20)] == list(range(1, 20))
    for length, multiple, minimum in [(0, 8, 5), (10, 0, 5), (10, 8, 0)]:
        with pytest.raises(ValueError, match="must be positive"):
            bucket_length(length, multiple, minimum)


@pytest.mark.parametrize("rows", [2, 3, 50, 1000])
def test_random_windows_cover_each_target_once(rows: int) -> None:
    pairs = list(random_windows(rows, 20, np.random.default_rng(2), maximum=25))
    assert [target for start, size in pairs for target in range(start + 1, start + size + 1)] == list(range(1, rows))
    assert all(5 <= size <= 25 for _, size in pairs[:-1])


def test_random_windows_go_on_from_a_saved_place() -> None:
    whole = list(random_windows(500, 20, np.random.default_rng(3)))
    generator = np.random.default_rng(3)
    first = random_windows(500, 20, generator)
    begun = [next(first) for _ in range(7)]
    file = io.BytesIO()
    torch.save(generator_state(generator), file)
    file.seek(0)
    later = np.random.default_rng(99)
    restore_generator(later, torch.load(file, weights_only=True))
    start = sum(begun[-1])
    assert begun + list(random_windows(500, 20, later, start=start)) == whole
    assert list(random_windows(500, 20, later, start=499)) == []


def test_generator_state_keeps_a_half_used_word() -> None:
    generator = np.random.default_rng(4)
    generator.integers(0, 10, dtype=np.uint32)  # leaves half of a 64-bit draw behind
    state = generator_state(generator)
    assert state["has_uint32"] == 1
    expected = generator.integers(0, 1000, 20, dtype=np.uint32)
    other = np.random.default_rng(5)
    restore_generator(other, state)
    assert other.integers(0, 1000, 20, dtype=np.uint32).tolist() == expected.tolist()


def test_generator_state_is_checked() -> None:
    with pytest.raises(TypeError, match="MT19937"):
        generator_state(np.random.Generator(np.random.MT19937(0)))
    with pytest.raises(UserError, match="not the state"):
        restore_generator(np.random.default_rng(0), {"state": "1"})
    with pytest.raises(UserError, match="not the state"):
        restore_generator(np.random.default_rng(0), {**generator_state(np.random.default_rng(0)), "inc": "x"})


def test_window_targets_are_the_next_tokens() -> None:
    source = batchify(torch.arange(20), 2)
    inputs, targets = window(source, 3, 4)
    assert inputs.tolist() == [[3, 13], [4, 14], [5, 15], [6, 16]]
    assert targets.tolist() == [[4, 14], [5, 15], [6, 16], [7, 17]]
    assert window(source, 5, 4)[1][-1].tolist() == [9, 19]
    for start, length in ((6, 4), (-1, 2), (2, 0)):
        with pytest.raises(UserError, match="does not fit"):
            window(source, start, length)


class _State(NamedTuple):
    hidden: torch.Tensor
    cell: torch.Tensor | None


def test_detach_keeps_the_structure_and_the_values() -> None:
    weight = torch.ones(2, requires_grad=True)
    state = [(weight * 2, weight * 3), _State(weight * 4, None), None]
    detached = detach(state)
    first, second, third = detached
    assert third is None
    assert isinstance(first, tuple)
    assert isinstance(second, _State)
    assert second.cell is None
    tensors = (*first, second.hidden)
    assert [tensor.tolist() for tensor in tensors] == [[2, 2], [3, 3], [4, 4]]
    assert not any(tensor.requires_grad for tensor in tensors)
    with pytest.raises(TypeError, match="int"):
        detach((weight, 3))
