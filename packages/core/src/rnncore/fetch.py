"""Brings a data set to this machine: fetched or from local copies, checked, prepared, and installed in one move."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rnncore.archives import extract
from rnncore.dataset_description import Dataset, Download
from rnncore.dataset_verification import RECORD, matches, record_sums, verify
from rnncore.datasets import data_directory, missing_files
from rnncore.errors import UserError
from rnncore.local_copies import insist, raw_files
from rnncore.mirrors import download

_ATTEMPTS = 20
_ABANDONED = 24 * 3600.0  # seconds after which a workspace is that of a call that was killed


def get(
    dataset: Dataset,
    *,
    data_dir: Path | None = None,
    origin: Path | None = None,
    force: bool = False,
    timeout: float = 30.0,
    advice: str | None = None,
) -> Path:
    """Install a data set and give its directory; one that is installed and undamaged is left alone.

    Everything happens in a temporary directory beside the final one, which is renamed at the end: an interrupted call
    leaves no half data set.

    Args:
        dataset: what to get.
        data_dir: where data sets are installed; default ``rnncore.datasets.data_directory()``.
        origin: take the data from this directory, archive or raw file, and replace what is installed.
        force: install data from ``origin`` even if they fail a check; each failure is logged.
        timeout: seconds without an answer after which the next mirror is tried.
        advice: what a user without a network should do; by default ``rnn-data get --from``.

    Raises:
        UserError: no mirror gave the right files, ``origin`` does not hold them, or the disk cannot take them.
    """
    if dataset.embedded is not None:
        return dataset.embedded()
    data_dir = data_dir or data_directory()
    target = data_dir / dataset.name
    if origin is None and intact(dataset, target):
        return target
    try:
        with _workspace(data_dir, dataset.name) as work:
            if origin is None:
                prepared = _from_sources(dataset, data_dir, work, timeout, advice)
            else:
                prepared = _from_origin(dataset, origin.expanduser(), work, force)
            record_sums(prepared, [file.name for file in dataset.files])
            _install(prepared, target, work)
    except OSError as error:
        raise UserError(f"cannot install {dataset.name} in {data_dir}: {error}") from None
    return target


def intact(dataset: Dataset, directory: Path) -> bool:
    """Whether all files are there with the right sums (where no sum was recorded: with the right token counts)."""
    if missing_files(dataset, directory):
        return False
    count = not (directory / RECORD).is_file()
    return all(finding.ok for finding in verify(dataset, directory, count=count))


@contextmanager
def _workspace(data_dir: Path, name: str) -> Iterator[Path]:
    """A temporary directory on the file system of the data directory; those of killed calls are swept away."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for leftover in data_dir.glob(".*.partial"):
        with suppress(FileNotFoundError):  # another call has just ended
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=f".{name}-", suffix=".partial") as work:
        yield Path(work)


def _from_sources(dataset: Dataset, data_dir: Path, work: Path, timeout: float, advice: str | None) -> Path:
    """Prepare the data from the set that they are made from, if that is there, or from the first source that works."""
    base = dataset.made_from
    if base is not None and intact(base, data_dir / base.name):
        return _from_origin(dataset, data_dir / base.name, work, force=None)
    problems = []
    for number, source in enumerate(dataset.sources):
        folder = work / f"source{number}"
        folder.mkdir()
        try:
            return _prepare(dataset, _fetch(dataset, source, folder, timeout), folder, force=None)
        except UserError as error:
            problems.append(error.message)
    cause = "; ".join(problems) or "nobody offers it for download"
    advice = advice or f"if you have a copy: 'rnn-data get {dataset.name} --from DIR_OR_FILE'"
    raise UserError(f"{dataset.name}: {cause}; {advice}")


def _fetch(dataset: Dataset, source: Sequence[Download], folder: Path, timeout: float) -> list[Path]:
    """Download and unpack one source; the raw files in the order of the data set."""
    found = {}
    for item in source:
        path = download(item, folder, timeout=timeout)
        raw = extract(path, [(member,) for member in item.members], folder) if item.members else [path]
        found.update({file.name: file for file in raw})
    return [found[raw_file.names[0]] for raw_file in dataset.raw]


def _from_origin(dataset: Dataset, origin: Path, work: Path, force: bool | None) -> Path:
    folder = work / "origin"
    folder.mkdir()
    raw = raw_files(dataset, origin, folder, force=force)
    if raw is not None:
        return _prepare(dataset, raw, folder, force=force)
    prepared = folder / "prepared"
    prepared.mkdir()
    for file in dataset.files:
        shutil.copyfile(origin / file.name, prepared / file.name)
    _check(dataset, prepared, force=force)
    return prepared


def _prepare(dataset: Dataset, raw: Sequence[Path], folder: Path, *, force: bool | None) -> Path:
    """Check the raw files, prepare the data in a folder of their own, check them; that folder."""
    for raw_file, path in zip(dataset.raw, raw, strict=True):
        if raw_file.checksum is not None and not matches(path, raw_file.checksum):
            insist(f"{path.name}: its checksum is not the published one", force=force)
    prepared = folder / "prepared"
    prepared.mkdir()
    dataset.prepare(raw, prepared)
    _check(dataset, prepared, force=force)
    return prepared


def _check(dataset: Dataset, prepared: Path, *, force: bool | None) -> None:
    bad = [finding for finding in verify(dataset, prepared) if not finding.ok]
    if bad:
        problems = ", ".join(
            f"{finding.file}: {finding.message}" if finding.file else finding.message for finding in bad
        )
        insist(f"these are not the data of {dataset.name}: {problems}", force=force)


def _install(prepared: Path, target: Path, work: Path) -> None:
    """Rename the prepared directory to its final name; what had that name goes to the workspace, to be deleted."""
    for attempt in range(_ATTEMPTS):  # other processes may be installing the same data set
        try:
            if os.path.lexists(target):
                os.rename(target, work / f"replaced{attempt}")
            os.rename(prepared, target)
            return
        except OSError:
            if attempt == _ATTEMPTS - 1:
                raise
