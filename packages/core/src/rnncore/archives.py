"""Takes single files out of zip and tar archives that nobody vouches for.

No member is ever unpacked to a path that the archive names: the bytes of each wanted regular file are copied to a name
that the caller chose. An archive that holds a path out of its own folder is refused as a whole.
"""

import gzip
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rnncore.errors import UserError

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # an encrypted zip file, or one with a compression that this Python lacks
)


def is_archive(path: Path) -> bool:
    """Whether the file is a zip or tar archive (tar: plain or compressed), judged by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def extract(archive: Path, wanted: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    """Copy the wanted files of an archive into a folder, each under the last part of its name.

    Args:
        archive: a zip or tar file.
        wanted: for each file the names that it may have. A name with a slash is a whole path in the archive; a name
            without one is found in any folder of the archive, provided that only one folder has it.
        folder: where the files are written.

    Returns:
        The path of each wanted file, in the order of ``wanted``.

    Raises:
        UserError: the archive is damaged or is none, has a member whose path escapes, or lacks a wanted file.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                files = {info.filename: info for info in opened.infolist() if not info.is_dir()}
                names = _choose(archive, opened.namelist(), list(files), wanted)
                return [_copy(opened.open(files[name]), folder / PurePosixPath(name).name) for name in names]
        with tarfile.open(archive) as opened_tar:
            members = opened_tar.getmembers()
            regular = {member.name: member for member in members if member.isreg()}
            names = _choose(archive, [member.name for member in members], list(regular), wanted)
            return [_copy(opened_tar.extractfile(regular[name]), folder / PurePosixPath(name).name) for name in names]
    except _DAMAGE as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise UserError(f"{archive.name}: damaged, or no zip or tar archive ({reason})") from None


def _choose(
    archive: Path, everything: Sequence[str], files: Sequence[str], wanted: Sequence[Sequence[str]]
) -> list[str]:
    """The member for each wanted file, after the check that no member at all escapes."""
    for name in everything:
        if _escapes(name):
            raise UserError(f"{archive.name}: refused, because its member {name!r} leads out of the archive's folder")
    return [_match(archive, files, names) for names in wanted]


def _escapes(name: str) -> bool:
    """Whether a member's path is absolute (POSIX or Windows) or climbs with ``..``."""
    return bool(re.match(r"[/\\]|[A-Za-z]:", name)) or ".." in re.split(r"[/\\]", name)


def _match(archive: Path, files: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if "/" in name:
            found = [file for file in files if PurePosixPath(file) == PurePosixPath(name)]
        else:
            found = [file for file in files if PurePosixPath(file).name == name]
        if len(found) == 1:
            return found[0]
    raise UserError(f"{archive.name}: holds no {' or '.join(names)}, or more than one")


def _copy(source: IO[bytes] | None, target: Path) -> Path:
    assert source is not None  # tarfile gives None only for members that are not regular files
    with source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    return target
