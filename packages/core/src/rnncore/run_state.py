"""The checkpoints of a run: ``last.pt``, from which it goes on to the bit, and ``best.pt``, a model by itself."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from rnncore import checkpoint, device
from rnncore.divergence import require_finite_weights
from rnncore.flags import to_dict
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.vocabulary import Vocabulary
from rnncore.windows import moved


class Stateful(Protocol):
    """An optimizer, a schedule, averages: what can say all that it holds, and take it back."""

    def state_dict(self) -> dict[str, Any]:
        """All that it holds."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Takes back what `state_dict` gave."""


class UnderWay(Protocol):
    """What every run has.

    The next window or batch begins at ``row`` of ``epoch``, with the recurrent ``state``; ``best`` is the least
    validation loss so far.
    """

    epoch: int
    row: int
    best: float
    state: Any

    @property
    def command(self) -> str:
        """What begins it."""

    @property
    def options(self) -> Any:
        """Of the command, as `rnncore.flags` has them."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Of its text, if it has one."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def run(self) -> RunDirectory:
        """Where it writes."""

    @property
    def log(self) -> RunLog:
        """What it tells."""

    def parts(self) -> Mapping[str, Stateful]:
        """What else changes while it goes on: the optimizer, and what a recipe has beside it."""


@runtime_checkable
class Described(Protocol):
    """A run whose model needs more by itself than options and a vocabulary."""

    def description(self) -> Mapping[str, Any]:
        """Plain values for every checkpoint, under names of their own."""


def save_last(training: UnderWay, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``last.pt`` and keep its predecessor; as `save_all`."""
    save_all(training, training.run.last, extra)


def save_all(
    training: UnderWay, path: Path, extra: Mapping[str, Any] | None = None, *, keep_previous: bool = True
) -> None:
    """Write all that a resumed run needs to go on as if it had never stopped.

    Args:
        training: The run.
        path: A file.
        extra: Plain values and tensors beside ``training.parts()``, for the caller to restore.
        keep_previous: Whether the file's predecessor stays.

    Raises:
        UserError: The disk refuses; a loss or a weight is not finite, and what is there stays.
    """
    require_finite_weights(training.model, training.log.global_step)
    contents = {
        **_alone(training),
        **{name: part.state_dict() for name, part in training.parts().items()},
        **(extra or {}),
        "rng": device.rng_state(training.device),
        "state": training.state,
        "place": {"epoch": training.epoch, "row": training.row, "best": training.best},
        "log": training.log.state_dict(),
    }
    checkpoint.save(path, contents, keep_previous=keep_previous)


def restore(training: UnderWay, saved: Mapping[str, Any]) -> None:
    """Go on from what `save_all` wrote. Raises UserError where a part is of another model."""
    training.model.load_state_dict(saved["model"])
    for name, part in training.parts().items():
        part.load_state_dict(saved[name])
    training.state = moved(saved["state"], training.device)
    training.epoch, training.row, training.best = (saved["place"][name] for name in ("epoch", "row", "best"))
    training.log.load_state_dict(saved["log"])
    device.restore_rng(saved["rng"], training.device)


def save_best(training: UnderWay, copy: Path | None = None) -> None:
    """Write the model to ``best.pt``, and to a second file; what an earlier run left there becomes its predecessor.

    Raises UserError when the disk refuses.
    """
    first = not training.run.best.exists()
    checkpoint.save(training.run.best, _alone(training), keep_previous=False)
    if copy is not None:
        checkpoint.save(copy, _alone(training), keep_previous=first)


def keep_best(training: UnderWay, loss: float, copy: Path | None = None, *, regular: bool = True) -> bool:
    """After a validation, `save_best` if the model is the best so far; whether it is.

    Of a validation that is not ``regular``, which only ``--max_steps`` brought about, a run that goes on knows nothing:
    its model takes the place of no other but one that was kept in the same way.
    """
    better = loss < training.best if regular else training.best == math.inf
    if better and regular:
        training.best = loss
    if better:
        save_best(training, copy)
    return better


def save_model(training: UnderWay, path: Path) -> None:
    """Write the model as it is, by itself. Raises UserError when the disk refuses."""
    checkpoint.save(path, _alone(training), keep_previous=False)


def copy_best(training: UnderWay, saved: Mapping[str, Any], copy: Path | None) -> None:
    """The second file of `save_best`, where a resumed run names one that the checkpoint does not."""
    renamed = to_dict(training.options)["save"] != saved["config"]["save"]
    if copy is not None and renamed and training.run.best.exists():
        checkpoint.save(copy, checkpoint.load(training.run.best))


def _alone(training: UnderWay) -> dict[str, Any]:
    """What a checkpoint needs to be a model by itself."""
    vocabulary = training.vocabulary
    return {
        "kind": training.command,
        "config": to_dict(training.options),
        "vocabulary": None if vocabulary is None else list(vocabulary.tokens),
        "model": training.model.state_dict(),
        **(training.description() if isinstance(training, Described) else {}),
    }
