"""A progress bar over the tokens of an epoch, on standard error, and only when that is a terminal."""

import os
import shutil
import sys
import time
from typing import Any

from tqdm import tqdm

# Seconds from one text beside the bar to the next: below this a reader sees flicker.
_TEXT_EVERY = 0.5

# Without the rate, which the text tells better, this leaves room for the text in 80 columns.
_FORMAT = "{desc} {percentage:.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class ProgressBar:
    """One bar at a time; every method does nothing while there is none."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._text_at = 0.0

    def start(self, title: str, *, total: int, done: int) -> None:
        """Show a bar of ``total`` tokens of which ``done`` are behind us; one that is shown already goes away."""
        self.close()
        if sys.stderr.isatty():
            columns, lines = shutil.get_terminal_size()
            known = _size_is_known()
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=title,
                unit_scale=True,
                bar_format=_FORMAT,
                leave=False,
                dynamic_ncols=known,
                ncols=None if known else columns,
                nrows=None if known else lines,
                file=sys.stderr,
            )

    def advance(self, tokens: int) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update(tokens)

    @property
    def wants_text(self) -> bool:
        """Whether there is a bar whose text is old."""
        return self._bar is not None and time.perf_counter() - self._text_at >= _TEXT_EVERY

    def text(self, text: str) -> None:
        """Set the text beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            self._text_at = time.perf_counter()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _size_is_known() -> bool:
    """Whether the terminal tells its size; tqdm shows nothing on one of zero lines, as some containers have."""
    try:
        return all(os.get_terminal_size(sys.stderr.fileno()))
    except OSError:
        return False


def print_above(text: str) -> None:
    """Print a line to standard output, above the bar if there is one; what the console cannot show becomes ``?``."""
    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(text.encode(encoding, "replace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()
