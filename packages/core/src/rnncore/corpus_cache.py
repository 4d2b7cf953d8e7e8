"""Encoded corpora on disk, by the content of the texts.

An entry is a folder named by a key, which follows from the bytes of the three texts, the level and the order of ids:

    train.npy valid.npy test.npy   token ids, little-endian int32, shape [tokens]
    vocab.txt                      the tokens (`rnncore.vocabulary`)
    manifest.json                  {"format": 1, "files": {name: {"bytes": size, "crc32": sum, "state": [...]}}}

No file holds a pickle. An entry is built beside its place and renamed; of two processes that build the same one, the
second finds the place taken and uses what is there. Every opening checks the sizes, and the sums of those files which
the system does not report in the very state in which they were written (times of change, inode, device;
`content_sums`). So a truncated file and a changed byte are found, an entry may be copied elsewhere, and an opening
reads no ids. An entry that fails is built again.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rnncore.cache_folders import build_folder, discard_folder
from rnncore.content_sums import file_state
from rnncore.errors import UserError
from rnncore.vocabulary import Vocabulary

FORMAT = 1
SPLITS = ("train", "valid", "test")
VOCABULARY = "vocab.txt"
MANIFEST = "manifest.json"
_FILES = (*(f"{split}.npy" for split in SPLITS), VOCABULARY)
_ATTEMPTS = 3
_BUFFER_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Entry:
    """An open entry: the vocabulary and, for each split, its ids (read-only, memory-mapped int32 of shape [tokens])."""

    vocabulary: Vocabulary
    ids: Mapping[str, NDArray[np.int32]]


class DamagedEntryError(Exception):
    """The files of an entry are not the ones that were written; the message says in what way."""


def entry_key(sums: Mapping[str, str], **settings: str) -> str:
    """The name of the entry of texts with these content sums, encoded with these settings."""
    text = json.dumps({"format": FORMAT, "sums": dict(sums), "settings": settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def open_or_build(root: Path, key: str, write: Callable[[Path], None]) -> Entry:
    """Open the entry `key` under `root`; where it is missing or damaged, make it first.

    Args:
        root: folder of entries; made when missing.
        key: name of the entry.
        write: is given an empty folder and writes the three id files and the vocabulary there.

    Raises:
        UserError: what `write` raises, or the entry is damaged each time it has been written.
        OSError: `root` cannot be written.
    """
    folder = root / key
    for _ in range(_ATTEMPTS):
        try:
            return open_entry(folder)
        except FileNotFoundError:
            pass
        except DamagedEntryError as error:
            _log.warning("the cached corpus %s is damaged (%s); building it again", folder, error)
            discard_folder(folder)
        build_folder(folder, lambda partial: _write_entry(partial, write))
    try:
        return open_entry(folder)
    except (FileNotFoundError, DamagedEntryError) as error:
        raise UserError(
            f"{folder} is damaged each time it is written ({error}); check the disk or set RNNCORE_CACHE to another"
        ) from error


def open_entry(folder: Path) -> Entry:
    """Check and open an entry.

    Raises:
        FileNotFoundError: there is no such folder.
        DamagedEntryError: a file is missing, or is not the one that was written.
        OSError: a file cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        _check_files(folder)
        ids = {split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in SPLITS}
        return Entry(Vocabulary.load(folder / VOCABULARY), ids)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedEntryError(f"{type(error).__name__}: {error}") from error


def _write_entry(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    files = {}
    for name in _FILES:
        path = folder / name
        # What is only in memory would be lost with the power, and the state on disk might not tell.
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        files[name] = {"bytes": path.stat().st_size, "crc32": _crc32(path), "state": file_state(path)}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), "utf-8")


def _check_files(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
    for name in _FILES:
        path, expected = folder / name, files[name]
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedEntryError(f"{name} has {size} bytes of {expected['bytes']}")
        if file_state(path) != expected["state"] and _crc32(path) != expected["crc32"]:
            raise DamagedEntryError(f"{name} has another checksum")


def _crc32(path: Path) -> int:
    buffer = bytearray(_BUFFER_BYTES)
    view, value = memoryview(buffer), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(view[:count], value)
    return value
