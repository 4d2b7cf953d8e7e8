"""Reads IDX files, the format of MNIST: a header, then the bytes of an array, all of it gzipped or not.

Header: two zero bytes, a byte for the type (8: unsigned bytes), one for the number of dimensions, and each dimension as
a big-endian 32-bit number.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rnncore.errors import UserError

_UNSIGNED_BYTES = 8
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of a file, uint8.

    Args:
        path: The file.
        dimensions: How many the array must have: 3 for images ``[N, height, width]``, 1 for labels ``[N]``.

    Raises:
        UserError: The file cannot be read, is no IDX file of bytes, has other dimensions, or is cut off or too long.
    """
    content = _content(path)
    header = 4 + 4 * dimensions
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTES)):
        raise UserError(f"{path} is no IDX file of bytes; give the files of MNIST as published")
    if content[3] != dimensions:
        raise UserError(f"{path} holds an array of {content[3]} dimensions where {dimensions} are expected")
    shape = tuple(int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(dimensions))
    excess = len(content) - header - math.prod(shape)
    if excess < 0:
        raise UserError(f"{path} is cut off: {-excess:,} bytes are missing")
    if excess > 0:
        raise UserError(f"{path} has {excess:,} bytes more than its header says")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except OSError as error:  # a bad gzip file too
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut off: {error}") from error
