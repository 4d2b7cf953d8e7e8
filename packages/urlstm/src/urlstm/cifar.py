"""Reads CIFAR-10 in its binary version: records of one byte for the label and 3,072 for the picture.

A picture is 32 x 32 pixels: first all of red, row by row, then green, then blue. (The version for Python is made of
pickles, which may run code when they are read; it is not read here.)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rnncore.errors import UserError

PIXELS, CHANNELS, CLASSES = 32 * 32, 3, 10
_RECORD = 1 + CHANNELS * PIXELS


def read_cifar(paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All pictures of some files, uint8 ``[N, 1024, 3]`` (pixels in reading order, then channels), and labels ``[N]``.

    Raises:
        UserError: A file cannot be read, is cut off, or holds a label above 9.
    """
    records = np.concatenate([_records(path) for path in paths])
    return records[:, 1:].reshape(-1, CHANNELS, PIXELS).transpose(0, 2, 1), records[:, 0]


def _records(path: Path) -> NDArray[np.uint8]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not content or len(content) % _RECORD:
        raise UserError(f"{path} is cut off or not of CIFAR-10's binary version: no whole number of {_RECORD} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= CLASSES:
        raise UserError(f"{path} holds the label {records[:, 0].max()}; CIFAR-10 has the labels 0 to 9")
    return records
