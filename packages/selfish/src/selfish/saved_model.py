"""A trained model from its file: a checkpoint, an export, or a state dict that the original code saved."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rnncore import checkpoint
from rnncore.corpus import Corpus
from rnncore.datasets import locate
from rnncore.errors import UserError
from rnncore.flag_spec import flags_of
from rnncore.flags import from_dict
from rnncore.run_directory import RUNS, latest
from rnncore.vocabulary import Vocabulary
from torch import Tensor

from selfish import export
from selfish.convert import Model, from_original
from selfish.models import COMMANDS, OF_THE_MODEL, build_model
from selfish.options import LanguageOptions


class SavedModel(NamedTuple):
    """Where a model lies, the command that trained it and its options, its vocabulary, and the model."""

    path: Path
    command: str
    options: LanguageOptions
    vocabulary: Vocabulary
    model: Model


def load(path: Path, place: torch.device | str = "cpu") -> SavedModel:
    """Builds the model that a checkpoint of a training command, or an export of one, describes, to be evaluated.

    Args:
        path: The file, or a run directory, of which it is the best model.
        place: Where the model goes.

    Raises:
        UserError: There is no such file; it is damaged, or of another command.
    """
    path = path / "best.pt" if path.is_dir() else path
    saved = checkpoint.load(path)
    if saved.get("kind") == export.KIND:
        of = saved["export_config"]
        saved = {
            "kind": of.get("of"),
            "config": of.get("options"),
            "vocabulary": of.get("vocabulary"),
            "model": export.load(path),
        }
    command = saved.get("kind")
    if command not in COMMANDS:
        raise UserError(f"{path} is a checkpoint of {command}, not of {', '.join(COMMANDS)}")
    options = from_dict(COMMANDS[command], saved["config"], source=str(path))
    vocabulary = Vocabulary(saved["vocabulary"])
    model = build_model(options, len(vocabulary))
    model.load_state_dict(saved["model"])
    return SavedModel(path, command, options, vocabulary, model.to(place).eval())


def find(path: Path | None, *, flag: str) -> Path:
    """The checkpoint that a user means: ``path``, or without one the best of the newest run of all commands.

    Raises:
        UserError: Nothing was given, and there is no run; the line names the ``flag``.
    """
    if path is not None:
        return path
    found: list[Path] = []
    for command in COMMANDS:
        with contextlib.suppress(UserError):  # another command's will do
            found.append(latest(command))
    if not found:
        raise UserError(f"there is no run of {', '.join(COMMANDS)} in {RUNS}; name a checkpoint with {flag}")
    return max(found, key=lambda run: max(file.stat().st_mtime_ns for file in run.glob("last*.pt"))) / "best.pt"


def load_corpus(options: LanguageOptions, vocabulary: Vocabulary | None = None) -> Corpus:
    """The corpus of ``--data``, with the words in the order of the original code: that of their first appearance.

    Raises:
        UserError: There is no such corpus; its vocabulary is not the given one.
    """
    corpus = Corpus.load(locate(options.data), level=options.level)
    if vocabulary is not None and corpus.vocabulary != vocabulary:
        raise UserError(f"{options.data} has another vocabulary than the model; give the --data it was trained on")
    return corpus


def load_to_evaluate(options: LanguageOptions, command: str, corpus: Corpus, place: torch.device) -> Model:
    """The model of ``--evaluate``. A state dict of the original code is read with the sizes that the flags say.

    Raises:
        UserError: The file is neither; it is of another command; a flag or the corpus contradicts it.
    """
    path = Path(options.evaluate)
    bare = None if path.is_dir() else _state_dict(path)
    if bare is not None:
        model = build_model(options, len(corpus.vocabulary))
        try:
            model.load_state_dict(from_original(model, bare))
        except UserError as error:
            raise UserError(f"{path}: {error.message}; --emsize, --nhid and so on must be those of its run") from error
        return model.to(place).eval()
    saved = load(path, place)
    if saved.command != command:
        raise UserError(f"{saved.path} is a checkpoint of {saved.command}, not of {command}")
    for flag in flags_of(type(options)):
        now, then = getattr(options, flag.field), getattr(saved.options, flag.field)
        if flag.field in OF_THE_MODEL and now not in (then, flag.default):
            raise UserError(f"{saved.path} was trained with {flag.name} {then}, not {now}; leave it out")
    if saved.vocabulary != corpus.vocabulary:
        raise UserError(f"{options.data} has another vocabulary than {saved.path}; give the --data it was trained on")
    return saved.model


def _state_dict(path: Path) -> dict[str, Tensor] | None:
    """The parameters by name, where a file holds nothing but these; else None. Nothing is unpickled."""
    found: Any
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever it is, it is no state dict; `checkpoint.load` says what is wrong with it
        return None
    if not isinstance(found, dict) or not found or "format" in found:
        return None
    return dict(found) if all(isinstance(value, Tensor) for value in found.values()) else None
