"""Reading text files of sentences, one a line, and pairs of them."""

import codecs
import gzip
import zlib
from pathlib import Path

from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, or of one compressed with gzip, without a byte-order mark.

    Raises UserError when it cannot be read.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        content = content.removeprefix(codecs.BOM_UTF8)
        text = content.decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {path}: {reason}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8 text") from None
    return text.removesuffix("\n").split("\n") if text else []


def read_pairs(source: Path, target: Path) -> list[tuple[str, str]]:
    """The lines of two files that belong together. Raises UserError where they have different numbers, or none."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise UserError(
            f"{source} has {len(sources):,} lines and {target} has {len(targets):,}: each line of one must be the "
            "translation of the same line of the other"
        )
    if not sources:
        raise UserError(f"{source} and {target} are empty")
    return list(zip(sources, targets, strict=True))


def write_lines(path: Path, lines: list[str]) -> None:
    """Writes a text file. Raises UserError where the disk refuses."""
    try:
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise cannot_write(path, error) from error
