"""How raw files become the three splits of a language-model corpus: train.txt, valid.txt and test.txt.

Each function here takes the raw files (in the order in which a data set lists them) and an empty directory to fill.
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rnncore.errors import UserError

SPLIT_FILES = ("train.txt", "valid.txt", "test.txt")
"""The files of a language-model corpus."""

Prepare = Callable[[Sequence[Path], Path], None]
"""Takes the raw files and the directory in which the prepared files are written."""

_BLOCK = 1 << 20


def copy_splits(raw: Sequence[Path], destination: Path) -> None:
    """Write the raw files, one per split in the order train, valid, test, to the last byte as they are."""
    for source, name in zip(raw, SPLIT_FILES, strict=True):
        shutil.copyfile(source, destination / name)


def separate_characters(raw: Sequence[Path], destination: Path) -> None:
    """Write each raw file, one per split, as characters separated by spaces, with ``_`` for the gap between words.

    This is the character-level Penn Treebank of Mikolov et al. (2012): `` the N <unk> `` becomes
    ``t h e _ N _ < u n k >``. A file in which every word is one character is taken to be in this form already.

    Raises:
        UserError: a raw file is not UTF-8.
    """
    for source, name in zip(raw, SPLIT_FILES, strict=True):
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{source}: not UTF-8 text (byte {error.start})") from None
        words_per_line = [line.split() for line in text.removesuffix("\n").split("\n")]
        already_separate = all(len(word) == 1 for words in words_per_line for word in words)
        gap = "" if already_separate else "_"
        with (destination / name).open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(" ".join(gap.join(words)) + "\n" for words in words_per_line)


def number_bytes(raw: Sequence[Path], destination: Path, *, held_out: int = 5_000_000) -> None:
    r"""Write one raw file as three splits in which every byte is its decimal number and one space.

    The last ``held_out`` bytes are the test split, those before them the validation split, the rest is for training.
    Byte 10 ends the line (written ``\n``), so a reader that ends each line with ``<eos>`` sees one token per byte; a
    split that does not end in byte 10 has one ``<eos>`` more than it has bytes.

    Raises:
        UserError: the raw file leaves no byte for training.
    """
    (source,) = raw
    size = source.stat().st_size
    if size <= 2 * held_out:
        raise UserError(f"{source}: {size:,} bytes are too few: valid and test take {held_out:,} bytes each")
    bounds = (0, size - 2 * held_out, size - held_out, size)
    table = _byte_table()
    with source.open("rb") as text:
        for name, (start, end) in zip(SPLIT_FILES, pairwise(bounds), strict=True):
            with (destination / name).open("wb") as out:
                for position in range(start, end, _BLOCK):
                    block = np.frombuffer(text.read(min(_BLOCK, end - position)), dtype=np.uint8)
                    padded = table[block].ravel()
                    out.write(padded[padded != 0].tobytes())


def _byte_table() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The text of each byte value, uint8 [256, 4], padded with zeros (which no text of a number holds)."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for value in range(256):
        text = b"\n" if value == ord("\n") else b"%d " % value
        table[value, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    return table
