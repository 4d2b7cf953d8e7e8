"""What changes while ``revrnn-train`` runs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rnncore import device
from rnncore.asgd import NonMonotone
from rnncore.cuda_graph import GraphedStep
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful
from rnncore.vocabulary import Vocabulary
from rnncore.windows import GeneratorState
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
    def command(self) -> str:
        """What begins it."""
        return COMMAND

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        return {"optimizer": self.optimizer, "trigger": self.trigger, "lengths": GeneratorState(self.lengths)}

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
