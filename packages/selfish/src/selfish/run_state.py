"""What changes while a training command runs, and what the commands do differently."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rnncore.asgd import NonMonotone
from rnncore.cuda_graph import Step
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful
from rnncore.vocabulary import Vocabulary
from rnncore.windows import GeneratorState
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from selfish.convert import Model
from selfish.masking import Masking
from selfish.options import LanguageOptions
from selfish.outputs import State
from selfish.sparse_asgd import SparseAverages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the training commands do differently.

    ``random``: whether windows have random lengths, to which the rate is scaled, instead of ``--bptt`` steps each;
    ``longest``: their most steps, if there is a limit. ``activation``, ``temporal``: the penalties AR and TAR.
    ``piece``: columns of a batch whose gradient is computed at a time. ``restarts``: epochs after which averages begin
    anew. ``copy``: a second file for the best model.
    """

    random: bool
    longest: int | None = None
    activation: float = 0.0
    temporal: float = 0.0
    piece: int
    valid_columns: int = 10
    test_columns: int = 1
    restarts: tuple[int, ...] = ()
    copy: Path | None = None


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``texts``: each split in columns, ``[T, B]``; ``schedule``: of Adam's rate; ``masking``: None where the network is
    dense; ``lengths`` draws window lengths; ``state`` is the recurrent one; ``gradient`` is
    what a step does before the optimizer's; ``row`` is the next of the epoch under way; ``best`` is the least
    validation loss so far.
    """

    options: LanguageOptions
    command: str
    recipe: Recipe
    device: torch.device
    vocabulary: Vocabulary
    texts: dict[str, Tensor]
    model: Model
    optimizer: torch.optim.Optimizer
    schedule: ReduceLROnPlateau | None
    masking: Masking | None
    averages: SparseAverages
    trigger: NonMonotone
    lengths: np.random.Generator
    run: RunDirectory
    log: RunLog
    state: State
    gradient: Step
    epoch: int = 1
    row: int = 0
    best: float = math.inf

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        found: dict[str, Stateful] = {"optimizer": self.optimizer}
        if self.schedule is not None:
            found["schedule"] = self.schedule
        if self.masking is not None:
            found["masking"] = self.masking
        return found | {"averages": self.averages, "trigger": self.trigger, "lengths": GeneratorState(self.lengths)}


def gradients_to_save(training: Training) -> dict[str, Tensor]:
    """Those of the last step, where masks are yet to grow by them."""
    if (
        training.masking is None
        or training.options.growth != "gradient"
        or training.row < len(training.texts["train"]) - 1
    ):
        return {}
    named = training.model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def restore_gradients(training: Training, saved: Mapping[str, Tensor]) -> None:
    """Puts back what `gradients_to_save` gave."""
    for name, gradient in saved.items():
        training.model.get_parameter(name).grad = gradient.to(training.device)
