"""Finds the raw files of a data set in what a user has: a directory, an archive, or the one raw file."""

import logging
from pathlib import Path, PurePosixPath

from rnncore.archives import extract, is_archive
from rnncore.dataset_description import Dataset, Download, RawFile
from rnncore.dataset_verification import matches
from rnncore.datasets import missing_files
from rnncore.errors import UserError

_log = logging.getLogger(__name__)


def raw_files(dataset: Dataset, origin: Path, folder: Path, *, force: bool | None = False) -> list[Path] | None:
    """The raw files of a data set, in its order; None if ``origin`` is a directory that holds the prepared files.

    Args:
        dataset: what is looked for.
        origin: a directory with the raw files (under any of their names, or as an unpacked archive leaves them), with
            the archive, or with the prepared files; an archive; or the raw file, if there is but one.
        folder: where files out of an archive are written.
        force: log a wrong checksum instead of raising; None if the user has no such choice.

    Raises:
        UserError: the data are not there, or an archive has a wrong checksum or a path that escapes.
    """
    archives = _archives(dataset)
    if origin.is_dir():
        raw = _in_directory(dataset, origin)
        if raw is not None:
            return raw
        if not missing_files(dataset, origin):
            return None
        archive = next((origin / item.filename for item in archives if (origin / item.filename).is_file()), None)
        if archive is None:
            names = [" or ".join(raw_file.names) for raw_file in dataset.raw] + [item.filename for item in archives]
            raise UserError(f"{origin} does not hold {dataset.name}: looked for {', '.join(dict.fromkeys(names))}")
        return _in_archive(dataset, archive, folder, force)
    if not origin.is_file():
        raise UserError(f"{origin}: no such file or directory")
    if is_archive(origin):
        return _in_archive(dataset, origin, folder, force)
    if len(dataset.raw) != 1:
        raise UserError(f"{origin} is no archive: give the directory that holds the files of {dataset.name}")
    return [origin]


def insist(problem: str, *, force: bool | None) -> None:
    """Raise a failed check as UserError, or only log it if the user forces the matter (None: that is not on offer)."""
    if not force:
        raise UserError(problem if force is None else f"{problem} (--force installs it all the same)")
    _log.warning("%s", problem)


def _in_directory(dataset: Dataset, directory: Path) -> list[Path] | None:
    found = []
    for raw in dataset.raw:
        places = [directory / place for place in (*raw.names, *_members(dataset, raw))]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            return None
        found.append(path)
    return found or None


def _in_archive(dataset: Dataset, archive: Path, folder: Path, force: bool | None) -> list[Path]:
    for item in _archives(dataset):
        if item.filename == archive.name and item.checksum is not None and not matches(archive, item.checksum):
            insist(f"{archive.name}: its checksum is not the published one", force=force)
    return extract(archive, [(*_members(dataset, raw), *raw.names) for raw in dataset.raw], folder)


def _members(dataset: Dataset, raw: RawFile) -> list[str]:
    """Where published archives have a raw file."""
    every = (member for item in _archives(dataset) for member in item.members)
    return [member for member in every if PurePosixPath(member).name == raw.names[0]]


def _archives(dataset: Dataset) -> list[Download]:
    return [item for source in dataset.sources for item in source if item.members]
