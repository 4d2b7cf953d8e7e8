"""What changes while ``awdlm-train`` or ``awdlm-finetune`` runs."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rnncore.asgd import AveragedParameters, NonMonotone
from rnncore.cuda_graph import Step
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful
from rnncore.vocabulary import Vocabulary
from rnncore.windows import GeneratorState
from torch import Tensor

from awdlm.model import AWDModel, State
from awdlm.options import ModelOptions


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``texts``: each split in columns, ``[T, B]``; ``lengths`` draws window lengths; ``state`` is the recurrent one;
    ``gradient`` is what a step does before the optimizer's; ``row`` is the next of the epoch under way; ``best`` is the
    least validation loss so far; ``copy`` is a second file for the best model.
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
    gradient: Step
    copy: Path | None
    epoch: int = 1
    row: int = 0
    best: float = math.inf

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        lengths = GeneratorState(self.lengths)
        return {"optimizer": self.optimizer, "averages": self.averages, "trigger": self.trigger, "lengths": lengths}
