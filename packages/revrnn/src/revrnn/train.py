"""``revrnn-train``: language models of reversible layers, trained by reversal or not, and their baselines.

The recipe is that of the paper's repository: SGD on windows of random length, the learning rate scaled by the length
and divided when the validation loss stalls, until it falls below 0.01. The best model is tested.

Shapes: T time steps, B batch.
"""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rnncore import checkpoint, device, report
from rnncore.asgd import NonMonotone, scaled_lr
from rnncore.corpus import Corpus
from rnncore.cuda_graph import GraphedStep
from rnncore.datasets import locate, loss_unit
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.flags import command, to_dict
from rnncore.interrupts import Interrupt, deferred_interrupt
from rnncore.memory import keep_freed_memory
from rnncore.resumption import open_resumed
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import keep_best, restore, save_last
from rnncore.windows import random_length, window
from torch import Tensor

from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM
from revrnn.options import COMMAND, TrainOptions, build_model
from revrnn.run_state import Training

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
    run, saved = None, None
    if options.resume is not None:
        options, run, saved = open_resumed(options, COMMAND, CHANGEABLE)
    keep_freed_memory()
    device.set_threads(options.threads)
    place = device.choose("cpu" if options.no_cuda and options.device == "auto" else options.device, cuda=options.cuda)
    device.seed_everything(options.seed)
    corpus = Corpus.load(locate(options.data), level=options.level)
    if saved is not None and list(corpus.vocabulary.tokens) != saved["vocabulary"]:
        raise UserError(f"{options.data} has another vocabulary than the run to resume; give its --data")
    model = build_model(options, len(corpus.vocabulary)).to(place)
    columns = {"train": options.batch_size, "valid": VALID_BATCH, "test": TEST_BATCH}
    texts = {split: corpus.columns(split, size, place) for split, size in columns.items()}
    if options.dry_run:
        print(describe(options, model), end="")
        return
    if run is None:
        run = _new_run(options, corpus)
    with RunLog(
        run,
        unit=loss_unit(options.level, options.data),
        log_interval=options.log_interval,
        total_steps=options.max_steps or None,
    ) as log:
        training = _prepare(options, place, corpus, texts, model, run, log)
        if saved is None:
            log.say(f"{options.model} on {options.data}: {len(corpus.vocabulary):,} types, run directory {run.path}")
        else:
            restore(training, saved)
        with deferred_interrupt() as interrupt:
            _train(training, interrupt)
        if interrupt:
            log.say(f"stopped; to go on: {COMMAND} --resume {run.path}")
        else:
            _finish(training)
    if interrupt:
        raise SystemExit(130)


def _train(training: Training, interrupt: Interrupt) -> None:
    """The epochs: train, validate, keep the best model, divide the rate when the loss stalls."""
    options, log, optimizer, text = training.options, training.log, training.optimizer, training.texts["train"]
    rows = len(text) - 1
    while not (training.finished or interrupt):
        log.epoch(training.epoch, rows * options.batch_size, done=training.row * options.batch_size)
        training.model.train()
        stop = training.out_of_steps
        while training.row < rows and not stop:
            length = random_length(options.bptt, training.lengths, rows - training.row, training.multiple)
            inputs, targets = window(text, training.row, length)
            saved = training.run.last.exists()
            with scaled_lr(optimizer, length / options.bptt), numbered_step(log, training.model, saved=saved):
                loss, extra = _step(training, inputs, targets)
            training.row += length
            log.step(loss, inputs.numel(), extra=extra)
            stop = bool(interrupt) or training.out_of_steps
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training)
        if interrupt and training.row < rows:
            return
        with log.outside_step():
            valid_loss = evaluate(training.model, training.texts["valid"], options.amp)
            log.evaluated("valid", valid_loss)
            whole = training.row == rows
            keep_best(training, valid_loss, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            if training.trigger.update(valid_loss):
                optimizer.param_groups[0]["lr"] /= options.learning_rate_decay
                training.trigger.history.clear()  # what came before the new rate says nothing about it
                log.say(f"the validation loss stalls: learning rate {training.rate:g}")
            training.epoch, training.row = training.epoch + 1, 0
            training.state = training.model.initial_state(options.batch_size)
            save_last(training)


def _step(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step on a window ``[T, B]``: the loss, and numbers for the log when a line is due."""
    options, model, due = training.options, training.model, training.log.due
    training.optimizer.zero_grad()
    extra = {"lr": training.rate * options.bptt / len(inputs)} if due else {}
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
                extra |= {"actual_ratio": bits.normal / bits.used, "optimal_ratio": bits.normal / bits.optimal}
    if training.graph is None and not options.use_reverse:
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(loss.detach(), norm)
    training.optimizer.step()
    return loss.detach(), extra


def _finish(training: Training) -> None:
    """Tests the best model and draws the curves."""
    log, run = training.log, training.run
    if run.best.exists():
        training.model.load_state_dict(checkpoint.load(run.best, kind=COMMAND)["model"])
    log.evaluated("test", evaluate(training.model, training.texts["test"], training.options.amp))
    log.end()
    if (bits := training.bits) is not None:
        saved, best = bits.normal / bits.used, bits.normal / bits.optimal
        log.say(f"hidden states: {saved:.1f} times less memory than stored ones, {best:.1f} times at best")
    picture = run.path / "report.png"
    report.plot([run.path], picture)
    log.say(f"run directory {run.path} | curves {picture} | text: revrnn-generate --run_dir {run.path}")


def _new_run(options: TrainOptions, corpus: Corpus) -> RunDirectory:
    path = options.run_dir
    if path is None and options.save:
        path = Path(options.save_dir) / time.strftime("%Y-%m-%d_%H-%M-%S")
    return RunDirectory.create(path, command=COMMAND, config=to_dict(options), vocabulary=corpus.vocabulary)


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
    if options.cuda_graph and place.type == "cuda" and isinstance(model, ReversibleLM) and options.use_reverse:
        reversible = model
        graph = GraphedStep(lambda *window: tuple(reversible.loss_and_backward(*window))[:2], model.parameters())
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
