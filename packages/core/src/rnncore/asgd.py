"""NT-ASGD: averaged SGD that starts when the validation loss stops falling.

Sources: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30(4)) for the average of the iterates; Merity, Keskar & Socher
2017 (arXiv 1708.02182), section 3 and algorithm 1, for the non-monotone trigger. The optimizer stays
``torch.optim.SGD``; the averages are kept beside it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rnncore.errors import UserError


class NonMonotone:
    """True once a validation loss is worse than the best of all but the last ``patience`` (algorithm 1's ``n``) losses.

    MacKay et al. 2018 divide the learning rate at the same trigger. ``ValueError`` for a negative ``patience``.
    """

    def __init__(self, patience: int) -> None:
        if patience < 0:
            raise ValueError(f"patience is a number of evaluations, not {patience}")
        self.patience = patience
        self.history: list[float] = []

    def update(self, value: float) -> bool:
        """Append ``value``; whether it is above the least of the values before it, without the last ``patience``."""
        self.history.append(value)
        return self.fired

    @property
    def fired(self) -> bool:
        """What the last ``update`` returned; false before the first."""
        older = self.history[: max(len(self.history) - 1 - self.patience, 0)]
        return bool(older) and self.history[-1] > min(older)

    def state_dict(self) -> dict[str, Any]:
        """The values so far; ``patience`` is configuration."""
        return {"history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [float(value) for value in state["history"]]


class AveragedParameters:
    """The running mean of parameters over optimizer steps, to evaluate with (Polyak & Juditsky 1992).

    With ``torch.optim.SGD`` it gives what ``torch.optim.ASGD(lambd=0, t0=0)`` gives: the mean of the iterates after the
    second and every later step since ``start`` (torch's weight lags one step, so the first iterate is replaced by the
    second). Before ``start`` and after ``stop`` the other methods do nothing, so a training loop needs no ``if``.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.averages: list[Tensor] = []
        self.steps = 0

    @property
    def active(self) -> bool:
        """Whether averages are being kept."""
        return bool(self.averages)

    @torch.no_grad()
    def start(self) -> None:
        """Begin to average, anew if begun before; until the first ``update`` the average is what is there now."""
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.steps = 0

    def stop(self) -> None:
        """Leave averaging and forget the averages."""
        self.averages = []
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after an optimizer step. Not to be captured in a CUDA graph."""
        if self.active:
            torch._foreach_lerp_(self.averages, self.parameters, 1 / max(self.steps, 1))
            self.steps += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters hold the averages inside the ``with`` block, and their own values again after it."""
        if not self.active:
            yield
            return
        with torch.no_grad():
            own = [parameter.detach().clone() for parameter in self.parameters]
            torch._foreach_copy_(self.parameters, self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)

    def state_dict(self) -> dict[str, Any]:
        """Number of steps and averages in the order of the parameters (none when inactive), not copied."""
        return {"steps": self.steps, "averages": list(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a copy of ``state``, on the parameters' devices and dtypes; ``UserError`` for another model's."""
        saved: list[Tensor] = state["averages"]
        if not saved:
            self.stop()
            return
        if [average.shape for average in saved] != [parameter.shape for parameter in self.parameters]:
            raise UserError("the averaged parameters are another model's; resume with the flags of the first run")
        self.averages = [
            average.detach().to(parameter, copy=True) for average, parameter in zip(saved, self.parameters, strict=True)
        ]
        self.steps = int(state["steps"])


@contextmanager
def scaled_lr(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """The learning rate of all parameter groups times ``factor`` inside the ``with`` block, as it was after it.

    AWD-LSTM steps with the rate times window length over base length, so that short windows do not count for more
    (Merity et al. 2017, section 4.1). A rate that is a tensor is scaled in place, where a captured step reads it.
    """
    rates = [
        group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in optimizer.param_groups
    ]
    _set_rates(optimizer, [rate * factor for rate in rates])
    try:
        yield
    finally:
        _set_rates(optimizer, rates)


def _set_rates(optimizer: torch.optim.Optimizer, rates: list[Any]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
