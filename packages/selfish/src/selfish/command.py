"""What the three training commands do around the epochs: a run's beginning and end, and what ``--dry_run`` prints."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from rnncore.asgd import NonMonotone
from rnncore.atomic_file import require_folder_for
from rnncore.corpus import Corpus
from rnncore.cuda_graph import GraphedStep
from rnncore.datasets import loss_unit
from rnncore.evaluation import evaluate
from rnncore.gradient import loss_and_gradient
from rnncore.loss_units import converted
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import describe
from rnncore.run_state import copy_best, restore
from rnncore.training_run import draw_curves, load_best, ready, reopened, under_way
from rnncore.vocabulary import Vocabulary
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from selfish.convert import Model
from selfish.flops import Flops, flops_per_token
from selfish.mask_history import draw_densities, draw_overlap
from selfish.masking import Masking
from selfish.models import build_model
from selfish.mos_model import MoSModel
from selfish.options import LanguageOptions
from selfish.run_state import Recipe, Training, restore_gradients
from selfish.saved_model import load_corpus, load_to_evaluate
from selfish.sparse_asgd import SparseAverages
from selfish.training import train

#: Options that a resumed run may change.
CHANGEABLE = {"data", "epochs", "log_interval", "checkpoint_interval", "cuda", "save", "continue_train"}

Options = TypeVar("Options", bound=LanguageOptions)


def run(options: Options, command: str, recipe_of: Callable[[Options], Recipe]) -> None:
    """What a training command does.

    Args:
        options: Of the command.
        command: Its name.
        recipe_of: What it does differently from the others.
    """
    options, resumed = reopened(options, command, CHANGEABLE)
    recipe = recipe_of(options)
    if recipe.copy is not None:
        require_folder_for(recipe.copy, "--save")
    place = ready(options, seed=options.seed, cuda=options.cuda)
    corpus = load_corpus(options, Vocabulary(resumed.saved["vocabulary"]) if resumed else None)
    if options.evaluate:
        _evaluate_saved(options, command, recipe, corpus, place)
        return
    model = build_model(options, len(corpus.vocabulary)).to(place)
    texts = _texts_of(corpus, {"train": options.batch_size}, recipe, place)
    masking = _masking(options, model, len(texts["train"]) - 1) if options.sparse else None
    if options.dry_run:
        print(describe(options, model) + _comment(model, masking), end="")
        return
    kind = "dense" if masking is None else f"sparse, density {masking.density:.4f}"
    with under_way(
        options,
        command,
        lambda directory, log: _prepared(
            options, command, recipe, corpus.vocabulary, texts, model, masking, directory, log
        ),
        resumed=resumed,
        title=f"{_flops(model, masking)}\n{command} on {options.data}: {kind}",
        finish=_finish,
        log_interval=options.log_interval,
        unit=loss_unit(options.level, options.data),
        vocabulary=corpus.vocabulary,
        restored=_restored,
    ) as (training, interrupt):
        train(training, interrupt)


def _evaluate_saved(
    options: LanguageOptions, command: str, recipe: Recipe, corpus: Corpus, place: torch.device
) -> None:
    """Prints the losses of a saved model."""
    model = load_to_evaluate(options, command, corpus, place)
    unit = loss_unit(options.level, options.data)
    digits = 4 if unit == "bpc" else 3
    for split, text in _texts_of(corpus, {}, recipe, place).items():
        loss = evaluate(model, text, options.amp)
        print(f"{options.evaluate} | {split} loss {loss:.4f} | {split} {unit} {converted(loss, unit):.{digits}f}")


def _texts_of(corpus: Corpus, others: dict[str, int], recipe: Recipe, place: torch.device) -> dict[str, Tensor]:
    """Splits in columns, ``[T, B]``. Raises UserError for one that is too short."""
    columns = others | {"valid": recipe.valid_columns, "test": recipe.test_columns}
    return {split: corpus.columns(split, count, place) for split, count in columns.items()}


def _masking(options: LanguageOptions, model: Model, rows: int) -> Masking:
    """The first masks; death rates fall over all steps of the run."""
    return Masking(
        model,
        density=options.living,
        decay_steps=max(1, options.epochs * rows // options.bptt),
        rules=options.rules,
        sparse_init=options.sparse_init,
        death_rate=options.death_rate,
        death_rate_decay=options.death_rate_decay,
        threshold=options.threshold,
        seed=options.seed,
    )


def _flops(model: Model, masking: Masking | None) -> Flops:
    # A mixture decodes the contexts of all its experts by one matrix.
    decoder = next(name for name, parameter in model.named_parameters() if parameter is model.decoder.weight)
    times = {decoder: model.n_experts} if isinstance(model, MoSModel) else {}
    return flops_per_token(model, {} if masking is None else masking.masks, times=times)


def _comment(model: Model, masking: Masking | None) -> str:
    """Densities and operations, as lines that ``--config`` passes over."""
    lines = [] if masking is None else masking.history.table().splitlines()
    return "".join(f"# {line}\n" for line in [*lines, str(_flops(model, masking))])


def _restored(training: Training, saved: Mapping[str, Any]) -> None:
    restore(training, saved)
    restore_gradients(training, saved["gradients"])
    copy_best(training, saved, training.recipe.copy)


def _prepared(
    options: LanguageOptions,
    command: str,
    recipe: Recipe,
    vocabulary: Vocabulary,
    texts: dict[str, Tensor],
    model: Model,
    masking: Masking | None,
    directory: RunDirectory,
    log: RunLog,
) -> Training:
    """A run that has not begun."""
    place = texts["train"].device
    optimizer = _optimizer(options, model)
    step = partial(
        loss_and_gradient,
        model,
        activation=recipe.activation,
        temporal=recipe.temporal,
        piece=recipe.piece,
        amp=options.amp,
    )
    return Training(
        options=options,
        command=command,
        recipe=recipe,
        device=place,
        vocabulary=vocabulary,
        texts=texts,
        model=model,
        optimizer=optimizer,
        # Of the original code, as are the moments of Adam.
        schedule=ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=0.0)
        if options.optimizer == "adam"
        else None,
        masking=masking,
        averages=SparseAverages(model.named_parameters(), {} if masking is None else masking.masks),
        trigger=NonMonotone(options.nonmono),
        lengths=np.random.default_rng(options.seed),
        run=directory,
        log=log,
        state=model.initial_state(options.batch_size),
        gradient=GraphedStep(step, model.parameters()) if options.cuda_graph and place.type == "cuda" else step,
    )


def _optimizer(options: LanguageOptions, model: Model) -> torch.optim.Optimizer:
    decay = options.weight_decay
    if options.optimizer == "adam":
        rate = options.adam_rate
        return torch.optim.Adam(model.parameters(), lr=rate, betas=(0.0, 0.999), eps=1e-9, weight_decay=decay)
    rate = options.learning_rate
    return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, fused=True)  # one pass over the weights


def _finish(training: Training) -> None:
    """Tests the best model and draws the curves, and of a sparse one the masks."""
    log, path, masking = training.log, training.run.path, training.masking
    load_best(training)
    log.evaluated("test", evaluate(training.model, training.texts["test"], training.options.amp))
    log.say(str(_flops(training.model, masking)))
    log.end()
    pictures = draw_curves(training.run).name
    if masking is not None:
        draw_densities(masking.history, path / "densities.png")
        draw_overlap(masking.history, path / "overlap.png")
        pictures += ", densities.png, overlap.png"
    log.say(f"run directory {path} | pictures {pictures} | best model {training.recipe.copy or training.run.best}")
