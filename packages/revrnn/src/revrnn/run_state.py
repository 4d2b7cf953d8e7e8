"""What changes while ``revrnn-train`` runs, and the checkpoints that hold it.

``last.pt`` holds all that a resumed run needs to go on as if it had never stopped; ``best.pt`` is a model by itself.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rnncore import checkpoint, device
from rnncore.asgd import NonMonotone
from rnncore.cuda_graph import GraphedStep
from rnncore.divergence import require_finite_weights
from rnncore.flags import to_dict
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.vocabulary import Vocabulary
from rnncore.windows import generator_state, moved, restore_generator
from torch import Tensor

from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM
from revrnn.options import COMMAND, TrainOptions
from revrnn.window import Bits

SMALLEST_RATE = 1e-2


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``texts``: each split in columns, ``[T, B]``; ``lengths`` draws window lengths; ``state`` is the recurrent one;
    ``row`` is the next of the epoch under way; ``best`` is the least validation loss so far; ``bits``, what the hidden
    states of the last counted window took.
    """

    options: TrainOptions
    device: torch.device
    vocabulary: Vocabulary
    texts: dict[str, Tensor]
    model: ReversibleLM | BaselineLM
    optimizer: torch.optim.SGD
    trigger: NonMonotone
    lengths: np.random.Generator
    run: RunDirectory
    log: RunLog
    state: Any
    graph: GraphedStep | None
    epoch: int = 1
    row: int = 0
    best: float = math.inf
    bits: Bits | None = None

    @property
    def rate(self) -> float:
        """The learning rate of a window of ``--bptt`` steps."""
        return float(self.optimizer.param_groups[0]["lr"])

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
        """Whether all epochs or steps are done and evaluated, or the rate has been divided until it is too small."""
        too_small = self.rate < min(SMALLEST_RATE, self.options.learning_rate)
        return self.epoch > self.options.epochs or too_small or (self.out_of_steps and self.row == 0)


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
            "trigger": training.trigger.state_dict(),
            "lengths": generator_state(training.lengths),
            "rng": device.rng_state(training.device),
            "state": training.state,
            "place": {"epoch": training.epoch, "row": training.row, "best": training.best},
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
    training.trigger.load_state_dict(saved["trigger"])
    restore_generator(training.lengths, saved["lengths"])
    training.state = moved(saved["state"], training.device)
    training.epoch, training.row, training.best = (saved["place"][name] for name in ("epoch", "row", "best"))
    training.log.load_state_dict(saved["log"])
    device.restore_rng(saved["rng"], training.device)


def _description(training: Training) -> dict[str, Any]:
    """What a checkpoint needs to be a model by itself."""
    return {
        "kind": COMMAND,
        "config": to_dict(training.options),
        "vocabulary": list(training.vocabulary.tokens),
        "model": training.model.state_dict(),
    }
