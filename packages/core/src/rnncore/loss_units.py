"""The units in which a loss of text is told beside nats."""

import math
from typing import Literal

#: Perplexity, or bits per character.
Unit = Literal["ppl", "bpc"]


def converted(loss: float, unit: Unit) -> float:
    """A mean loss in nats per token as perplexity, infinite where that overflows, or as bits."""
    if unit == "bpc":
        return loss / math.log(2)
    return math.inf if loss >= 700 else math.exp(loss)
