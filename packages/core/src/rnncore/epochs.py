"""The epochs of a language model: windows over its text, one after the other, with a checkpoint now and then."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from rnncore import device
from rnncore.divergence import numbered_step
from rnncore.errors import UserError
from rnncore.run_state import UnderWay, save_last
from rnncore.windows import window

#: What a step on the inputs and targets ``[T, B]`` of a window gives: its loss, and further numbers for the log.
Step = Callable[[Tensor, Tensor], tuple[Tensor, Mapping[str, float | Tensor]]]
#: Draws the length of the next window, at most so many time steps.
Length = Callable[[int], int]


class Asked(Protocol):
    """Whether training was asked to stop, such as `rnncore.interrupts.Interrupt`."""

    def ask(self) -> bool:
        """Whether it was."""


def train_epoch(
    training: UnderWay,
    text: Tensor,
    interrupt: Asked,
    step: Step,
    length: Length,
    save: Callable[[], None] | None = None,
) -> bool:
    """Trains from ``training.row`` to the end of the epoch, or until ``--max_steps`` or ``interrupt`` stop it.

    Args:
        training: Its options have ``batch_size`` and ``checkpoint_interval``.
        text: In columns, ``[T, B]``; of several processes each has some of the batch's.
        interrupt: Asked after each step.
        step: One optimizer step.
        length: Of a window.
        save: Writes a checkpoint; by default `save_last`.

    Returns:
        Whether the epoch is at its end; if not, it goes on from the checkpoint that was then written.

    Raises:
        UserError: The text ends before the row that a resumed run goes on from.
    """
    options, log, rows = training.options, training.log, len(text) - 1
    if training.row > rows:
        raise UserError(
            f"this run stopped at row {training.row:,} of its text, which now has {rows:,}: give it the old one"
        )
    log.epoch(training.epoch, rows * options.batch_size, done=training.row * options.batch_size)
    training.model.train()
    stop = out_of_steps(training)
    while training.row < rows and not stop:
        inputs, targets = window(text, training.row, length(rows - training.row))
        with numbered_step(log, training.model, saved=training.run.last.exists()):
            loss, extra = step(inputs, targets)
        training.row += len(inputs)
        log.step(loss, len(inputs) * options.batch_size, extra=extra)
        stop = interrupt.ask() or out_of_steps(training)
        if stop or log.global_step % options.checkpoint_interval == 0:
            with log.outside_step():
                save_last(training) if save is None else save()
    return training.row == rows


def out_of_steps(training: UnderWay) -> bool:
    """Whether ``--max_steps`` steps are done."""
    most: int = training.options.max_steps
    return 0 < most <= training.log.global_step


def finished(training: UnderWay, epochs: int) -> bool:
    """Whether so many epochs, or ``--max_steps`` steps, are done and evaluated."""
    return training.epoch > epochs or (out_of_steps(training) and training.row == 0)


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Of a window of ``--bptt`` steps, where rates are scaled by the length."""
    return float(optimizer.param_groups[0]["lr"])


def length_multiple(training: UnderWay, *, graphed: bool) -> int:
    """What random window lengths are rounded to, so that few differ where each costs a CUDA graph or memory."""
    costly = graphed or device.keeps_memory_of_shapes(training.device, training.options.amp)
    return 5 if costly else 1
