"""The loss of a language model over a text. Shapes: T rows (time steps) of a text, B columns."""

from typing import Any, Protocol

import torch
from torch import Tensor

from rnncore import side_by_side
from rnncore.device import autocast


class LanguageModel(Protocol):
    """What `evaluate` needs of a model."""

    @property
    def training(self) -> bool:
        """Whether dropout is on."""

    def train(self, mode: bool = True) -> Any:
        """Switches dropout."""

    def initial_state(self, batch_size: int) -> Any:
        """The recurrent state before a text."""

    def loss_sum(self, ids: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The summed loss of a window ``[T, B]``, in nats, and the state after it; no gradient."""


def evaluate(model: LanguageModel, text: Tensor, amp: str | None = None, *, length: int = 140) -> float:
    """The mean loss of a text ``[T, B]``, in nats per token, over all its (T - 1) B targets.

    Args:
        model: Its dropout is off meanwhile.
        text: Token ids in columns; the state is carried from window to window. A long text of one column is read in
            pieces side by side.
        amp: ``"bf16"`` for mixed precision.
        length: Time steps of a window: they bound the memory, whatever ``--bptt`` is, and do not change the result.
    """
    training, total = model.training, torch.zeros((), device=text.device, dtype=torch.float64)
    model.train(False)
    with torch.no_grad(), autocast(text.device, amp):
        for losses in side_by_side.read(model.loss_sum, text, model.initial_state, length=length):
            total += torch.stack(losses).double().sum()
    model.train(training)
    return float(total) / ((len(text) - 1) * text.shape[1])
