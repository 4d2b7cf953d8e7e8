"""The copy task (Hochreiter and Schmidhuber 1997; section 4.1 of the paper): repeat ten symbols after a long gap.

Categories: 0 is blank, 1 to 8 are the symbols, 9 is the cue. Shapes: L = lag + 20 time steps, B batch.
"""

import math

import numpy as np
import torch
from rnncore.errors import UserError
from torch import Tensor

CATEGORIES = 10
SYMBOLS, LENGTH = 8, 10
BLANK, CUE = 0, 9


def copy_batch(
    generator: np.random.Generator, lag: int, batch_size: int, *, delimiter: bool = False
) -> tuple[Tensor, Tensor]:
    """New sequences and their targets.

    Ten symbols, ``lag`` blanks and ten cues; the target is blank until the cues begin, then the ten symbols in order.
    With ``delimiter``, as in Arjovsky et al. 2016 (arXiv 1511.06464), the last of the blanks is the one cue, and blanks
    stand in place of the others.

    Args:
        generator: Source of the draws.
        lag: Steps from the last symbol to the first one that is asked for, at least 1.
        batch_size: B.
        delimiter: Whether a single cue announces the answer.

    Returns:
        Inputs and targets, int64 ``[L, B]``.

    Raises:
        UserError: ``lag`` is below 1.
    """
    if lag < 1:
        raise UserError(f"--time_lag must be at least 1, not {lag}")
    symbols = generator.integers(1, SYMBOLS + 1, (LENGTH, batch_size))
    inputs = np.full((lag + 2 * LENGTH, batch_size), BLANK, dtype=np.int64)
    targets = inputs.copy()
    inputs[:LENGTH] = symbols
    if delimiter:
        inputs[LENGTH + lag - 1] = CUE
    else:
        inputs[-LENGTH:] = CUE
    targets[-LENGTH:] = symbols
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def memoryless_loss(lag: int, *, recall_only: bool = False) -> float:
    """The least cross entropy, in nats per step, without any memory of the symbols: all eight are equally likely.

    Over all steps it is 10 log 8 / (lag + 20), as the blanks cost nothing; over the last ten (``recall_only``), log 8.
    """
    return math.log(SYMBOLS) if recall_only else LENGTH * math.log(SYMBOLS) / (lag + 2 * LENGTH)
