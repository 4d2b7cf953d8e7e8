"""What changes while ``awdlm-train`` or ``awdlm-finetune`` runs, and the checkpoints that hold it.

``last.pt`` holds all that a resumed run needs to go on as if it had never stopped; ``best.pt`` is a model by itself,
with averaged weights where they were averaged.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rnncore import checkpoint, device
from rnncore.asgd import AveragedParameters, NonMonotone
from rnncore.cuda_graph import GraphedStep
from rnncore.divergence import require_finite_weights
from rnncore.flags import to_dict
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.vocabulary import Vocabulary
from rnncore.windows import generator_state, moved, restore_generator
from torch import Tensor

from awdlm.model import AWDModel, State
from awdlm.options import ModelOptions


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``texts``: each split in columns, ``[T, B]``; ``lengths`` draws window lengths; ``state`` is the recurrent one;
    ``row`` is the next of the epoch under way; ``best`` is the least validation loss so far; ``copy`` is a second file
    for the best model.
    """

    options: ModelOptions
    command: str
    device: torch.device
    vocabulary: Vocabulary
    texts: dict[str, Tensor]
    model: AWDModel
    optimizer: torch.optim.Optimizer
    averages: AveragedParameters
    trigger: NonMonotone
    lengths: np.random.Generator
    run: RunDirectory
    log: RunLog
    state: State
    graph: GraphedStep | None
    copy: Path | None
    epoch: int = 1
    row: int = 0
    best: float = math.inf

    @property
    def rate(self) -> float:
        """The learning rate of a window of ``--bptt`` steps."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def rows(self) -> int:
        """Time steps of an epoch."""
        return len(self.texts["train"]) - 1

    @property
    def multiple(self) -> int:
        """What window lengths are rounded to, so that few differ where each costs a graph or memory."""
        costly = self.graph is not None or device.keeps_memory_of_shapes(self.device, self.options.amp)
        return 5 if costly else 1

    @property
    def out_of_steps(self) -> bool:
        """Whether ``--max_steps`` steps are done."""
        return 0 < self.options.max_steps <= self.log.global_step

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done and evaluated."""
        return self.epoch > self.options.epochs or (self.out_of_steps and self.row == 0)


def save_last(training: Training) -> None:
    """Write ``last.pt`` and keep its predecessor.

    Raises:
        UserError: The disk refuses; a loss or a weight is not finite, and what is there stays.
    """
    require_finite_weights(training.model, training.log.global_step)
    checkpoint.save(
        training.run.last,
        {
            **_description(training),
            "optimizer": training.optimizer.state_dict(),
            "averages": training.averages.state_dict(),
            "trigger": training.trigger.state_dict(),
            "lengths": generator_state(training.lengths),
            "rng": device.rng_state(training.device),
            "state": training.state,
            "place": {"epoch": training.epoch, "row": training.row, "best": training.best},
            "log": training.log.state_dict(),
        },
    )


def save_best(training: Training) -> None:
    """Write ``best.pt``, and the copy of it; a copy that an earlier run left becomes its predecessor.

    Raises UserError when the disk refuses.
    """
    first = not training.run.best.exists()
    checkpoint.save(training.run.best, _description(training), keep_previous=False)
    if training.copy is not None:
        checkpoint.save(training.copy, _description(training), keep_previous=first)


def save_epoch(training: Training) -> None:
    """Write the model as it is to ``epoch<N>.pt``, and beside the copy of the best model if there is one.

    Raises UserError when the disk refuses.
    """
    checkpoint.save(training.run.path / f"epoch{training.epoch}.pt", _description(training), keep_previous=False)
    if training.copy is not None:
        name = f"{training.copy.stem}.e{training.epoch}{training.copy.suffix}"
        checkpoint.save(training.copy.with_name(name), _description(training), keep_previous=False)


def restore(training: Training, saved: dict[str, Any]) -> None:
    """Go on from what `save_last` wrote; a copy of the best model that is wanted only now is made."""
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    training.averages.load_state_dict(saved["averages"])
    training.trigger.load_state_dict(saved["trigger"])
    restore_generator(training.lengths, saved["lengths"])
    training.state = moved(saved["state"], training.device)
    training.epoch, training.row, training.best = (saved["place"][name] for name in ("epoch", "row", "best"))
    training.log.load_state_dict(saved["log"])
    device.restore_rng(saved["rng"], training.device)
    renamed = to_dict(training.options)["save"] != saved["config"]["save"]
    if training.copy is not None and renamed and training.run.best.exists():
        checkpoint.save(training.copy, checkpoint.load(training.run.best))


def _description(training: Training) -> dict[str, Any]:
    """What a checkpoint needs to be a model by itself."""
    return {
        "kind": training.command,
        "config": to_dict(training.options),
        "vocabulary": list(training.vocabulary.tokens),
        "model": training.model.state_dict(),
    }
