"""What changes while a language model is trained."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful
from rnncore.vocabulary import Vocabulary
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rmc.language_model import LanguageModel
from rmc.options import LanguageOptions


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``texts``: each split in columns, ``[T, B]``; ``state`` is the recurrent one; ``row`` is the next of the epoch under
    way; ``best`` is the least validation loss so far; ``copy`` is a second file for the best model.
    """

    options: LanguageOptions
    command: str
    device: torch.device
    vocabulary: Vocabulary
    texts: dict[str, Tensor]
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    schedule: ReduceLROnPlateau
    run: RunDirectory
    log: RunLog
    state: Any
    copy: Path | None
    epoch: int = 1
    row: int = 0
    best: float = math.inf

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        return {"optimizer": self.optimizer, "schedule": self.schedule}

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def rows(self) -> int:
        """Time steps of an epoch."""
        return len(self.texts["train"]) - 1

    @property
    def out_of_steps(self) -> bool:
        """Whether ``--max_steps`` steps are done."""
        return 0 < self.options.max_steps <= self.log.global_step

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done and evaluated."""
        return self.epoch > self.options.epochs or (self.out_of_steps and self.row == 0)
