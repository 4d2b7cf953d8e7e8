"""Random numbers that are a function of a run's seed, a purpose and a number, and of nothing else.

What is drawn for a step does not depend on the steps before it. So a resumed run needs no state of a generator to go on
to the bit, and no two steps, and no two processes that compute different steps, ever draw the same.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What numbers are drawn for, each from a stream of its own. Results depend on the values: never change one."""

    TRAIN = 0
    VALID = 1
    TEST = 2
    ORDER = 3
    SPLIT = 4
    PERMUTATION = 5


def stream(seed: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """The generator for the ``number``-th item (a batch, an epoch) of a purpose."""
    return np.random.default_rng((seed, int(purpose), number))
