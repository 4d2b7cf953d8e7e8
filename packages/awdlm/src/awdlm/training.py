"""What ``awdlm-train`` and ``awdlm-finetune`` share: the step, an epoch, validation, and a run's beginning and end.

Shapes: T time steps, B batch.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rnncore import epochs, training_run
from rnncore.asgd import AveragedParameters, NonMonotone, scaled_lr
from rnncore.atomic_file import require_folder_for
from rnncore.corpus import Corpus
from rnncore.cuda_graph import GraphedStep
from rnncore.datasets import loss_unit
from rnncore.divergence import require_finite_step
from rnncore.evaluation import evaluate
from rnncore.gradient import loss_and_gradient
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import copy_best, keep_best, restore, save_last
from rnncore.training_run import Resumed
from rnncore.windows import random_length
from torch import Tensor

from awdlm.model import AWDModel
from awdlm.options import ModelOptions
from awdlm.run_state import Training

VALID_BATCH, TEST_BATCH = 10, 1
#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "log_interval", "checkpoint_interval", "cuda", "save"}


def texts_of(corpus: Corpus, options: ModelOptions, place: torch.device) -> dict[str, Tensor]:
    """Each split in columns, ``[T, B]``. Raises UserError for a split that is too short."""
    columns = {"train": options.batch_size, "valid": VALID_BATCH, "test": TEST_BATCH}
    return {split: corpus.columns(split, count, place) for split, count in columns.items()}


def under_way(
    options: ModelOptions,
    command: str,
    corpus: Corpus,
    texts: dict[str, Tensor],
    model: AWDModel,
    optimizer: torch.optim.Optimizer,
    *,
    copy: Path | None,
    resumed: Resumed | None,
) -> AbstractContextManager[tuple[Training, Interrupt]]:
    """Opens a run, new or resumed; at the end of the block tests the best model, or says how to go on after Ctrl-C.

    Args:
        options: Of the command.
        command: Its name.
        corpus: What ``texts`` are of.
        texts: From `texts_of`.
        model: On its device.
        optimizer: Of its parameters.
        copy: A second file for the best model.
        resumed: The run to go on with.

    Raises:
        UserError: The second file has no folder to go to, which would else be found out after an epoch.
    """
    if copy is not None:
        require_folder_for(copy, "--save")
    return training_run.under_way(
        options,
        command,
        lambda run, log: _prepared(options, command, corpus, texts, model, optimizer, run, log, copy),
        resumed=resumed,
        title=f"{options.model} on {options.data}: {len(corpus.vocabulary):,} types",
        finish=_finish,
        log_interval=options.log_interval,
        unit=loss_unit(options.level, options.data),
        vocabulary=corpus.vocabulary,
        restored=_restored,
    )


def _restored(training: Training, saved: Mapping[str, Any]) -> None:
    restore(training, saved)
    copy_best(training, saved, training.copy)


def _prepared(
    options: ModelOptions,
    command: str,
    corpus: Corpus,
    texts: dict[str, Tensor],
    model: AWDModel,
    optimizer: torch.optim.Optimizer,
    run: RunDirectory,
    log: RunLog,
    copy: Path | None,
) -> Training:
    """A run that has not begun."""
    place = texts["train"].device
    step = partial(loss_and_gradient, model, activation=options.activation, temporal=options.temporal, amp=options.amp)
    return Training(
        options=options,
        command=command,
        device=place,
        vocabulary=corpus.vocabulary,
        texts=texts,
        model=model,
        optimizer=optimizer,
        averages=AveragedParameters(model.parameters()),
        trigger=NonMonotone(options.nonmono),
        lengths=np.random.default_rng(options.seed),
        run=run,
        log=log,
        state=model.initial_state(options.batch_size),
        gradient=GraphedStep(step, model.parameters()) if options.cuda_graph and place.type == "cuda" else step,
        copy=copy,
    )


def train_epoch(training: Training, interrupt: Interrupt) -> bool:
    """Trains to the end of the epoch, or until ``--max_steps`` or Ctrl-C stop it; whether it is at its end."""
    text, base = training.texts["train"], training.options.bptt
    multiple = epochs.length_multiple(training, graphed=isinstance(training.gradient, GraphedStep))

    def length(left: int) -> int:
        return random_length(base, training.lengths, left, multiple)

    return epochs.train_epoch(training, text, interrupt, partial(_step, training), length)


def _step(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step on a window ``[T, B]``, at a rate scaled by its length: the loss, and the rate."""
    options, model, optimizer = training.options, training.model, training.optimizer
    optimizer.zero_grad()
    loss, training.state = training.gradient(inputs, targets, training.state)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(loss, norm)
    with scaled_lr(optimizer, len(inputs) / options.bptt):
        rate = epochs.learning_rate(optimizer)
        optimizer.step()
    training.averages.update()
    return loss, {"lr": rate}


def validate(training: Training, *, regular: bool = True) -> float:
    """The validation loss in nats per token, of the averaged weights where there are any; keeps the best model.

    ``regular``: as of `rnncore.run_state.keep_best`; not after ``--max_steps`` inside an epoch.
    """
    with training.averages.swapped_in():
        loss = evaluate(training.model, training.texts["valid"], training.options.amp)
        training.log.evaluated("valid", loss)
        keep_best(training, loss, training.copy, regular=regular)
    return loss


def begin_epoch(training: Training) -> None:
    """Goes on to the next epoch and saves."""
    training.epoch, training.row = training.epoch + 1, 0
    training.state = training.model.initial_state(training.options.batch_size)
    save_last(training)


def _finish(training: Training) -> None:
    """Tests the best model and draws the curves."""
    log, run = training.log, training.run
    training_run.load_best(training)
    log.evaluated("test", evaluate(training.model, training.texts["test"], training.options.amp))
    log.end()
    picture, best = training_run.draw_curves(run), run.best if training.copy is None else training.copy
    log.say(f"run directory {run.path} | curves {picture} | best model {best}")
