"""What the four training commands share: the optimizer step, validation, and a run's beginning and end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from rnncore import checkpoint, device, report
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.flags import to_dict
from rnncore.interrupts import Interrupt, deferred_interrupt
from rnncore.memory import keep_freed_memory
from rnncore.resumption import open_resumed
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog, Unit
from rnncore.run_state import keep_best, restore
from rnncore.vocabulary import Vocabulary
from torch import Tensor, nn

from urlstm.options import CHANGEABLE, TaskOptions
from urlstm.run_state import Training

Options = TypeVar("Options", bound=TaskOptions)


class Evaluation(NamedTuple):
    """The loss over a whole set, and further numbers for the log."""

    loss: float
    extra: dict[str, float]


class Resumed(NamedTuple):
    """The directory and the checkpoint of a run to go on with."""

    run: RunDirectory
    saved: dict[str, Any]


def begin(options: Options, command: str) -> tuple[Options, torch.device, Resumed | None]:
    """Opens the run that ``--resume`` asks for, if any, and makes torch ready.

    Returns:
        The options (of the resumed run), the device, and the run to go on with.

    Raises:
        UserError: There is no such run or device.
    """
    resumed = None
    if options.resume is not None:
        options, run, saved = open_resumed(options, command, CHANGEABLE)
        resumed = Resumed(run, saved)
    keep_freed_memory()
    device.set_threads(options.threads)
    return options, device.choose(options.device), resumed


@contextmanager
def under_way(
    options: TaskOptions,
    command: str,
    place: torch.device,
    model: nn.Module,
    recurrent: nn.Module,
    *,
    resumed: Resumed | None,
    title: str,
    unit: Unit | None = None,
    total_steps: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> Iterator[tuple[Training, Interrupt]]:
    """Opens a run, new or resumed, with AdamW as the port has it; after Ctrl-C says how to go on and leaves.

    Args:
        options: Of the command.
        command: Its name.
        place: The device that ``model`` is on.
        model: What is trained.
        recurrent: Its gated layer, whose gradient is clipped.
        resumed: From `begin`.
        title: What the console says of a new run.
        unit: Of `rnncore.run_log.RunLog`.
        total_steps: The last step, where that is known.
        vocabulary: Of a text.
    """
    if resumed is None:
        run = RunDirectory.create(options.run_dir, command=command, config=to_dict(options), vocabulary=vocabulary)
    else:
        run = resumed.run
    with RunLog(run, unit=unit, log_interval=options.log_interval, total_steps=total_steps) as log:
        training = Training(
            options=options,
            command=command,
            device=place,
            model=model,
            recurrent=recurrent,
            optimizer=torch.optim.AdamW(model.parameters(), lr=options.learning_rate),
            run=run,
            log=log,
            vocabulary=vocabulary,
        )
        if resumed is None:
            log.say(f"{options.model_type} on {title}, run directory {run.path}")
        else:
            restore(training, resumed.saved)
        with deferred_interrupt() as interrupt:
            yield training, interrupt
        if interrupt:
            log.say(f"stopped; to go on: {command} --resume {run.path}")
    run.close()
    if interrupt:
        raise SystemExit(130)


def optimizer_step(training: Training, loss_of_batch: Callable[[], Tensor]) -> Tensor:
    """One step of AdamW: the loss, detached. Only the gradient of the recurrent weights is clipped, as in the port.

    Raises:
        UserError: The gradient or the loss is not finite; the line tells the step.
    """
    with numbered_step(training.log, training.model, saved=training.run.last.exists()):
        training.optimizer.zero_grad()
        with device.autocast(training.device, training.options.amp):
            loss = loss_of_batch()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(training.recurrent.parameters(), training.options.clip)
        require_finite_step(loss.detach(), norm)
        training.optimizer.step()
    return loss.detach()


@contextmanager
def evaluating(training: Training) -> Iterator[None]:
    """Dropout off, no gradients, and the precision of ``--amp``."""
    training.model.eval()
    with torch.no_grad(), device.autocast(training.device, training.options.amp):
        yield
    training.model.train()


def validated(training: Training, result: Evaluation, *, keep: bool = True, regular: bool = True) -> None:
    """Logs a validation, and keeps the model if it is the best so far.

    Args:
        training: The run.
        result: Of the validation.
        keep: Whether models are kept at all.
        regular: As of `rnncore.run_state.keep_best`.
    """
    training.log.evaluated("valid", result.loss, extra=result.extra)
    if keep:
        keep_best(training, result.loss, regular=regular)


def finish(training: Training, test: Callable[[], Evaluation]) -> None:
    """Tests the best model (the last, where none was kept) and draws the curves."""
    log, run = training.log, training.run
    if run.best.exists():
        training.model.load_state_dict(checkpoint.load(run.best, kind=training.command)["model"])
    result = test()
    log.evaluated("test", result.loss, extra=result.extra)
    log.end()
    picture = run.path / "report.png"
    report.plot([run.path], picture)
    log.say(f"run directory {run.path} | curves {picture}")
