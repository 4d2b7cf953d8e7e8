"""What the four training commands share: the optimizer step, validation, and a run around its steps."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from rnncore import device, training_run
from rnncore.divergence import require_finite_step
from rnncore.interrupts import Interrupt
from rnncore.loss_units import Unit
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import keep_best
from rnncore.training_run import Resumed
from rnncore.vocabulary import Vocabulary
from torch import Tensor, nn

from urlstm.options import TaskOptions
from urlstm.run_state import Training


class Evaluation(NamedTuple):
    """The loss over a whole set, and further numbers for the log."""

    loss: float
    extra: dict[str, float]


def under_way(
    options: TaskOptions,
    command: str,
    place: torch.device,
    model: nn.Module,
    recurrent: nn.Module,
    *,
    resumed: Resumed | None,
    title: str,
    test: Callable[[Training], Evaluation],
    unit: Unit | None = None,
    total_steps: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> AbstractContextManager[tuple[Training, Interrupt]]:
    """Opens a run, new or resumed, with AdamW as the port has it; at the end of the block tests the best model.

    Args:
        options: Of the command.
        command: Its name.
        place: The device that ``model`` is on.
        model: What is trained.
        recurrent: Its gated layer, whose gradient is clipped.
        resumed: The run to go on with.
        title: What the console says of a new run.
        test: Evaluates on the test set.
        unit: Of `rnncore.run_log.RunLog`.
        total_steps: The last step, where that is known.
        vocabulary: Of a text.
    """

    def make(run: RunDirectory, log: RunLog) -> Training:
        return Training(
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

    return training_run.under_way(
        options,
        command,
        make,
        resumed=resumed,
        title=f"{options.model_type} on {title}",
        finish=partial(_finish, test=test),
        log_interval=options.log_interval,
        unit=unit,
        vocabulary=vocabulary,
        total_steps=total_steps,
    )


def optimizer_step(training: Training, loss_of_batch: Callable[[], Tensor]) -> Tensor:
    """One step of AdamW: the loss, detached. Only the gradient of the recurrent weights is clipped, as in the port.

    Raises:
        UserError: The gradient or the loss is not finite.
    """
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


def _finish(training: Training, test: Callable[[Training], Evaluation]) -> None:
    """Tests the best model (the last, where none was kept) and draws the curves."""
    log, run = training.log, training.run
    training_run.load_best(training)
    result = test(training)
    log.evaluated("test", result.loss, extra=result.extra)
    log.end()
    log.say(f"run directory {run.path} | curves {training_run.draw_curves(run)}")
