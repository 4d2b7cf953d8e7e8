"""Where caches lie, how a folder appears there as a whole, and what to do where a cache cannot be written."""

import atexit
import contextlib
import functools
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import platformdirs

from rnncore.errors import UserError

_PARTIAL = ".partial-"
_PARTIAL_LIFE_SECONDS = 24 * 3600

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def cache_root() -> Path:
    """The folder of all caches: the environment variable ``RNNCORE_CACHE``, else the user's cache folder."""
    named = os.environ.get("RNNCORE_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("rnncore")


def with_fallback(folder: Path, use: Callable[[Path], _T]) -> _T:
    """Call `use(folder)`; where that meets an `OSError`, warn and call it with a temporary folder instead.

    The temporary folder is shared by the process and removed when it ends.

    Raises:
        UserError: the temporary folder cannot be written either.
    """
    try:
        return use(folder)
    except OSError as error:
        _log.warning("the cache %s cannot be used (%s); working in a temporary folder", folder, error)
    try:
        return use(_temporary_folder())
    except OSError as error:
        raise UserError(
            f"neither {folder} nor the temporary folder can be written ({error}); set RNNCORE_CACHE to another"
        ) from error


def build_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make `folder` appear with all that `write` puts into the empty folder it is given, or not at all.

    Where another process has made it in the meantime, that one stays.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    partial = _partial_beside(folder)
    partial.mkdir()
    try:
        write(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def discard_folder(folder: Path) -> None:
    """Remove a folder in one step, as others see it; one that is not there is no error.

    Raises:
        OSError: the folder cannot be moved.
    """
    aside = _partial_beside(folder)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _partial_beside(folder: Path) -> Path:
    return folder.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")


def _remove_abandoned(root: Path) -> None:
    """Remove what processes that were killed left behind."""
    for partial in root.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _PARTIAL_LIFE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rnncore-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
