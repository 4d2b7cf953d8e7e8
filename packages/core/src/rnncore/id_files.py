"""Files of token ids: flat little-endian int32 arrays in numpy's .npy format, written and renumbered in blocks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

BLOCK_IDS = 1 << 20


def write_ids(target: Path, blocks: Iterable[NDArray[np.int32]]) -> int:
    """Write the ids of all `blocks`, one after the other, as one array of shape [ids]; return their number.

    Raises:
        OSError: `target` cannot be written.
    """
    count = 0
    with target.open("wb") as file:
        _write_header(file, count)
        start = file.tell()
        for block in blocks:
            file.write(block.astype("<i4", copy=False).data)
            count += len(block)
        file.seek(0)
        # The format pads the header to a multiple of 64 bytes, so the true length fits where the first one stood.
        _write_header(file, count)
        if file.tell() != start:
            raise AssertionError("the .npy header grew with the number of ids")
    return count


def order_by_frequency(files: Sequence[Path], tokens: Sequence[str]) -> list[str]:
    """Renumber the ids in `files` by falling count in the first of them; equal counts keep their order.

    Args:
        files: files of `write_ids`, rewritten in place; the first holds the training text.
        tokens: token strings by their present ids.

    Returns:
        The token strings by their new ids.

    Raises:
        OSError: a file cannot be read or rewritten.
    """
    counts = np.zeros(len(tokens), np.int64)
    with files[0].open("rb") as file:
        _skip_header(file)
        while (block := np.fromfile(file, "<i4", BLOCK_IDS)).size:
            counts += np.bincount(block, minlength=len(tokens))
    order = np.argsort(-counts, kind="stable")
    new_ids = np.empty(len(tokens), np.int32)
    new_ids[order] = np.arange(len(tokens), dtype=np.int32)
    for path in files:
        _renumber(path, new_ids)
    return [tokens[i] for i in order.tolist()]


def _renumber(path: Path, new_ids: NDArray[np.int32]) -> None:
    with path.open("r+b") as file:
        _skip_header(file)
        while block := file.read(BLOCK_IDS * 4):
            file.seek(-len(block), 1)
            file.write(new_ids[np.frombuffer(block, "<i4")].astype("<i4", copy=False).data)


def _write_header(file: BinaryIO, count: int) -> None:
    npy.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (count,)})


def _skip_header(file: BinaryIO) -> None:
    npy.read_magic(file)
    npy.read_array_header_1_0(file)
