"""The directory of one training run: where its files are, who may write to it, and which run is the newest."""

import os
import shlex
import sys
import time
import weakref
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rnncore.atomic_file import cannot_write, replace_file
from rnncore.checkpoint import predecessor
from rnncore.config_file import config_text
from rnncore.device import describe_machine
from rnncore.errors import UserError
from rnncore.vocabulary import Vocabulary

RUNS = Path("runs")
_LOCK = ".lock"


class RunDirectory:
    """One run's directory. One process at a time may hold it; a lock says so and goes with the process.

    Use :meth:`create` for a new run and :meth:`reopen` for ``--resume``. Sent to another process, it is there one that
    is not held: for reading only.

    Attributes:
        path: the directory.
        held: whether this process may write to it.
    """

    def __init__(self, path: Path, *, held: bool = True) -> None:
        """Take an existing directory. Raises UserError when another process holds it; not ``held`` asks nobody."""
        self.path = path
        self.held = held
        self._release = weakref.finalize(self, os.close, _lock(path)) if held else None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RunDirectory, held=False), (self.path,)

    @classmethod
    def create(
        cls, path: Path | None, *, command: str, config: dict[str, Any], vocabulary: Vocabulary | None = None
    ) -> "RunDirectory":
        """A directory for a new run, with its configuration, and its vocabulary if it has one, written.

        Args:
            path: the directory, made when missing; None takes a new ``runs/<command>/<date>_<time>``.
            command: the name of the command.
            config: its options, as plain data; ``config.yaml`` can be given to ``--config``.
            vocabulary: goes to ``vocab.txt``.

        Files of a run that stopped before its first checkpoint are removed.

        Raises:
            UserError: the directory already holds a run, is in use, or cannot be written.
        """
        try:
            if path is None:
                path = _new_directory(RUNS / command)
            else:
                path.mkdir(parents=True, exist_ok=True)
            if _last_checkpoint(path) is not None:
                raise UserError(f"{path} holds a run; --resume continues it, or choose another --run_dir")
            had_a_run = (path / _LOCK).exists()  # else files of these names are somebody else's
            run = cls(path)
            if had_a_run:
                run._clear()
            _write_config(run.config_file, command, config)
            if vocabulary is not None:
                vocabulary.save(run.vocabulary)
        except OSError as error:
            place = path if path is not None else RUNS / command
            raise cannot_write(place, error) from error
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """The directory of a run to continue, named by itself or by a checkpoint in it.

        Raises:
            UserError: it holds no last checkpoint, or is in use.
        """
        if path.suffix == ".pt" and not path.is_dir():
            path = path.parent
        if _last_checkpoint(path) is None:
            raise UserError(f"{path} holds no run to resume: there is no last.pt")
        return cls(path)

    @property
    def last(self) -> Path:
        """The checkpoint to resume from; its predecessor is ``last.previous.pt``."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation loss."""
        return self.path / "best.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: see docs/metrics.md."""
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        """What the command printed."""
        return self.path / "log.txt"

    @property
    def config_file(self) -> Path:
        """The options of the run; comments on top name the command line and the machine."""
        return self.path / "config.yaml"

    @property
    def vocabulary(self) -> Path:
        """One type a line, in order of ids."""
        return self.path / "vocab.txt"

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    def _clear(self) -> None:
        for leftover in (self.metrics, self.log_file, self.best, *self.events.glob("events.out.*")):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock; it also goes when the object or the process does."""
        if self._release is not None:
            self._release()


def latest(command: str, *, root: Path = RUNS) -> Path:
    """The run of ``command`` under ``root`` with the newest last checkpoint. Raises UserError when there is none."""
    folder = root / command
    candidates = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    found = [(checkpoint.stat().st_mtime_ns, entry) for entry in candidates if (checkpoint := _last_checkpoint(entry))]
    if not found:
        raise UserError(f"there is no run in {folder}; name its directory with --run_dir")
    return max(found)[1]


def _last_checkpoint(path: Path) -> Path | None:
    last = path / "last.pt"
    return next((file for file in (last, predecessor(last)) if file.exists()), None)


def _new_directory(folder: Path) -> Path:
    """Runs may start within one second: making the directory is what decides who owns a name."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        path = folder / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _write_config(path: Path, command: str, config: dict[str, Any]) -> None:
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
    command_line = shlex.join(sys.argv).replace("\n", " ")
    header = f"# {command}, rnncore {version('rnncore')}\n# command line: {command_line}\n# machine: {machine}\n"
    text = header + config_text(config)
    replace_file(path, lambda file: file.write(text.encode()))


def _lock(path: Path) -> int:
    """Lock the directory for this process; returns the descriptor that holds the lock."""
    file = path / _LOCK
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(file, error) from error
    try:
        _lock_descriptor(descriptor)
    except (BlockingIOError, PermissionError) as error:
        os.close(descriptor)
        raise UserError(f"{path} is in use by another process; wait for it, or choose another --run_dir") from error
    except OSError:
        pass  # a file system without locks: go on without the guard
    return descriptor


def _lock_descriptor(descriptor: int) -> None:
    # Record locks belong to the process: a second RunDirectory in it is let in, a forked worker does not keep them.
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
