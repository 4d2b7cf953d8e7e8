"""More memory asked for than there is: one line in place of torch's and numpy's errors, which share no class."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from rnncore.errors import UserError

#: In a RuntimeError: what torch's allocators and CUDA's libraries say.
_SHORT = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "std::bad_alloc")
#: Of a tensor or array of so many numbers that their count overflows.
_UNCOUNTABLE = (
    *("Storage size calculation overflowed", "integer multiplication overflow", "Overflow when unpacking long"),
    *("Maximum allowed dimension exceeded", "array is too big"),
    *("int too large to convert", "int too big to convert", "cannot fit 'int' into an index-sized integer"),
)


def shortage(error: BaseException) -> str | None:
    """What is wrong and what to do about it, in a line, if an error says that memory does not suffice; else None."""
    text = str(error)
    if isinstance(error, UserError):
        return None
    if isinstance(error, RuntimeError | TypeError | ValueError | OverflowError) and _any(_UNCOUNTABLE, text):
        wanted = ": a tensor of more numbers than can be counted was asked for"
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _any(_SHORT, text)):
        amount = _amount(text)
        wanted = "" if amount is None else f": another {amount} were asked for"
    elif isinstance(error, OSError) and error.errno == errno.ENOMEM:
        wanted = ""
    else:
        return None
    where = " on the GPU" if re.search("CUDA|CUBLAS|CUDNN", text) else ""
    return f"there is not enough memory{where}{wanted}; use smaller sizes or a smaller batch"


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Within the block an error that says that memory does not suffice becomes a UserError, and no other does."""
    try:
        yield
    except Exception as error:
        line = shortage(error)
        if line is None:
            raise
        raise UserError(line) from error


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)


def _amount(text: str) -> str | None:
    """How much was asked for, from ``allocate 12800000000 bytes`` or ``allocate 74.5 GiB``."""
    found = re.search(r"allocate ([\d.]+) (bytes|[KMGTPE]iB)", text)
    if found is None:
        return None
    number, unit, units = float(found[1]), found[2], ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    for larger in units[units.index(unit) + 1 :]:
        if number >= 1024:
            number, unit = number / 1024, larger
    return f"{number:.1f} {unit}"
