"""Whether the files of a data set are what they should be: published sums, published token counts, recorded sums."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rnncore.dataset_description import DataFile, Dataset

RECORD = "SHA256SUMS"
"""Beside installed files: their sums when they were installed, in the format of ``sha256sum``."""

_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one file, or about the data set as a whole (then ``file`` is empty)."""

    file: str
    ok: bool
    message: str


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, algorithm).hexdigest()


def matches(path: Path, expected: str) -> bool:
    """Whether a file has a checksum given as SHA-256, or as ``md5:`` and the MD5."""
    algorithm, _, digest = expected.rpartition(":")
    return checksum(path, algorithm or "sha256") == digest


def record_sums(directory: Path, names: Sequence[str]) -> None:
    """Write the sums of the named files of a directory beside them."""
    lines = [f"{checksum(directory / name)}  {name}\n" for name in names]
    (directory / RECORD).write_text("".join(lines), encoding="utf-8")


def verify(dataset: Dataset, directory: Path, *, count: bool = True) -> list[Finding]:
    """Check the files of a data set: one finding per file, and one more if the number of distinct tokens is off.

    A file with a published SHA-256 must have it. Any other must have the published number of tokens, and the sum that
    was recorded when it was installed.

    Args:
        dataset: what the files should be.
        directory: where they lie.
        count: whether tokens are counted, which takes seconds per 100 megabytes.
    """
    recorded = _recorded_sums(directory)
    findings = [_check(file, directory, recorded.get(file.name)) for file in dataset.files]
    if not count or not all(finding.ok for finding in findings) or all(file.sha256 for file in dataset.files):
        return findings
    types = {b"<eos>"}
    for index, file in enumerate(dataset.files):
        if file.tokens is not None:
            findings[index] = _check_count(file, directory, types, findings[index])
    if dataset.types is not None and len(types) != dataset.types:
        message = f"{len(types):,} distinct tokens where {dataset.types:,} are expected"
        findings.append(Finding(file="", ok=False, message=message))
    return findings


def count_tokens(path: Path, types: set[bytes]) -> int:
    """The number of words and line ends of a text; its distinct words are added to ``types``.

    Words are what ASCII white space separates. A progress bar shows on a terminal.
    """
    tokens = 0
    bar = tqdm(
        total=path.stat().st_size, desc=f"counting {path.name}", unit="B", unit_scale=True, disable=None, leave=False
    )
    with path.open("rb") as text, bar:
        while block := text.read(_BLOCK) + text.readline():
            words = block.split()
            tokens += len(words) + block.count(b"\n")
            types.update(words)
            bar.update(len(block))
    return tokens


def _check(file: DataFile, directory: Path, recorded: str | None) -> Finding:
    """Check a file's presence and its sum against the published one, or else against the recorded one."""
    path = directory / file.name
    if not path.is_file():
        return Finding(file=file.name, ok=False, message="missing")
    expected = file.sha256 or recorded
    if expected is None:
        return Finding(file=file.name, ok=True, message="there, no sum is known")
    found = checksum(path)
    if found != expected:
        origin = "published" if file.sha256 else "recorded when it was installed"
        return Finding(
            file=file.name, ok=False, message=f"SHA-256 {found[:12]}... is not the one {origin}, {expected[:12]}..."
        )
    return Finding(
        file=file.name, ok=True, message="SHA-256 as published" if file.sha256 else "unchanged since installed"
    )


def _check_count(file: DataFile, directory: Path, types: set[bytes], finding: Finding) -> Finding:
    tokens = count_tokens(directory / file.name, types)
    if tokens != file.tokens:
        return Finding(file=file.name, ok=False, message=f"{tokens:,} tokens where {file.tokens:,} are expected")
    return Finding(file=file.name, ok=True, message=f"{tokens:,} tokens as published; {finding.message}")


def _recorded_sums(directory: Path) -> dict[str, str]:
    try:
        lines = (directory / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = [line.split("  ", 1) for line in lines]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
