"""``rmc-nth-farthest``: the task Nth farthest. Every step trains on new questions, a function of seed and step."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rnncore import device
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import Stateful, keep_best, save_last
from rnncore.training_run import draw_curves, load_best, ready, reopened, under_way
from torch import Tensor
from torch.nn import functional as F

from rmc import accuracy_plot
from rmc.farthest import farthest_batch, generator_for
from rmc.farthest_model import FarthestModel
from rmc.farthest_options import FARTHEST, FarthestOptions, build_model

TRAIN, VALID, TEST = range(3)  # results depend on these: streams of random numbers
CHANGEABLE = {"n_steps", "log_interval", "checkpoint_interval", "cuda", "compare_with"}


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on; ``best`` is the least validation loss so far.

    It has one epoch, and no state that one step leaves to the next.
    """

    options: FarthestOptions
    device: torch.device
    model: FarthestModel
    optimizer: torch.optim.Optimizer
    run: RunDirectory
    log: RunLog
    command: str = FARTHEST
    vocabulary: None = None
    epoch: int = 1
    row: int = 0
    state: None = None
    best: float = math.inf

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        return {"optimizer": self.optimizer}


@command(
    FarthestOptions,
    name=FARTHEST,
    examples=[
        "rmc-nth-farthest --objects 4 --dimensions 4 --n_steps 4000 --run_dir runs/rmc4",
        "rmc-nth-farthest --model lstm --objects 4 --dimensions 4 --n_steps 4000 --compare_with runs/rmc4",
        "rmc-nth-farthest --resume runs/rmc4 --n_steps 8000",
    ],
)
def main(options: FarthestOptions) -> None:
    """Train on the task Nth farthest: of vectors shown one by one, which is the N-th farthest from vector M?

    The loss is in nats per question; the accuracy is the share of right answers, which guessing brings to one over
    --objects.
    """
    options, resumed = reopened(options, FARTHEST, CHANGEABLE)
    others = accuracy_plot.runs_named(options.compare_with)
    place = ready(options, seed=options.seed, cuda=options.cuda)
    model = build_model(options).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    limit = min(options.n_steps, options.max_steps or options.n_steps)

    def make(run: RunDirectory, log: RunLog) -> Training:
        return Training(options=options, device=place, model=model, optimizer=optimizer, run=run, log=log)

    with under_way(
        options,
        FARTHEST,
        make,
        resumed=resumed,
        title=f"{options.model} on Nth farthest (guessing costs {math.log(options.objects):.3f})",
        finish=partial(_finish, others=others),
        log_interval=options.log_interval,
        total_steps=limit,
    ) as (training, interrupt):
        _train(training, limit, interrupt)


def _train(training: Training, limit: int, interrupt: Interrupt) -> None:
    """Trains until a step or Ctrl-C; validates and saves on the way."""
    options, log = training.options, training.log
    tokens = options.objects * options.batch_size
    log.epoch(1, options.n_steps * tokens, done=log.global_step * tokens)
    stop = log.global_step >= limit
    while not stop:
        inputs, answers = _questions(training, TRAIN, log.global_step, options.batch_size)
        with numbered_step(log, training.model, saved=training.run.last.exists()):
            loss = _step(training, inputs, answers)
        log.step(loss, tokens)
        with log.outside_step():
            if log.global_step % options.valid_interval == 0:
                _validate(training)
            stop = bool(interrupt) or log.global_step == limit
            if stop or log.global_step % options.checkpoint_interval == 0:
                save_last(training)
    if not interrupt and log.global_step % options.valid_interval:
        _validate(training, regular=False)


def _step(training: Training, inputs: Tensor, answers: Tensor) -> Tensor:
    """One optimizer step on questions ``[O, B, I]``: the mean loss. Gradients of parts of them add up."""
    model, options = training.model, training.options
    training.optimizer.zero_grad()
    total = torch.zeros((), device=training.device)
    size = options.part_size
    for part, right in zip(torch.split(inputs, size, 1), torch.split(answers, size), strict=True):
        with device.autocast(training.device, options.amp):
            logits = model(part)
        loss = F.cross_entropy(logits.to(inputs.dtype), right, reduction="sum") / len(answers)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(total, norm)
    training.optimizer.step()
    return total


def _questions(training: Training, purpose: int, number: int, size: int) -> tuple[Tensor, Tensor]:
    options = training.options
    generator = generator_for(options.seed, purpose, number, training.device)
    return farthest_batch(generator, size, options.objects, options.dimensions)


@torch.no_grad()
def _evaluate(training: Training, purpose: int) -> tuple[float, dict[str, float]]:
    """The mean loss and the accuracy over questions that are not trained on, the same at every call."""
    options, model = training.options, training.model
    count, loss, right = options.test_questions, 0.0, 0.0
    model.eval()
    for number, start in enumerate(range(0, count, options.batch_size)):
        inputs, answers = _questions(training, purpose, number, min(options.batch_size, count - start))
        with device.autocast(training.device, options.amp):
            logits = model(inputs).to(inputs.dtype)
        loss += float(F.cross_entropy(logits, answers, reduction="sum"))
        right += float((logits.argmax(1) == answers).sum())
    model.train()
    return loss / count, {"accuracy": right / count}


def _validate(training: Training, *, regular: bool = True) -> None:
    """Logs a validation and keeps the model if it is the best so far; `rnncore.run_state.keep_best`."""
    loss, extra = _evaluate(training, VALID)
    training.log.evaluated("valid", loss, extra=extra)
    keep_best(training, loss, regular=regular)


def _finish(training: Training, others: list[Path]) -> None:
    """Tests the best model and draws the curves, those of the accuracy beside other runs'."""
    log, run = training.log, training.run
    load_best(training)
    loss, extra = _evaluate(training, TEST)
    log.evaluated("test", loss, extra=extra)
    log.end()
    draw_curves(run)
    picture = run.path / "accuracy.png"
    accuracy_plot.plot([run.path, *others], picture)
    log.say(f"run directory {run.path} | accuracy over steps {picture}")
