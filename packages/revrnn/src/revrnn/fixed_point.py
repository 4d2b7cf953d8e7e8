"""Fixed-point numbers and their exactly reversible multiplication (Reversible RNNs, section 3.3 and algorithm 1).

A hidden unit is an int32 with 23 fractional bits, a forget gate an integer from 1 to 1024 with 10. Multiplying by a
gate z/1024 loses the 10 low bits of the unit and gains log2(z) of them; an information buffer takes what is lost:

    forward   B <- B * 1024 + h mod 1024        reverse   B <- B * z + h mod z
              h <- (h div 1024) * z                       h <- (h div z) * 1024
              h <- h + B mod z                            h <- h + B mod 1024
              B <- B div z                                B <- B div 1024

so that B grows by log2(1024/z) bits and nothing is ever lost. div and mod are floored.

Shapes: B batch, G units of one group. A word of the buffer is an int64 per unit.
"""

import torch
from torch import Tensor

HIDDEN_BITS = 23
FORGET_BITS = 10
#: A state may change by a little over 1.0 a step, so one that is below this bound never wraps unseen in the next.
STATE_LIMIT = 2**31 - 2**24


def to_fixed(x: Tensor) -> Tensor:
    """Rounds real numbers (half to even) to int32 with 23 fractional bits; the range is (-256, 256)."""
    return scaled(x).to(torch.int32)


def scaled(x: Tensor) -> Tensor:
    """As `to_fixed` in int64, where a number out of range, infinite or NaN is still one that is out of range."""
    beyond = 2.0**40  # some devices make 0 of a NaN that is cast to an integer
    return torch.round(x * 2**HIDDEN_BITS).nan_to_num(beyond).clamp(-beyond, beyond).to(torch.int64)


def to_float(h: Tensor, dtype: torch.dtype) -> Tensor:
    """The real numbers that int32 fixed-point numbers stand for; exact in float64, in float32 for ``|h| < 2``."""
    return h.to(dtype) * 2.0**-HIDDEN_BITS


def forget_to_fixed(z: Tensor) -> Tensor:
    """Rounds forget gates to int64 multiples of 1/1024. A gate that would be 0 becomes 1: 0 could not be undone."""
    return torch.round(z * 2**FORGET_BITS).to(torch.int64).clamp_(1, 2**FORGET_BITS)


def multiply(h: Tensor, z: Tensor, word: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Multiplies units by forget gates; with a buffer word, without losing a bit.

    Args:
        h: int32 ``[B, G]``.
        z: int64 ``[B, G]`` from `forget_to_fixed`.
        word: int64 ``[B, G]``, each below 2**53; without it the low bits are lost.

    Returns:
        The products, int64 ``[B, G]``, so that the caller can see whether they leave the range, and the new word.
    """
    state = h.to(torch.int64)
    product = (state >> FORGET_BITS) * z
    if word is None:
        return product, None
    grown = (word << FORGET_BITS) + (state & (2**FORGET_BITS - 1))
    quotient = torch.div(grown, z, rounding_mode="floor")
    return product + (grown - quotient * z), quotient


def unmultiply(h: Tensor, z: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """Undoes `multiply`: returns the int32 units and the word that it was given.

    Args:
        h: int64 ``[B, G]``, the products.
        z: The same gates.
        word: int64 ``[B, G]``, as `multiply` left it.
    """
    quotient = torch.div(h, z, rounding_mode="floor")
    grown = word * z + (h - quotient * z)
    low = grown & (2**FORGET_BITS - 1)
    return ((quotient << FORGET_BITS) + low).to(torch.int32), grown >> FORGET_BITS
