"""What changes while a training command runs, and the checkpoints that hold it.

``last.pt`` holds all that a resumed run needs to go on as if it had never stopped; ``best.pt`` is a model by itself.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from rnncore import checkpoint, device
from rnncore.divergence import require_finite_weights
from rnncore.flags import to_dict
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.vocabulary import Vocabulary
from rnncore.windows import moved
from torch import nn

from urlstm.options import TaskOptions


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and where it is kept.

    ``epoch`` and ``done`` say where it is: pictures or rows of text done in the epoch under way (the synthetic tasks
    have one epoch and count steps). ``state`` is the recurrent one, of the language model; ``best`` is the least
    validation loss so far; ``vocabulary`` is that of a text.
    """

    options: TaskOptions
    command: str
    device: torch.device
    model: nn.Module
    recurrent: nn.Module
    optimizer: torch.optim.Optimizer
    run: RunDirectory
    log: RunLog
    vocabulary: Vocabulary | None = None
    epoch: int = 1
    done: int = 0
    state: Any = None
    best: float = math.inf

    @property
    def out_of_steps(self) -> bool:
        """Whether ``--max_steps`` steps are done."""
        return 0 < self.options.max_steps <= self.log.global_step

    def finished(self, epochs: int) -> bool:
        """Whether so many epochs, or ``--max_steps`` steps, are done and evaluated."""
        return self.epoch > epochs or (self.out_of_steps and self.done == 0)


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
            "rng": device.rng_state(training.device),
            "state": training.state,
            "place": {"epoch": training.epoch, "done": training.done, "best": training.best},
            "log": training.log.state_dict(),
        },
    )


def save_best(training: Training) -> None:
    """Write ``best.pt``. Raises UserError when the disk refuses."""
    checkpoint.save(training.run.best, _description(training), keep_previous=False)


def restore(training: Training, saved: dict[str, Any]) -> None:
    """Go on from what `save_last` wrote."""
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    training.state = moved(saved["state"], training.device)
    training.epoch, training.done, training.best = (saved["place"][name] for name in ("epoch", "done", "best"))
    training.log.load_state_dict(saved["log"])
    device.restore_rng(saved["rng"], training.device)


def _description(training: Training) -> dict[str, Any]:
    """What a checkpoint needs to be a model by itself."""
    return {
        "kind": training.command,
        "config": to_dict(training.options),
        "vocabulary": None if training.vocabulary is None else list(training.vocabulary.tokens),
        "model": training.model.state_dict(),
    }
