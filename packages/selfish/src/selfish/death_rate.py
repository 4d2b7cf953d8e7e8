"""The share of the living weights that a mask update kills, over a run."""

import math

from rnncore.errors import UserError

DECAYS = ("cosine", "linear")
FLOOR = 0.005


class DeathRate:
    """Falls from ``start`` to 0.005 over ``steps`` optimizer steps, along a cosine or a line; then stays.

    UserError for a rate outside (0, 1) or an unknown decay; ValueError without a step.
    """

    def __init__(self, start: float, *, steps: int, decay: str = "cosine") -> None:
        if not 0.0 < start < 1.0:
            raise UserError(
                f"--death_rate is the share of living weights to replace, above 0 and below 1, not {start:g}"
            )
        if decay not in DECAYS:
            raise UserError(f"--death_rate_decay {decay} is unknown; choose from {', '.join(DECAYS)}")
        if steps < 1:
            raise ValueError(f"a death rate falls over at least 1 step, not {steps}")
        self.start, self.steps, self.decay = start, steps, decay

    def at(self, step: int) -> float:
        """The rate after ``step`` optimizer steps."""
        done = min(step / self.steps, 1.0)
        left = (1 + math.cos(math.pi * done)) / 2 if self.decay == "cosine" else 1 - done
        floor = min(FLOOR, self.start)
        return floor + (self.start - floor) * left
