"""SNT-ASGD (Liu et al. 2021, section 3.3): averaged SGD in which every weight has an average of its own age.

A weight's steps are counted from when it grew. Its average is the weight itself for two steps and then moves by
``(weight - average) / (steps - 1)``; where there is no weight there is no average. In a dense parameter all weights
are of one age, and that is `rnncore.asgd.AveragedParameters`, which holds the averages here as well.

Only births are kept, not counts: they change when the mask does, so that a step writes nothing but the averages.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rnncore.asgd import AveragedParameters
from rnncore.errors import UserError
from torch import Tensor

#: Elements that are averaged at a time: their intermediate results stay in a processor's cache.
_CHUNK = 2**17


class SparseAverages:
    """`rnncore.asgd.AveragedParameters` of a network with masks: to be called after each step and mask update.

    Before `start` and after `stop` the other methods do nothing.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, Tensor]], masks: Mapping[str, Tensor], *, t0: int = 0
    ) -> None:
        """Prepares; nothing is averaged yet.

        Args:
            named_parameters: As of a module.
            masks: By parameter, 1 where a weight lives and else 0; looked up again in each `remask`. Parameters
                without one are dense.
            t0: Steps before a dense parameter's average begins.
        """
        self._named = list(named_parameters)
        self._masks = masks
        self._t0 = t0
        self._kept = AveragedParameters(parameter for _, parameter in self._named)
        #: By parameter with a mask: 0 where there is no weight, else 1 + the steps done when it grew.
        self._births: dict[str, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether averages are being kept."""
        return self._kept.active

    @property
    def averages(self) -> dict[str, Tensor]:
        """By parameter; none when inactive."""
        return {name: average for (name, _), average in zip(self._named, self._kept.averages, strict=False)}

    @torch.no_grad()
    def start(self) -> None:
        """Begin to average, anew if begun before."""
        self._kept.start()
        self._births = {
            name: self._masks[name].to(parameter.device, _wide(parameter), copy=True)
            for name, parameter in self._named
            if name in self._masks
        }

    def stop(self) -> None:
        """Leave averaging and forget the averages."""
        self._kept.stop()
        self._births = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after an optimizer step, masked."""
        if not self.active:
            return
        kept = self._kept
        dense: tuple[list[Tensor], list[Tensor]] = [], []
        for (name, parameter), average in zip(self._named, kept.averages, strict=True):
            if name in self._births:
                _move(average, parameter, self._births[name], kept.steps)
            else:
                dense[0].append(average)
                dense[1].append(parameter)
        if dense[0]:
            torch._foreach_lerp_(dense[0], dense[1], 1 / max(kept.steps - self._t0, 1))
        kept.steps += 1

    @torch.no_grad()
    def remask(self) -> None:
        """Take in new masks: averages of dead weights become 0, and weights that grew are born now."""
        if not self.active:
            return
        for (name, _), average in zip(self._named, self._kept.averages, strict=True):
            if name in self._births:
                births = self._births[name]
                mask = self._masks[name].to(births)
                for old, new in _chunks(births, mask):
                    old.add_(1 - old.sign(), alpha=self._kept.steps + 1).mul_(new)
                average.mul_(mask.to(average))

    def steps_alive(self, name: str) -> Tensor:
        """For each weight of a masked parameter, the steps averaged since it grew; 0 where there is none."""
        births = self._births[name]
        return (self._kept.steps + 1 - births) * births.sign()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters hold the averages inside the ``with`` block, and their own values again after it."""
        with self._kept.swapped_in():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Averages, steps and births; not copied."""
        return {**self._kept.state_dict(), "births": dict(self._births)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a copy of ``state``; UserError for another model's, or of other masked parameters."""
        saved: dict[str, Tensor] = state["births"]
        parameters = dict(self._named)
        if state["averages"] and saved.keys() != self._masks.keys() & parameters.keys():
            raise UserError("the averages are of other sparse parameters; resume with the flags of the first run")
        self._kept.load_state_dict(state)
        self._births = {
            name: births.detach().to(parameters[name].device, _wide(parameters[name]), copy=True)
            for name, births in saved.items()
        }


def _move(average: Tensor, parameter: Tensor, births: Tensor, steps: int) -> None:
    """One step of the averages: ``steps`` were done before it.

    Where there is no weight, ``births`` is 0, and average and weight are 0 before and after.
    """
    for mean, value, born in _chunks(average, parameter.detach(), births):
        age = torch.sub(steps + 1, born)
        share = age.clamp_min_(1.0).reciprocal_()
        mean.lerp_(value, share if share.dtype == mean.dtype else share.to(mean.dtype))


def _chunks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Flat pieces of tensors of one shape, in order; on a GPU, or where one is not contiguous, the whole tensors."""
    if not all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors):
        return [tensors]
    return zip(*(torch.split(tensor.view(-1), _CHUNK) for tensor in tensors), strict=True)


def _wide(parameter: Tensor) -> torch.dtype:
    """float32 counts 16 million steps exactly."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


class SparseASGD(torch.optim.Optimizer):
    """The whole of SNT-ASGD as an optimizer: SGD with decay, masks and `SparseAverages`, averaging from the first step.

    As in the original code, the rate of a masked parameter stays ``lr``, while that of a dense one is
    ``lr / (1 + lambd * lr * steps) ** alpha``, and ``t0`` delays the averages of dense parameters alone. With
    ``lambd=0`` the weights take the steps of ``torch.optim.SGD``, and `SparseAverages` beside that is faster.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        masks: Mapping[str, Tensor],
        *,
        lr: float = 1e-2,
        lambd: float = 0.0,
        alpha: float = 0.75,
        t0: int = 0,
        weight_decay: float = 0.0,
    ) -> None:
        """Prepares and begins to average.

        Args:
            named_parameters: As of a module; all in one group.
            masks: As of `SparseAverages`; call `remask` when they have changed.
            lr: The rate; ``param_groups`` may change it.
            lambd: Decay by ``1 - lambd * rate`` at each step.
            alpha: Power of the falling rate.
            t0: Steps before dense averages begin.
            weight_decay: L2 penalty, part of the gradient.

        Raises:
            ValueError: A rate or decay is negative.
        """
        if min(lr, lambd, weight_decay) < 0:
            raise ValueError(f"lr {lr}, lambd {lambd} and weight_decay {weight_decay} must not be negative")
        named = list(named_parameters)
        super().__init__(
            [parameter for _, parameter in named],
            {"lr": lr, "lambd": lambd, "alpha": alpha, "weight_decay": weight_decay, "steps": 0},
        )
        self._named, self._masks = named, masks
        self.averages = SparseAverages(named, masks, t0=t0)
        self.averages.start()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: the parameters, their masks, their averages. Parameters without gradient keep their value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        rate, decay = group["lr"], group["lambd"] + group["weight_decay"]
        dense_rate = rate / (1 + group["lambd"] * rate * group["steps"]) ** group["alpha"]
        for name, parameter in self._named:
            if parameter.grad is None:
                continue
            eta = rate if name in self._masks else dense_rate
            parameter.mul_(1 - eta * decay).add_(parameter.grad, alpha=-eta)
            if name in self._masks:
                parameter.mul_(self._masks[name].to(parameter))
        group["steps"] += 1
        self.averages.update()
        return loss

    def remask(self) -> None:
        """Take in masks that have changed."""
        self.averages.remask()

    def state_dict(self) -> dict[str, Any]:
        """The groups and the averages."""
        return {**super().state_dict(), "averages": self.averages.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a copy of ``state_dict``. Raises UserError for another model's averages."""
        averages = state_dict["averages"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "averages"})
        self.averages.load_state_dict(averages)
