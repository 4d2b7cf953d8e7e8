"""``metrics.jsonl``: one JSON object a line, flushed line by line. Its schema is docs/metrics.md."""

import contextlib
import json
from pathlib import Path
from typing import IO, Any, Literal

from rnncore.atomic_file import cannot_write, replace_file
from rnncore.errors import UserError
from rnncore.strict_json import json_text

Event = Literal["step", "valid", "test", "end"]


class MetricsFile:
    """Appends lines, and can go back to an earlier line.

    Attributes:
        lines: how many whole lines the file holds.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending, after removing the half line that a killed process may have left."""
        self._path = path
        self.lines = 0
        self._file = self._open()
        self.keep(None)

    def write(self, event: Event, numbers: dict[str, float]) -> None:
        """Append one line; a number that is not finite becomes null. Raises UserError when the disk refuses."""
        line = json_text({"event": event, **numbers}) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self.lines += 1

    def keep(self, lines: int | None) -> None:
        """Drop all but the first ``lines`` whole lines (None: drop only a half line at the end), atomically."""
        self.close()
        content = self._path.read_bytes()
        kept = [line + b"\n" for line in content.split(b"\n")[:-1]][:lines]
        self.lines = len(kept)
        if b"".join(kept) != content:
            try:
                replace_file(self._path, lambda file: file.writelines(kept))
            except OSError as error:
                raise cannot_write(self._path, error) from error
        self._file = self._open()

    def close(self) -> None:
        """Close the file. A line that a full disk refused is lost; that was told when it was written."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _open(self) -> IO[bytes]:
        try:
            return open(self._path, "ab")
        except OSError as error:
            raise cannot_write(self._path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a ``metrics.jsonl``; a half line at the end (of a run that goes on or was killed) is left out.

    Raises:
        UserError: the file is missing, or a line is not a JSON object with an ``event``; file and line are named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; is {path.parent} a run directory?") from error
    whole = content.split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "event" not in row:
            raise UserError(f"{path}, line {number}: not a line of metrics (a JSON object with an event)")
        rows.append(row)
    return rows
