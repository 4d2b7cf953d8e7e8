"""What changes while a training command runs."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful
from rnncore.vocabulary import Vocabulary
from torch import nn

from urlstm.options import TaskOptions


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and where it is kept.

    ``epoch`` and ``row`` say where it is: pictures or rows of text done in the epoch under way (the synthetic tasks
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
    row: int = 0
    state: Any = None
    best: float = math.inf

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        return {"optimizer": self.optimizer}
