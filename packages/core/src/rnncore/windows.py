"""Columns of a text, windows over them, and the state that is carried from one to the next.

Shapes: N tokens of text, T rows (time steps), B columns (batch).
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rnncore.errors import UserError

_State = TypeVar("_State")


def batchify(ids: Tensor, batch_size: int, device: torch.device | str | None = None) -> Tensor:
    """Lay a text out in columns, each a contiguous piece of it; the tail that fills no row is dropped.

    Args:
        ids: token ids of shape [N].
        batch_size: number of columns B.
        device: where the result goes; by default it stays with `ids`.

    Returns:
        Ids of shape [N // B, B], contiguous.

    Raises:
        UserError: `batch_size` is below 1, or leaves fewer than two rows (an input and its target).
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    rows = len(ids) // batch_size
    if rows < 2:
        raise UserError(
            f"a batch of {batch_size} columns needs a text of {2 * batch_size} tokens, this one has {len(ids)}; "
            "use a smaller batch size"
        )
    columns = ids[: rows * batch_size].view(batch_size, rows).t().contiguous()
    return columns if device is None else columns.to(device)


def fixed_windows(rows: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of windows that follow each other and cover each of the ``rows - 1`` targets once.

    All have the given length except the last, which may be shorter.

    Raises:
        UserError: `length` is below 1.
    """
    if length < 1:
        raise UserError(f"the window length is {length}; it must be at least 1")
    for start in range(0, rows - 1, length):
        yield start, min(length, rows - 1 - start)


def bucket_length(length: int, multiple: int, minimum: int) -> int:
    """``length`` (time steps) rounded down to a ``multiple``, but to no less than ``minimum`` or ``length`` itself.

    Few different lengths mean few graphs, and little memory where `rnncore.device.keeps_memory_of_shapes`.
    ``ValueError`` unless all three are positive.
    """
    if min(length, multiple, minimum) < 1:
        raise ValueError(f"length {length}, multiple {multiple} and minimum {minimum} must be positive")
    return min(length, max(length - length % multiple, minimum))


def random_length(base: int, generator: np.random.Generator, maximum: int | None = None, multiple: int = 1) -> int:
    """Draw a window length (Merity et al. 2017, arXiv 1708.02182, section 5).

    The mean is `base` with probability 0.95, else half of it; the length is normal around it with a standard deviation
    of 5 steps, cut to whole steps, and at least 5.

    Args:
        base: the usual length, in steps.
        generator: source of the draws; always two are taken.
        maximum: longest length allowed, in steps; the paper has none.
        multiple: what lengths from 5 up are rounded down to.

    Raises:
        UserError: `base` or `maximum` is below 1.
    """
    if base < 1 or (maximum is not None and maximum < 1):
        raise UserError(f"the window length is {base} (at most {maximum}); it must be at least 1")
    mean = base if generator.random() < 0.95 else base / 2
    length = max(5, int(generator.normal(mean, 5)))
    return bucket_length(length if maximum is None else min(length, maximum), multiple, 5)


def random_windows(
    rows: int, base: int, generator: np.random.Generator, start: int = 0, maximum: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of windows of `random_length` that cover each of the ``rows - 1`` targets once.

    The last window is cut where the text ends. The generator is advanced when a window is asked for, not before, so its
    state and the row after the last window (`start` of a later call) are all that is needed to go on.
    """
    while start < rows - 1:
        length = min(random_length(base, generator, maximum), rows - 1 - start)
        yield start, length
        start += length


def window(source: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """The inputs and the targets (the inputs' successors) of a window: views of shape [length, B] on `source` [T, B].

    Raises:
        UserError: the window's targets leave the text.
    """
    if start < 0 or length < 1 or start + length >= len(source):
        raise UserError(f"a window of {length} rows at row {start} does not fit in {len(source)} rows; make it smaller")
    return source[start : start + length], source[start + 1 : start + 1 + length]


def detach(state: _State) -> _State:
    """Cut a recurrent state (a tensor, None, or tuples and lists of these) off the graph that made it.

    Raises:
        TypeError: the state holds something else.
    """
    return _detach(state)  # type: ignore[return-value]


def _detach(state: object) -> object:
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        make = getattr(state, "_make", tuple)  # a named tuple keeps its type
        return make(_detach(part) for part in state)
    if isinstance(state, list):
        return [_detach(part) for part in state]
    raise TypeError(f"a recurrent state holds tensors, tuples and lists, not {type(state).__name__}")


def moved(state: Any, device: torch.device | str) -> Any:
    """A recurrent state (a tensor, None, or tuples and lists of these, nested) on another device."""
    if isinstance(state, (tuple, list)):
        make = getattr(state, "_make", type(state))
        return make(moved(part, device) for part in state)
    return state if state is None else state.to(device)


def generator_state(generator: np.random.Generator) -> dict[str, str | int]:
    """The state of a PCG64 generator as strings and small integers, which `torch.load` reads with ``weights_only``.

    Raises:
        TypeError: the generator is of another kind.
    """
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(f"the generator is a {state['bit_generator']}; use numpy.random.default_rng")
    return {
        "bit_generator": "PCG64",
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def restore_generator(generator: np.random.Generator, state: dict[str, str | int]) -> None:
    """Put a PCG64 generator into a state that `generator_state` returned.

    Raises:
        UserError: this is no such state.
    """
    try:
        generator.bit_generator.state = {
            "bit_generator": state["bit_generator"],
            "state": {"state": int(state["state"]), "inc": int(state["inc"])},
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not the state of a random generator ({error!r}); use another checkpoint") from error


class GeneratorState:
    """A numpy generator as a part of a run's checkpoints."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, str | int]:
        """`generator_state`."""
        return generator_state(self.generator)

    def load_state_dict(self, state: dict[str, str | int]) -> None:
        """`restore_generator`."""
        restore_generator(self.generator, state)
