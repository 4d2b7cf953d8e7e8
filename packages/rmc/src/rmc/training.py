"""What ``rmc-train`` and ``rmc-train-rnn`` share: the epochs, a step, validation, and a run's beginning and end.

Shapes: T time steps, B batch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from rnncore import checkpoint, device, training_run
from rnncore.atomic_file import require_folder_for
from rnncore.corpus import Corpus
from rnncore.datasets import locate, loss_unit
from rnncore.distributed import Ranks, processes
from rnncore.divergence import require_finite_step
from rnncore.epochs import finished, learning_rate, train_epoch
from rnncore.errors import UserError
from rnncore.evaluation import evaluate
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import keep_best
from rnncore.training_run import Resumed, draw_curves, ready, reopened
from rnncore.vocabulary import Vocabulary
from rnncore.windows import detach
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rmc.language_model import LanguageModel
from rmc.onnx_export import export, require_onnx
from rmc.options import LanguageOptions, cutoffs_of, placed
from rmc.run_state import Training, restore, save

EVAL_BATCH = 32
#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "log_interval", "checkpoint_interval", "cuda", "cudnn", "save", "name", "onnx_export"}

Options = TypeVar("Options", bound=LanguageOptions)


def run(
    options: Options, command: str, build: Callable[[Options, int], LanguageModel], copy: Path | None = None
) -> None:
    """What a training command does, in one process or in each of several.

    Args:
        options: Of the command.
        command: Its name.
        build: Makes the model from the options and the vocabulary's size.
        copy: A second file for the best model.
    """
    with processes() as ranks:
        options, resumed = ranks.shared(lambda: _begun(options, command, copy))
        place = ranks.device(ready(options, seed=options.seed, cuda=options.cuda))
        with ranks.one_first():
            corpus = _load_corpus(options, Vocabulary(resumed.saved["vocabulary"]) if resumed else None)
        model = build(options, len(corpus.vocabulary)).to(place)
        ranks.take_over(model)
        ranks.seed(options.seed)
        columns = {"train": options.batch_size, "valid": EVAL_BATCH, "test": EVAL_BATCH}
        texts = {split: ranks.part(corpus.columns(split, count, place)) for split, count in columns.items()}
        if not options.dry_run:
            opened = under_way(options, command, corpus, texts, model, ranks=ranks, copy=copy, resumed=resumed)
            with opened as (training, interrupt):
                if resumed is None:
                    _introduce(training)
                train(training, interrupt)
        elif ranks.first:
            print(describe(options, model), end="")


def _begun(options: Options, command: str, copy: Path | None) -> tuple[Options, Resumed | None]:
    """The options of the run, and what it goes on from. Raises UserError where it could not end well."""
    options, resumed = reopened(placed(options, command), command, CHANGEABLE)
    require_onnx(options.onnx_export)
    if copy is not None:
        require_folder_for(copy, "--save")
    return options, resumed


def under_way(
    options: LanguageOptions,
    command: str,
    corpus: Corpus,
    texts: dict[str, Tensor],
    model: LanguageModel,
    *,
    ranks: Ranks,
    copy: Path | None,
    resumed: Resumed | None,
) -> AbstractContextManager[tuple[Training, Interrupt]]:
    """Opens a run, new or resumed; at the end of the block tests the best model, or says how to go on after Ctrl-C."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)

    def make(directory: RunDirectory, log: RunLog) -> Training:
        return Training(
            options=options,
            command=command,
            ranks=ranks,
            device=texts["train"].device,
            vocabulary=corpus.vocabulary,
            texts=texts,
            model=model,
            optimizer=optimizer,
            schedule=ReduceLROnPlateau(optimizer, factor=0.5, patience=options.patience),
            run=directory,
            log=log,
            state=model.initial_state(texts["train"].shape[1]),
            copy=copy,
        )

    return training_run.under_way(
        options,
        command,
        make,
        resumed=resumed,
        title=f"{command} on {options.data}: {len(corpus.vocabulary):,} types",
        finish=_finish,
        log_interval=options.log_interval,
        unit=loss_unit("word", options.data),
        vocabulary=corpus.vocabulary,
        ranks=ranks,
        restored=restore,
    )


def train(training: Training, interrupt: Interrupt) -> None:
    """The epochs: windows one after the other, the state carried; validate, keep the best, halve the rate."""
    options, log = training.options, training.log
    step, length = partial(_step, training), partial(min, options.bptt)
    save_now = partial(save, training, training.run.last)
    while not (finished(training, options.epochs) or interrupt):
        whole = train_epoch(training, training.texts["train"], interrupt, step, length, save_now)
        if interrupt and not whole:
            return
        with log.outside_step():
            loss_valid, better = validate(training, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            _end_epoch(training, loss_valid, better)
        interrupt.ask()


def _step(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step on this process's columns of a window, ``[T, B]``: the loss of all columns, and the rate."""
    model, optimizer = training.model, training.optimizer
    optimizer.zero_grad()
    with device.autocast(training.device, training.options.amp):
        loss, state = model.loss(inputs, targets, training.state)
    loss.backward()  # type: ignore[no-untyped-call]
    mean = training.ranks.average(loss.detach(), model, training.columns / training.options.batch_size)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.options.clip)
    require_finite_step(mean, norm)
    optimizer.step()
    training.state = detach(state)
    return mean, {"lr": learning_rate(optimizer)}


def validate(training: Training, *, regular: bool = True) -> tuple[float, bool]:
    """The validation loss in nats per token, and whether it is the least so far; keeps the best model.

    ``regular``: as of `rnncore.run_state.keep_best`; not after ``--max_steps`` inside an epoch.
    """
    loss = _evaluated(training, "valid")
    better = training.ranks.shared(lambda: keep_best(training, loss, training.copy, regular=regular))
    return loss, better


def _evaluated(training: Training, split: Literal["valid", "test"]) -> float:
    """The loss of a split in nats per token, each process computing that of its columns; told."""
    text = training.texts[split]
    loss = training.ranks.mean(evaluate(training.model, text, training.options.amp), text.shape[1])
    training.log.evaluated(split, loss)
    return loss


def _end_epoch(training: Training, loss: float, better: bool) -> None:
    """Goes on to the next epoch, at a lower rate where the loss stalls, and saves."""
    rate = learning_rate(training.optimizer)
    training.schedule.step(loss)
    if (lower := learning_rate(training.optimizer)) < rate:
        training.log.say(f"the validation loss stalls: learning rate {lower:g}")
    training.epoch, training.row = training.epoch + 1, 0
    training.state = training.model.initial_state(training.columns)
    save(training, training.run.last)
    if better:
        _save_epoch(training)


def _save_epoch(training: Training) -> None:
    """Write ``epoch<N>.pt`` for the epoch that has just ended, from which a run can go on, instead of earlier ones."""
    path = training.run.path / f"epoch{training.epoch - 1}.pt"
    save(training, path, keep_previous=False)
    for older in training.run.path.glob("epoch*.pt"):
        if older != path and training.ranks.first:
            older.unlink(missing_ok=True)


def _finish(training: Training) -> None:
    """Tests the best model, draws the curves, exports."""
    log, run, options = training.log, training.run, training.options
    best = training.ranks.shared(
        lambda: checkpoint.load(run.best, kind=training.command) if run.best.exists() else None
    )
    if best is not None:
        training.model.load_state_dict(best["model"])
    _evaluated(training, "test")
    log.end()
    if not training.ranks.first:
        return
    picture = draw_curves(run)
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


def _introduce(training: Training) -> None:
    """What there is to say of a new run before it begins."""
    options, size = training.options, len(training.vocabulary)
    used = cutoffs_of(options, size)
    dropped = [cutoff for cutoff in options.cutoffs if used is not None and cutoff not in used]
    if dropped:
        shown = ", ".join(map(str, dropped))
        training.log.say(f"warning: the vocabulary has {size:,} words, so --cutoffs {shown} are left out")
    if training.ranks.size > 1:
        training.log.say(f"{training.ranks.size} processes share the {options.batch_size} columns of a batch")
