"""A training command around its epochs: the run that it opens or goes on with, and its end.

options, resumed = reopened(options, COMMAND, CHANGEABLE)
place = ready(options, seed=options.seed, cuda=options.cuda)
...
with under_way(options, COMMAND, make, resumed=resumed, title=title, finish=finish) as (training, interrupt):
    ...  # the epochs, until ``interrupt``
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from rnncore import checkpoint, device, report
from rnncore.distributed import CommonInterrupt, Ranks
from rnncore.flags import to_dict
from rnncore.interrupts import Interrupt, deferred_interrupt
from rnncore.loss_units import Unit
from rnncore.memory import keep_freed_memory
from rnncore.resumption import open_resumed
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import RunOptions
from rnncore.run_state import UnderWay, restore
from rnncore.vocabulary import Vocabulary

Options = TypeVar("Options", bound=RunOptions)
Run = TypeVar("Run", bound=UnderWay)


class Resumed(NamedTuple):
    """The directory and the checkpoint of a run to go on with."""

    directory: RunDirectory
    saved: dict[str, Any]


def reopened(options: Options, command: str, changeable: set[str]) -> tuple[Options, Resumed | None]:
    """The options of the run that ``--resume`` asks for, and that run; without it, the options as they are.

    Arguments and errors as of `rnncore.resumption.open_resumed`.
    """
    if options.resume is None:
        return options, None
    options, directory, saved = open_resumed(options, command, changeable)
    return options, Resumed(directory, saved)


def ready(options: RunOptions, *, seed: int | None = None, cuda: bool = False) -> torch.device:
    """Makes torch ready, and gives the device to compute on.

    Args:
        options: Of the command.
        seed: Of all generators, if they are to be seeded now.
        cuda: Whether a GPU is insisted on.

    Raises:
        UserError: There is no such device.
    """
    keep_freed_memory()
    device.set_threads(options.threads)
    place = device.choose(options.device, cuda=cuda)
    if seed is not None:
        device.seed_everything(seed)
    return place


@contextmanager
def under_way(
    options: RunOptions,
    command: str,
    make: Callable[[RunDirectory, RunLog], Run],
    *,
    resumed: Resumed | None,
    title: str,
    finish: Callable[[Run], None],
    log_interval: int,
    unit: Unit | None = None,
    vocabulary: Vocabulary | None = None,
    total_steps: int | None = None,
    place: Path | None = None,
    ranks: Ranks | None = None,
    restored: Callable[[Run, Mapping[str, Any]], None] = restore,
) -> Iterator[tuple[Run, Interrupt]]:
    """Opens a run, new or resumed, for the block that trains; then ends it, or after Ctrl-C says how to go on.

    Args:
        options: Of the command.
        command: Its name.
        make: Makes a run that has not begun.
        resumed: From `reopened`.
        title: What the console says of a new run, before its directory.
        finish: Called after the block, unless it was interrupted.
        log_interval, unit: Of `rnncore.run_log.RunLog`.
        vocabulary: Of a text.
        total_steps: The last step, where it is known and not that of ``--max_steps``.
        place: The directory of a new run, if it is not that of ``--run_dir``.
        ranks: The processes of the run, where the command can be started as several; all of them call this.
        restored: Brings a run to where the checkpoint is.

    Raises:
        SystemExit: With status 130, after Ctrl-C.
    """

    def created() -> RunDirectory:
        path, config = place or options.run_dir, to_dict(options)
        return RunDirectory.create(path, command=command, config=config, vocabulary=vocabulary)

    new = created if ranks is None else partial(ranks.shared, created)
    directory = new() if resumed is None else resumed.directory
    steps = total_steps or options.max_steps or None
    with RunLog(directory, unit=unit, log_interval=log_interval, total_steps=steps) as log:
        training = make(directory, log)
        if resumed is None:
            log.say(f"{title}, run directory {directory.path}")
        else:
            restored(training, resumed.saved)
        with deferred_interrupt() as own:
            interrupt = own if ranks is None else CommonInterrupt(own, ranks)
            yield training, interrupt
        if interrupt:
            log.say(f"stopped; to go on: {command} --resume {directory.path}")
        else:
            finish(training)
    directory.close()
    if interrupt:
        raise SystemExit(130)


def load_best(training: UnderWay) -> None:
    """Gives the model the weights of ``best.pt``, where there is one."""
    if training.run.best.exists():
        training.model.load_state_dict(checkpoint.load(training.run.best, kind=training.command)["model"])


def draw_curves(run: RunDirectory) -> Path:
    """Writes ``report.png``, the curves of a run; its path."""
    picture = run.path / "report.png"
    report.plot([run.path], picture)
    return picture
