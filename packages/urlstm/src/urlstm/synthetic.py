"""The loop of the tasks whose sequences are made up for each step: adding and copy.

Every step trains on sequences that were never seen before, so the training loss is one of new data, too.
"""

from typing import Protocol

import torch
from rnncore.divergence import numbered_step
from rnncore.interrupts import Interrupt
from rnncore.run_state import save_last
from rnncore.training_run import Resumed
from torch import Tensor, nn

from urlstm.options import AddingOptions, CopyOptions
from urlstm.random_streams import Purpose
from urlstm.run_state import Training
from urlstm.training import Evaluation, optimizer_step, under_way, validated

#: Sequences of a validation, and of the test.
VALID_SEQUENCES, TEST_SEQUENCES = 200, 1000

Options = AddingOptions | CopyOptions


class Task(Protocol):
    """What there is to learn."""

    def loss(self, number: int) -> Tensor:
        """Of the sequences of a step, which are a function of its number, from 0."""

    def evaluate(self, training: Training, purpose: Purpose, sequences: int) -> Evaluation:
        """On so many sequences that are not trained on."""


def run(
    options: Options,
    command: str,
    place: torch.device,
    model: nn.Module,
    recurrent: nn.Module,
    task: Task,
    *,
    resumed: Resumed | None,
    title: str,
    tokens: int,
    baseline: float,
) -> None:
    """Trains on a task, and tests.

    Args:
        options: Of the command.
        command: Its name.
        place: The device that ``model`` is on.
        model: What is trained.
        recurrent: Its gated layer.
        task: What it learns.
        resumed: The run to go on with.
        title: What the console says of the task.
        tokens: Time steps of a sequence that the loss counts.
        baseline: The loss of who only guesses.
    """

    def test(training: Training) -> Evaluation:
        found = task.evaluate(training, Purpose.TEST, TEST_SEQUENCES)
        return found._replace(extra={**found.extra, "baseline": baseline})

    last = min(options.n_steps, options.max_steps or options.n_steps)
    with under_way(
        options, command, place, model, recurrent, resumed=resumed, title=title, test=test, total_steps=last
    ) as (training, interrupt):
        _train(training, options, interrupt, last, tokens * options.batch_size, task)


def _train(training: Training, options: Options, interrupt: Interrupt, last: int, tokens: int, task: Task) -> None:
    """Trains to step ``last``, or until Ctrl-C; validates and saves on the way. A step counts ``tokens``."""
    log = training.log

    def validate() -> Evaluation:
        return task.evaluate(training, Purpose.VALID, VALID_SEQUENCES)

    log.epoch(1, options.n_steps * tokens, done=log.global_step * tokens)
    training.model.train()
    stop = log.global_step >= last
    while not stop:
        with numbered_step(log, training.model, saved=training.run.last.exists()):
            loss = optimizer_step(training, lambda: task.loss(log.global_step))
        log.step(loss, tokens)
        with log.outside_step():
            if log.global_step % options.valid_interval == 0:
                validated(training, validate())
            stop = bool(interrupt) or log.global_step == last
            if stop or log.global_step % options.checkpoint_interval == 0:
                save_last(training)
    if not interrupt and log.global_step % options.valid_interval:
        validated(training, validate(), regular=False)


def batches(sequences: int, batch_size: int) -> list[int]:
    """Sizes of batches that make up so many sequences."""
    full, rest = divmod(sequences, batch_size)
    return [batch_size] * full + [rest] * (rest > 0)
