"""The words in which a data set is described: what is fetched, what is made of it, what is installed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rnncore.dataset_preparation import SPLIT_FILES, Prepare, copy_splits


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file to fetch.

    ``mirrors`` are addresses of the same bytes, in the order in which they are tried. ``checksum`` is the SHA-256 in
    hexadecimal, or ``md5:`` and the MD5; None where nobody has published one. ``members`` are the paths of the wanted
    files if the file is an archive; without any, the file itself is wanted and ``filename`` is its name as a raw file.
    """

    filename: str
    mirrors: tuple[str, ...]
    checksum: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """A file from which the data set is prepared: its name as published, then other names that ``--from`` accepts."""

    names: tuple[str, ...]
    checksum: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """An installed file: its SHA-256 where one bytewise content is right, its number of words and line ends else."""

    name: str
    sha256: str | None = None
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a name stands for.

    Attributes:
        name: its folder in the data directory, and what a user writes.
        aliases: other names for it.
        description: one line.
        size_mb: megabytes when installed, roughly.
        files: what the folder holds.
        characters: whether its words are single characters or bytes, so that a loss is told in bits per character.
        types: number of distinct tokens in all files together, ``<eos>`` included.
        raw: the files from which ``prepare`` makes ``files``.
        sources: each gives all raw files; they are tried in turn. Empty: only ``--from`` can bring the data set.
        prepare: called with the paths of the raw files, in the order of ``raw``, and the directory to fill.
        made_from: a data set whose installed files serve as raw files, so that nothing need be fetched.
        embedded: for a data set that needs no fetching: builds it if need be and gives its directory.
    """

    name: str
    aliases: tuple[str, ...] = ()
    description: str
    size_mb: int
    files: tuple[DataFile, ...] = tuple(DataFile(name=split) for split in SPLIT_FILES)
    characters: bool = False
    types: int | None = None
    raw: tuple[RawFile, ...] = ()
    sources: tuple[tuple[Download, ...], ...] = ()
    prepare: Prepare = copy_splits
    made_from: "Dataset | None" = None
    embedded: Callable[[], Path] | None = None
