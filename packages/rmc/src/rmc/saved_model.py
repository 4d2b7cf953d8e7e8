"""A trained language model from its checkpoint alone."""

from pathlib import Path
from typing import NamedTuple

import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flags import from_dict
from rnncore.run_directory import RUNS, latest
from rnncore.vocabulary import Vocabulary

from rmc.language_model import LanguageModel
from rmc.options import MEMORY, RNN, LanguageOptions, MemoryOptions, RNNOptions, build_memory_model, build_rnn_model


class SavedModel(NamedTuple):
    """The options that a model was trained with, its vocabulary, and the model."""

    options: LanguageOptions
    vocabulary: Vocabulary
    model: LanguageModel


def load(path: Path, kind: str, device: torch.device | str = "cpu") -> SavedModel:
    """Builds the model that a checkpoint of a command (``kind``) describes, in evaluation mode.

    Raises:
        UserError: There is no such file; it is damaged, or of another command.
    """
    saved = checkpoint.load(path)
    if saved.get("kind") != kind:
        other = {MEMORY: "; rmc-generate reads it", RNN: "; rmc-generate-rnn reads it"}.get(str(saved.get("kind")), "")
        raise UserError(f"{path} is a checkpoint of {saved.get('kind')}, not of {kind}{other}")
    vocabulary = Vocabulary(saved["vocabulary"])
    options: LanguageOptions
    if kind == MEMORY:
        options = from_dict(MemoryOptions, saved["config"], source=str(path))
        model = build_memory_model(options, len(vocabulary))
    else:
        options = from_dict(RNNOptions, saved["config"], source=str(path))
        model = build_rnn_model(options, len(vocabulary))
    model.load_state_dict(saved["model"])
    return SavedModel(options, vocabulary, model.to(device).eval())


def find(path: str | None, kind: str) -> Path:
    """The checkpoint that a user means: a file, the best of a run directory, or the best of the newest run.

    Raises:
        UserError: Nothing was given and there is no run.
    """
    if path is not None:
        return Path(path) / "best.pt" if Path(path).is_dir() else Path(path)
    try:
        return latest(kind) / "best.pt"
    except UserError:
        raise UserError(f"there is no run in {RUNS / kind}; name a checkpoint") from None
