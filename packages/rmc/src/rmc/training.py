"""What ``rmc-train`` and ``rmc-train-rnn`` share: the epochs, a step, validation, and a run's beginning and end.

Shapes: T time steps, B batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rnncore import checkpoint, device, report
from rnncore.atomic_file import require_folder_for
from rnncore.corpus import Corpus
from rnncore.datasets import locate, loss_unit
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.flags import to_dict
from rnncore.interrupts import Interrupt, deferred_interrupt
from rnncore.memory import keep_freed_memory
from rnncore.resumption import open_resumed
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import keep_best, restore, save_all, save_last
from rnncore.vocabulary import Vocabulary
from rnncore.windows import detach, window
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rmc.language_model import LanguageModel
from rmc.onnx_export import export, require_onnx
from rmc.options import LanguageOptions, cutoffs_of, placed
from rmc.run_state import Training

EVAL_BATCH = 32
#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "log_interval", "checkpoint_interval", "cuda", "cudnn", "save", "name", "onnx_export"}

Options = TypeVar("Options", bound=LanguageOptions)
#: The directory and the checkpoint of a run to go on with.
Resumed = tuple[RunDirectory, dict[str, Any]]


def run(
    options: Options, command: str, build: Callable[[Options, int], LanguageModel], copy: Path | None = None
) -> None:
    """What a training command does.

    Args:
        options: Of the command.
        command: Its name.
        build: Makes the model from the options and the vocabulary's size.
        copy: A second file for the best model.
    """
    resumed: Resumed | None = None
    options = placed(options, command)
    if options.resume is not None:
        options, directory, saved = open_resumed(options, command, CHANGEABLE)
        resumed = directory, saved
    require_onnx(options.onnx_export)
    if copy is not None:
        require_folder_for(copy, "--save")
    keep_freed_memory()
    device.set_threads(options.threads)
    place = device.choose(options.device, cuda=options.cuda)
    device.seed_everything(options.seed)
    corpus = _load_corpus(options, Vocabulary(resumed[1]["vocabulary"]) if resumed else None)
    model = build(options, len(corpus.vocabulary)).to(place)
    columns = {"train": options.batch_size, "valid": EVAL_BATCH, "test": EVAL_BATCH}
    texts = {split: corpus.columns(split, count, place) for split, count in columns.items()}
    if options.dry_run:
        print(describe(options, model), end="")
        return
    with under_way(options, command, corpus, texts, model, copy=copy, resumed=resumed) as (training, interrupt):
        train(training, interrupt)


@contextmanager
def under_way(
    options: LanguageOptions,
    command: str,
    corpus: Corpus,
    texts: dict[str, Tensor],
    model: LanguageModel,
    *,
    copy: Path | None,
    resumed: Resumed | None,
) -> Iterator[tuple[Training, Interrupt]]:
    """Opens a run, new or resumed; at the end of the block tests the best model, or says how to go on after Ctrl-C."""
    if resumed is None:
        directory = RunDirectory.create(
            options.run_dir, command=command, config=to_dict(options), vocabulary=corpus.vocabulary
        )
    else:
        directory = resumed[0]
    unit = loss_unit("word", options.data)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    with RunLog(directory, unit=unit, log_interval=options.log_interval, total_steps=options.max_steps or None) as log:
        training = Training(
            options=options,
            command=command,
            device=texts["train"].device,
            vocabulary=corpus.vocabulary,
            texts=texts,
            model=model,
            optimizer=optimizer,
            schedule=ReduceLROnPlateau(optimizer, factor=0.5, patience=options.patience),
            run=directory,
            log=log,
            state=model.initial_state(options.batch_size),
            copy=copy,
        )
        if resumed is None:
            log.say(f"{command} on {options.data}: {len(corpus.vocabulary):,} types, run directory {directory.path}")
            _tell_cutoffs(training)
        else:
            restore(training, resumed[1])
        with deferred_interrupt() as interrupt:
            yield training, interrupt
        if interrupt:
            log.say(f"stopped; to go on: {command} --resume {directory.path}")
        else:
            _finish(training)
    directory.close()
    if interrupt:
        raise SystemExit(130)


def train(training: Training, interrupt: Interrupt) -> None:
    """The epochs: windows one after the other, the state carried; validate, keep the best, halve the rate."""
    options, log, text = training.options, training.log, training.texts["train"]
    while not (training.finished or interrupt):
        log.epoch(training.epoch, training.rows * options.batch_size, done=training.row * options.batch_size)
        training.model.train()
        stop = training.out_of_steps
        while training.row < training.rows and not stop:
            inputs, targets = window(text, training.row, min(options.bptt, training.rows - training.row))
            with numbered_step(log, training.model, saved=training.run.last.exists()):
                loss = _step(training, inputs, targets)
            training.row += len(inputs)
            log.step(loss, inputs.numel(), extra={"lr": training.rate} if log.due else None)
            stop = bool(interrupt) or training.out_of_steps
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training)
        if interrupt and training.row < training.rows:
            return
        with log.outside_step():
            whole = training.row == training.rows
            loss_valid, better = validate(training, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            _end_epoch(training, loss_valid, better)


def _step(training: Training, inputs: Tensor, targets: Tensor) -> Tensor:
    """One optimizer step on a window ``[T, B]``: the loss."""
    model, optimizer = training.model, training.optimizer
    optimizer.zero_grad()
    with device.autocast(training.device, training.options.amp):
        loss, state = model.loss(inputs, targets, training.state)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.options.clip)
    require_finite_step(loss.detach(), norm)
    optimizer.step()
    training.state = detach(state)
    return loss.detach()


def validate(training: Training, *, regular: bool = True) -> tuple[float, bool]:
    """The validation loss in nats per token, and whether it is the least so far; keeps the best model.

    ``regular``: as of `rnncore.run_state.keep_best`; not after ``--max_steps`` inside an epoch.
    """
    loss = evaluate(training.model, training.texts["valid"], training.options.amp)
    training.log.evaluated("valid", loss)
    return loss, keep_best(training, loss, training.copy, regular=regular)


def _end_epoch(training: Training, loss: float, better: bool) -> None:
    """Goes on to the next epoch, at a lower rate where the loss stalls, and saves."""
    rate = training.rate
    training.schedule.step(loss)
    if training.rate < rate:
        training.log.say(f"the validation loss stalls: learning rate {training.rate:g}")
    training.epoch, training.row = training.epoch + 1, 0
    training.state = training.model.initial_state(training.options.batch_size)
    save_last(training)
    if better:
        _save_epoch(training)


def _save_epoch(training: Training) -> None:
    """Write ``epoch<N>.pt`` for the epoch that has just ended, from which a run can go on, instead of earlier ones."""
    path = training.run.path / f"epoch{training.epoch - 1}.pt"
    save_all(training, path, keep_previous=False)
    for older in training.run.path.glob("epoch*.pt"):
        if older != path:
            older.unlink(missing_ok=True)


def _finish(training: Training) -> None:
    """Tests the best model, draws the curves, exports."""
    log, run, options = training.log, training.run, training.options
    if run.best.exists():
        training.model.load_state_dict(checkpoint.load(run.best, kind=training.command)["model"])
    log.evaluated("test", evaluate(training.model, training.texts["test"], options.amp))
    log.end()
    picture = run.path / "report.png"
    report.plot([run.path], picture)
    if options.onnx_export:
        export(training.model, Path(options.onnx_export))
        log.say(f"the best model as ONNX: {options.onnx_export}")
    log.say(f"run directory {run.path} | curves {picture} | best model {training.copy or run.best}")


def _load_corpus(options: LanguageOptions, vocabulary: Vocabulary | None) -> Corpus:
    """The corpus of ``--data``; for an adaptive softmax with the words sorted by frequency."""
    order = "frequency" if options.adaptive_softmax else "appearance"
    corpus = Corpus.load(locate(options.data), order=order)  # type: ignore[arg-type]
    if vocabulary is not None and corpus.vocabulary != vocabulary:
        raise UserError(f"{options.data} has another vocabulary than the run to resume; give its --data")
    return corpus


def _tell_cutoffs(training: Training) -> None:
    options, size = training.options, len(training.vocabulary)
    used = cutoffs_of(options, size)
    dropped = [cutoff for cutoff in options.cutoffs if used is not None and cutoff not in used]
    if dropped:
        shown = ", ".join(map(str, dropped))
        training.log.say(f"warning: the vocabulary has {size:,} words, so --cutoffs {shown} are left out")
