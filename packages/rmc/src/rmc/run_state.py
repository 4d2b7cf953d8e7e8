"""What changes while a language model is trained, and its checkpoints, which hold that of all processes."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rnncore import device, run_state
from rnncore.distributed import Ranks
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

    ``texts``: of each split this process's columns, ``[T, B]``; ``state`` is the recurrent one, of its columns; ``row``
    is the next of the epoch under way; ``best`` is the least validation loss so far, which only the first process
    knows; ``copy`` is a second file for the best model.
    """

    options: LanguageOptions
    command: str
    ranks: Ranks
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
    def columns(self) -> int:
        """Batch columns of this process."""
        return self.texts["train"].shape[1]


def save(training: Training, path: Path, *, keep_previous: bool = True) -> None:
    """Write all that a resumed run needs, as `rnncore.run_state.save_all`; all processes must call it.

    The recurrent state is that of all columns, so that another number of processes can go on from it.
    """
    ranks, model = training.ranks, training.model
    state = ranks.joined_state(training.state, model.initial_state)
    generators = ranks.gathered(device.rng_state(training.device))
    if ranks.first:
        whole = dataclasses.replace(training, state=state)
        run_state.save_all(whole, path, {"generators_of_others": generators[1:]}, keep_previous=keep_previous)


def restore(training: Training, saved: Mapping[str, Any]) -> None:
    """Go on from what `save` wrote. With another number of processes dropout draws other masks from here on."""
    ranks, options = training.ranks, training.options
    run_state.restore(training, saved)
    training.state = ranks.part_of_state(training.state, training.model.initial_state, options.batch_size)
    others = saved.get("generators_of_others", [])
    if len(others) + 1 != ranks.size:
        ranks.seed(options.seed, training.log.global_step)
    elif not ranks.first:
        device.restore_rng(others[ranks.rank - 1], training.device)
