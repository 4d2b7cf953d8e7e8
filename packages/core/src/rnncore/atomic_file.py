"""Replacing a file so that a crash or a full disk leaves either the old one or the new one, never half of one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rnncore.errors import UserError

# A quota and a file-size limit look like a full disk to the user.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, write: Callable[[IO[bytes]], object], *, previous: Path | None = None) -> None:
    """Write a new version of a file under a temporary name beside it, make it durable, and rename it into place.

    Args:
        path: the file to replace or to create.
        write: writes the content to the binary file that it is given.
        previous: where to keep the version that is replaced; None drops it.

    At every moment either ``path`` or ``previous`` is a whole file (once there was one). The temporary file is removed
    when anything goes wrong, except when the process is killed; the next call overwrites it.

    Raises:
        OSError: the system refuses a step. ``torch.save`` hides such an error in a ``RuntimeError``; it is dug out.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _set_aside(path, previous)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except RuntimeError as error:
        hidden = _hidden_os_error(error)
        if hidden is None:
            raise
        raise hidden from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a file that could not be written: its name and the reason."""
    reason = "no space left" if error.errno in _NO_SPACE else error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}")


def require_folder_for(path: Path, flag: str) -> None:
    """To be called before hours of work for a file. Raises UserError, naming ``flag``, where it has no folder to go to.

    ``path`` must not be a folder itself.
    """
    if path.is_dir() or not path.parent.is_dir():
        problem = "it is a folder; name a file" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"cannot write {flag} {path}: {problem}")


def _set_aside(path: Path, previous: Path) -> None:
    """Give the current file a second name, so that it never goes missing; move it where hard links are unknown."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        os.replace(path, previous)


def _sync_directory(folder: Path) -> None:
    """Make a rename durable; Windows has no such call for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hidden_os_error(error: BaseException) -> OSError | None:
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
