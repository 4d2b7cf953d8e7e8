"""SHA-256 sums of large files, remembered while the file on disk stays the same.

A sum is remembered in a small JSON file under the cache, beside what the operating system says of the file (size,
times of the last change of content and of status, inode, device). All of these must agree for it to be used again. A
file that changed less than `SETTLED_SECONDS` ago is always read: a second change in the same tick would not show.
"""

import contextlib
import hashlib
import json
import time
import uuid
from pathlib import Path

from rnncore.encoding import read_blocks
from rnncore.errors import UserError

SETTLED_SECONDS = 2.0


def content_sum(path: Path, cache: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; remembered under `cache` where that can be written.

    Raises:
        UserError: the file cannot be read.
    """
    state = file_state(path)
    remembered = _recall(path, cache)
    if remembered is not None and remembered[0] == state:
        return remembered[1]
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    remember_sum(path, state, digest.hexdigest(), cache)
    return digest.hexdigest()


def file_state(path: Path) -> list[int]:
    """What changes when a file does: size, mtime and ctime in nanoseconds, inode, device.

    Raises:
        UserError: there is no such file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def remember_sum(path: Path, state: list[int], sha256: str, cache: Path) -> None:
    """Note that the file had this sum while in `state` (taken before it was read), if that is certain."""
    settled = time.time_ns() - max(state[1], state[2]) > SETTLED_SECONDS * 1e9
    if not settled or file_state(path) != state:
        return
    note = _note(path, cache)
    # Without the note the sum is computed again, so a cache that cannot be written is no error here.
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_name(f".{note.name}-{uuid.uuid4().hex}")
        partial.write_text(json.dumps({"path": str(path.resolve()), "state": state, "sha256": sha256}), "utf-8")
        partial.replace(note)


def _recall(path: Path, cache: Path) -> tuple[list[int], str] | None:
    try:
        note = json.loads(_note(path, cache).read_text("utf-8"))
        return list(note["state"]), str(note["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(path: Path, cache: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache / "sums" / f"{name}.json"
