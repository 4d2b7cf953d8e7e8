"""A trained model from its checkpoint alone."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rnncore import checkpoint
from rnncore.corpus import Corpus
from rnncore.datasets import locate
from rnncore.errors import UserError
from rnncore.flag_spec import flags_of
from rnncore.flags import from_dict
from rnncore.run_directory import RUNS, latest
from rnncore.split_cross_entropy import splits_for
from rnncore.vocabulary import Vocabulary

from awdlm.model import AWDModel
from awdlm.options import FINETUNE, OF_THE_MODEL, TRAIN, FinetuneOptions, ModelOptions, TrainOptions, build_model

Options = TypeVar("Options", bound=ModelOptions)

#: What finetuning takes over from training where the command line says nothing.
_TAKEN_OVER = ("data", "dropout", "dropout_hidden", "dropout_input", "dropout_words", "weight_drop")


class SavedModel(NamedTuple):
    """A checkpoint: where it lies, the options it was trained with, its vocabulary, and the model."""

    path: Path
    options: ModelOptions
    vocabulary: Vocabulary
    model: AWDModel


def load(path: Path, device: torch.device | str = "cpu", *, expected: str | None = None) -> SavedModel:
    """Builds the model that a checkpoint of ``awdlm-train`` or ``awdlm-finetune`` describes, in evaluation mode.

    Args:
        path: The file.
        device: Where the model goes.
        expected: What ``--model`` must have been; None takes any.

    Raises:
        UserError: There is no such file; it is damaged, of another command, or of another model.
    """
    saved = checkpoint.load(path, model=expected)
    if saved.get("kind") not in (TRAIN, FINETUNE):
        raise UserError(f"{path} is a checkpoint of {saved.get('kind')}, not of {TRAIN} or {FINETUNE}")
    kind: type[ModelOptions] = TrainOptions if saved["kind"] == TRAIN else FinetuneOptions
    options = from_dict(kind, saved["config"], source=str(path))
    vocabulary = Vocabulary(saved["vocabulary"])
    model = build_model(options, len(vocabulary))
    model.load_state_dict(saved["model"])
    return SavedModel(path, options, vocabulary, model.to(device).eval())


def find(path: Path | None, default: Path | None = None, *, flag: str) -> Path:
    """The checkpoint that a user means: a file, the best of a run directory, or the best of the newest run.

    Args:
        path: As given.
        default: What the flag holds when nothing was given, which stands for the newest run if it is not there.
        flag: Its name.

    Raises:
        UserError: Nothing was given and there is no run.
    """
    if path is not None and (path != default or path.exists()):
        return path / "best.pt" if path.is_dir() else path
    try:
        return latest(TRAIN) / "best.pt"
    except UserError:
        absent = "" if default is None else f"there is no {default}, and "
        raise UserError(f"{absent}there is no run in {RUNS / TRAIN}; name a checkpoint with {flag}") from None


def load_corpus(options: ModelOptions, vocabulary: Vocabulary | None = None) -> Corpus:
    """The corpus of ``--data``; where the softmax is split, with the words sorted by frequency.

    Raises:
        UserError: There is no such corpus; its vocabulary is not the given one.
    """
    folder = locate(options.data)
    corpus = Corpus.load(folder, level=options.level)
    if splits_for(len(corpus.vocabulary)):
        corpus = Corpus.load(folder, level=options.level, order="frequency")
    if vocabulary is not None and corpus.vocabulary != vocabulary:
        raise UserError(f"{options.data} has another vocabulary than the model; give the --data it was trained on")
    return corpus


def keep_model(options: Options, saved: SavedModel) -> Options:
    """``options`` with what the saved model is; flags that contradict it are refused.

    Raises:
        UserError: A flag of the model is given and differs.
    """
    kept: dict[str, Any] = {}
    for flag in flags_of(type(options)):
        now, then = getattr(options, flag.field), getattr(saved.options, flag.field, None)
        if flag.field in OF_THE_MODEL and now not in (then, flag.default):
            raise UserError(f"{saved.path} was trained with {flag.name} {then}, not {now}; leave it out")
        if flag.field in OF_THE_MODEL or (flag.field in _TAKEN_OVER and now == flag.default):
            kept[flag.field] = then
    return dataclasses.replace(options, **kept)
