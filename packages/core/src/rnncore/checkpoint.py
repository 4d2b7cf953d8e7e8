"""Checkpoints: plain dicts of tensors and plain data in one file that is replaced whole or not at all.

A checkpoint is what ``torch.save`` writes, and after it 12 bytes: a mark and the CRC-32 of everything before. torch
compares no sums, and some damage makes it return garbage in silence. ``torch.load`` reads such a file as well; here it
is read with ``weights_only=True``, so that nothing in it can run code.
"""

import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, cast

import torch

from rnncore.atomic_file import cannot_write, replace_file
from rnncore.device import restore_rng as restore_rng  # a checkpoint's reader finds both under one name
from rnncore.device import rng_state as rng_state
from rnncore.errors import UserError
from rnncore.out_of_memory import shortage

FORMAT = 1

_MARK = b"rnncore:"
_TRAILER = len(_MARK) + 4

_SCALARS = {str, int, float, bool, bytes, type(None), torch.dtype, torch.device, torch.Size}


def save(path: Path, state: dict[str, Any], *, keep_previous: bool = True) -> None:
    """Write a checkpoint; a crash at any moment leaves at least one whole file.

    Args:
        path: the checkpoint, for example ``last.pt``.
        state: tensors, numbers, strings and None in dicts, lists, tuples and sets. The key ``kind`` names the command
            that wrote it; ``format`` is added here.
        keep_previous: keep the version that is replaced as ``<stem>.previous.pt``.

    Raises:
        TypeError: the state holds an object that could not be loaded again; its place is named.
        UserError: the disk is full or refuses; the previous checkpoint is then still there.
    """
    _check_plain(state, "state")
    content = {**state, "format": FORMAT}
    previous = predecessor(path) if keep_previous else None
    try:
        replace_file(path, lambda file: _pack(content, file), previous=previous)
    except OSError as error:
        kept = "; the previous checkpoint is intact" if path.exists() or predecessor(path).exists() else ""
        raise UserError(f"{cannot_write(path, error)}{kept}") from error


def load(
    path: Path,
    *,
    kind: str | None = None,
    model: str | None = None,
    map_location: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Read a checkpoint, after comparing its sum.

    Args:
        path: the file.
        kind: what ``state["kind"]`` must be, the name of a command; None accepts every kind.
        model: what ``state["config"]["model"]`` must be; None accepts every model.
        map_location: the device that the tensors go to. Random states must be taken to the CPU, which
            :func:`restore_rng` does.

    Raises:
        UserError: the file is missing, truncated, damaged, no checkpoint, of another format, kind or model. The line
            names the file, and its predecessor where that is whole.
    """
    state = _read(path, map_location)
    if state["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}; this version reads format {FORMAT}")
    if kind is not None and state.get("kind") != kind:
        raise UserError(f"{path} is a checkpoint of {state.get('kind')}, not of {kind}")
    config = state.get("config")
    found = config.get("model") if isinstance(config, dict) else None
    if model is not None and found != model:
        raise UserError(f"{path} holds the model {found}, not {model}; use --model {found} or another checkpoint")
    return state


def predecessor(path: Path) -> Path:
    """Where :func:`save` keeps the version that it replaces: ``last.pt`` gives ``last.previous.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _read(path: Path, map_location: str | torch.device) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            damage = _damage(file)
            if damage is not None:
                raise UserError(f"the checkpoint {path} is damaged ({damage}){_way_back(path)}")
            return _unpack(path, file, map_location)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}{_way_back(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error


def _unpack(path: Path, file: IO[bytes], map_location: str | torch.device) -> dict[str, Any]:
    foreign = UserError(f"{path} is not a checkpoint of these packages")
    file.seek(0)
    try:
        state = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:
        if isinstance(error, OSError) or shortage(error):
            raise
        raise foreign from error  # the sum is right, so whatever torch cannot read was never one of ours
    if not isinstance(state, dict) or "format" not in state:
        raise foreign
    return state


class _Summed:
    """Passes writes on and keeps their CRC-32; ``torch.save`` asks for no more of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = 0

    def write(self, data: bytes) -> int:
        self.sum = zlib.crc32(data, self.sum)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _pack(content: dict[str, Any], file: IO[bytes]) -> None:
    summed = _Summed(file)
    torch.save(content, cast(IO[bytes], summed))
    file.write(_MARK + summed.sum.to_bytes(4, "little"))


def _damage(file: IO[bytes]) -> str | None:
    """What is wrong with the bytes, or None. Reads the file once; about a second per gigabyte."""
    left = file.seek(0, os.SEEK_END) - _TRAILER
    if left < 0:
        return "it is cut off"
    file.seek(0)
    total = 0
    while left > 0 and (data := file.read(min(left, 2**20))):
        total = zlib.crc32(data, total)
        left -= len(data)
    trailer = file.read(_TRAILER)
    if not trailer.startswith(_MARK):
        return "it is cut off, or no checkpoint"
    return None if trailer == _MARK + total.to_bytes(4, "little") else "its sum is wrong"


def _way_back(path: Path) -> str:
    older = predecessor(path)
    try:
        with open(older, "rb") as file:
            whole = _damage(file) is None
    except OSError:
        return ""
    return f"; its predecessor {older} is whole: rename it to {path.name} to go back to it" if whole else ""


def _check_plain(value: object, place: str) -> None:
    """Refuse what ``weights_only=True`` would refuse later, when it is too late."""
    if isinstance(value, torch.Tensor) or type(value) in _SCALARS:
        return
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        for key, item in value.items():
            _check_plain(key, f"a key of {place}")
            _check_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple, set):
        assert isinstance(value, list | tuple | set)
        if not {type(item) for item in value} <= _SCALARS:  # a vocabulary is long, and passes here at once
            for index, item in enumerate(value):
                _check_plain(item, f"{place}[{index}]")
    else:
        raise TypeError(f"a checkpoint holds tensors and plain data; {place} is a {type(value).__qualname__}")
