"""``revrnn-train``: language models of reversible layers, trained by reversal or not, and their baselines.

The recipe is that of the paper's repository: SGD on windows of random length, the learning rate scaled by the length
and divided when the validation loss stalls, until it falls below 0.01. The best model is tested.

Shapes: T time steps, B batch.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rnncore import device
from rnncore.asgd import NonMonotone, scaled_lr
from rnncore.corpus import Corpus
from rnncore.cuda_graph import GraphedStep
from rnncore.datasets import locate, loss_unit
from rnncore.divergence import require_finite_step
from rnncore.epochs import finished, learning_rate, length_multiple, train_epoch
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import keep_best, save_last
from rnncore.training_run import draw_curves, load_best, ready, reopened, under_way
from rnncore.windows import random_length
from torch import Tensor

from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM
from revrnn.options import COMMAND, TrainOptions, build_model
from revrnn.run_state import SMALLEST_RATE, Training

VALID_BATCH, TEST_BATCH = 10, 1
#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "log_interval", "checkpoint_interval", "cuda", "no_cuda", "save", "save_dir"}


@command(
    TrainOptions,
    name=COMMAND,
    examples=[
        "revrnn-train --model revgru --use_reverse",
        "revrnn-train --data wt2 --model revlstm --use_reverse --run_dir runs/wt2",
        "revrnn-train --resume --run_dir runs/wt2",
    ],
)
def main(options: TrainOptions) -> None:
    """Train a language model of reversible (or plain) GRU or LSTM layers on a text.

    With --use_reverse the hidden states are not stored: they are rebuilt exactly, backward in time, from the last
    state and a few bits per step, so that memory hardly grows with --bptt. Losses are in nats per token.
    """
    options, resumed = reopened(options, COMMAND, CHANGEABLE)
    on_cpu = options.no_cuda and options.device == "auto"
    place = ready(
        dataclasses.replace(options, device="cpu") if on_cpu else options, seed=options.seed, cuda=options.cuda
    )
    corpus = Corpus.load(locate(options.data), level=options.level)
    if resumed is not None and list(corpus.vocabulary.tokens) != resumed.saved["vocabulary"]:
        raise UserError(f"{options.data} has another vocabulary than the run to resume; give its --data")
    model = build_model(options, len(corpus.vocabulary)).to(place)
    columns = {"train": options.batch_size, "valid": VALID_BATCH, "test": TEST_BATCH}
    texts = {split: corpus.columns(split, size, place) for split, size in columns.items()}
    if options.dry_run:
        print(describe(options, model), end="")
        return
    with under_way(
        options,
        COMMAND,
        partial(_prepare, options, place, corpus, texts, model),
        resumed=resumed,
        title=f"{options.model} on {options.data}: {len(corpus.vocabulary):,} types",
        finish=_finish,
        log_interval=options.log_interval,
        unit=loss_unit(options.level, options.data),
        vocabulary=corpus.vocabulary,
        place=_place_of(options),
    ) as (training, interrupt):
        _train(training, interrupt)


def _train(training: Training, interrupt: Interrupt) -> None:
    """The epochs: train, validate, keep the best model, divide the rate when the loss stalls."""
    options, log, optimizer = training.options, training.log, training.optimizer
    step, length = partial(_step, training), partial(_length, training)
    while not (_finished(training) or interrupt):
        whole = train_epoch(training, training.texts["train"], interrupt, step, length)
        if interrupt and not whole:
            return
        with log.outside_step():
            valid_loss = evaluate(training.model, training.texts["valid"], options.amp)
            log.evaluated("valid", valid_loss)
            keep_best(training, valid_loss, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            if training.trigger.update(valid_loss):
                optimizer.param_groups[0]["lr"] /= options.learning_rate_decay
                training.trigger.history.clear()  # what came before the new rate says nothing about it
                log.say(f"the validation loss stalls: learning rate {learning_rate(optimizer):g}")
            training.epoch, training.row = training.epoch + 1, 0
            training.state = training.model.initial_state(options.batch_size)
            save_last(training)


def _finished(training: Training) -> bool:
    """Whether all epochs or steps are done and evaluated, or the rate has been divided until it is too small."""
    options = training.options
    too_small = learning_rate(training.optimizer) < min(SMALLEST_RATE, options.learning_rate)
    return too_small or finished(training, options.epochs)


def _length(training: Training, left: int) -> int:
    """Of the next window, of at most ``left`` steps."""
    multiple = length_multiple(training, graphed=training.graph is not None)
    return random_length(training.options.bptt, training.lengths, left, multiple)


def _step(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step on a window ``[T, B]``: the loss, and numbers for the log."""
    options, model, optimizer, due = training.options, training.model, training.optimizer, training.log.due
    optimizer.zero_grad()
    extra = {"lr": learning_rate(optimizer)}
    with device.autocast(training.device, options.amp):
        if training.graph is not None:
            loss, training.state = training.graph(inputs, targets, training.state)
        elif isinstance(model, BaselineLM):
            loss, training.state = model.loss(inputs, targets, training.state)
        else:
            run = model.loss_and_backward if options.use_reverse else partial(model.loss, buffered=options.use_buffers)
            counted = due and (options.use_reverse or options.use_buffers)
            loss, training.state, bits = run(inputs, targets, training.state, count_bits=counted)
            if bits is not None:
                training.bits = bits
                extra |= {"actual_ratio": bits.saving, "optimal_ratio": bits.best_saving}
    if training.graph is None and not options.use_reverse:
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(loss.detach(), norm)
    with scaled_lr(optimizer, len(inputs) / options.bptt):
        optimizer.step()
    return loss.detach(), extra


def _finish(training: Training) -> None:
    """Tests the best model and draws the curves."""
    log, run = training.log, training.run
    load_best(training)
    log.evaluated("test", evaluate(training.model, training.texts["test"], training.options.amp))
    log.end()
    if (bits := training.bits) is not None:
        shown = f"{bits.saving:.1f} times less memory than stored ones, {bits.best_saving:.1f} times at best"
        log.say(f"hidden states: {shown}")
    picture = draw_curves(run)
    log.say(f"run directory {run.path} | curves {picture} | text: revrnn-generate --run_dir {run.path}")


def _place_of(options: TrainOptions) -> Path | None:
    """The directory of a new run, where the options name one."""
    if options.run_dir is None and options.save:
        return Path(options.save_dir) / time.strftime("%Y-%m-%d_%H-%M-%S")
    return options.run_dir


def _prepare(
    options: TrainOptions,
    place: torch.device,
    corpus: Corpus,
    texts: dict[str, Tensor],
    model: ReversibleLM | BaselineLM,
    run: RunDirectory,
    log: RunLog,
) -> Training:
    graph = None
    if options.cuda_graph and place.type == "cuda" and isinstance(model, ReversibleLM):
        run_model = partial(model.loss_and_backward, wait=False)
        graph = GraphedStep(lambda *window: tuple(run_model(*window))[:2], model.parameters())
    rate, decay = options.learning_rate, options.weight_decay
    return Training(
        options=options,
        device=place,
        vocabulary=corpus.vocabulary,
        texts=texts,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, fused=True),
        trigger=NonMonotone(options.nonmono),
        lengths=np.random.default_rng(options.seed),
        run=run,
        log=log,
        state=model.initial_state(options.batch_size),
        graph=graph,
    )
