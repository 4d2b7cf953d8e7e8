"""What changes while ``revrnn-train`` runs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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

#: Below it training is at its end.
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
