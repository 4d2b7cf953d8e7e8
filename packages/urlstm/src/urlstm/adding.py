"""The adding task (Hochreiter and Schmidhuber 1997; section 4.1 of the paper): remember two numbers, and add them.

Shapes: T time steps, B batch.
"""

import numpy as np
import torch
from rnncore.errors import UserError
from torch import Tensor

#: The mean squared error of always guessing the mean, 1: the variance of the sum of two uniform numbers, 2/12.
GUESS_LOSS = 1 / 6


def adding_batch(generator: np.random.Generator, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """New sequences and their targets.

    A step has a value, uniform on [0, 1), and a marker. The marker is 1 at one step of the first half, drawn from
    0 .. T // 2 - 1, and at one of the second, from T // 2 .. T - 1; elsewhere it is 0.

    Args:
        generator: Source of the draws.
        length: T, at least 2.
        batch_size: B.

    Returns:
        Inputs, float32 ``[T, B, 2]``: value, marker. Targets, float32 ``[B]``: the sum of the two marked values.

    Raises:
        UserError: A sequence that short has no two halves.
    """
    if length < 2:
        raise UserError(
            f"--seq_length {length} is too short: each half of a sequence holds a marked number, so at least 2"
        )
    values = generator.random((length, batch_size), dtype=np.float32)
    columns, half = np.arange(batch_size), length // 2
    first = generator.integers(0, half, batch_size)
    second = generator.integers(half, length, batch_size)
    markers = np.zeros_like(values)
    markers[first, columns] = markers[second, columns] = 1
    targets = values[first, columns] + values[second, columns]
    return torch.from_numpy(np.stack([values, markers], axis=2)), torch.from_numpy(targets)
