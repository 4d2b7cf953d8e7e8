"""One text through a recurrent model in pieces side by side, with the result of reading it from beginning to end.

A step on one column costs nearly as much as on many: it is the weights that have to be read. So a text of one column
is cut into pieces that are columns of one batch. At first each piece but the first begins with an initial state; then
the pieces are read again, each from the state that the piece before it ended with, until its states are those that it
had. This is parareal iteration (Lions, Maday, Turinici 2001) without a coarse solver: what a recurrent network was
told long ago fades from its state, and most of the second reading is spared. Where it does not fade, the text is read
from beginning to end after all.

Shapes: T rows of a text, B columns, K pieces.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from rnncore.columns import InitialState, joined_state, part_of_state, tensors_of
from rnncore.device import resolution
from rnncore.windows import fixed_windows, window

_Result = TypeVar("_Result")
#: Reads a window: of ids and targets ``[T, B]`` and the state before them, a result, and the state after them.
ReadWindow = Callable[[Tensor, Tensor, Any], tuple[_Result, Any]]

#: Pieces; with more a step takes as much longer as there are more.
PIECES = 16
#: Fewest time steps of a piece: some hundred pass until a state has faded.
SHORTEST_PIECE = 1024
#: Most time steps of a piece: the states after each of its windows are kept.
LONGEST_PIECE = 8192
#: How far states may lie apart, absolutely or of the value: this power of the resolution of what they are computed in,
#: 2.4e-5 in float32, 0.01 in TF32, lies above the noise of rounding and far below what a loss would show.
POWER = 2 / 3


def read(
    read_window: ReadWindow[_Result], text: Tensor, initial_state: InitialState, *, length: int
) -> Iterator[list[_Result]]:
    """Reads a text ``[T, B]``, one stretch of it after the other.

    Args:
        read_window: Reads a window of any number of columns. Some windows are read twice; the second result counts.
        text: Its T - 1 first tokens are inputs; each one's target is the next.
        initial_state: Makes the state before a text; the model's.
        length: Time steps of a window.

    Yields:
        The results of a stretch's windows, the last maybe shorter. Windows are ``[length, B]``. Those of a text of one
        column are ``[length, K]``: a stretch's first column is followed by its second, and its last one by the next
        stretch. K is `PIECES`, or 1 where the text is short, the model does not forget, or its state is of integers,
        which do not forget their last bits.
    """
    count, columns = len(text) - 1, text.shape[1]
    state = initial_state(columns)
    fades = all(part.is_floating_point() for part in tensors_of(state))
    if fades and columns == 1 and count >= PIECES * SHORTEST_PIECE:
        stretches = -(-count // (PIECES * LONGEST_PIECE))
        steps = count // (PIECES * stretches)
        for _ in range(stretches):
            inputs, targets = (part[: PIECES * steps].view(PIECES, steps).t() for part in (text[:-1], text[1:]))
            read_twice = _pieces(read_window, inputs.contiguous(), targets.contiguous(), state, initial_state, length)
            if read_twice is None:
                break
            results, state = read_twice
            yield results
            text = text[PIECES * steps :]
    while len(text) > 1:
        results, state = _windows(read_window, text[: LONGEST_PIECE + 1], state, length)
        yield results
        text = text[LONGEST_PIECE:]


def _pieces(
    read_window: ReadWindow[_Result],
    inputs: Tensor,
    targets: Tensor,
    state: Any,
    initial_state: InitialState,
    length: int,
) -> tuple[list[_Result], Any] | None:
    """The results of pieces that follow ``state``, and the state after the last; None where they do not forget."""
    steps, pieces = inputs.shape
    windows = [slice(start, start + size) for start, size in fixed_windows(steps + 1, length)]
    results: list[_Result] = []
    ends: list[Any] = []
    now = joined_state([state, *[initial_state(1)] * (pieces - 1)], initial_state)
    for rows in windows:
        result, now = read_window(inputs[rows], targets[rows], now)
        results.append(result)
        ends.append(now)
    now = joined_state([state, part_of_state(now, initial_state, slice(0, pieces - 1))], initial_state)
    for number, rows in enumerate(windows):
        results[number], now = read_window(inputs[rows], targets[rows], now)
        if _alike(now, ends[number]):
            return results, part_of_state(ends[-1], initial_state, slice(pieces - 1, pieces))
    return None


def _windows(read_window: ReadWindow[_Result], text: Tensor, state: Any, length: int) -> tuple[list[_Result], Any]:
    results: list[_Result] = []
    for start, steps in fixed_windows(len(text), length):
        result, state = read_window(*window(text, start, steps), state)
        results.append(result)
    return results, state


def _alike(state: Any, other: Any) -> bool:
    """Whether two states are the same but for rounding."""
    return all(_close(one, two) for one, two in zip(tensors_of(state), tensors_of(other), strict=True))


def _close(one: Tensor, two: Tensor) -> bool:
    bound = resolution(one) ** POWER
    return torch.allclose(one, two, rtol=bound, atol=bound)
