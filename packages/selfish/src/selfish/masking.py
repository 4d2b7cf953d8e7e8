"""Sparse training: the masks of a module, kept after every optimizer step and evolved after every epoch.

    masking = Masking(model, density=0.33, decay_steps=total_steps)
    ...
    optimizer.step()
    masking.after_step(optimizer)
    ...
    masking.evolve(optimizer)  # at the end of an epoch

It works with any module and any optimizer whose state has the shape of the weights. On several processes masks are
those of the first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from rnncore.errors import UserError
from torch import Tensor, nn

from selfish import mask_update
from selfish.death_rate import DeathRate
from selfish.density import UNIFORM, initial_counts
from selfish.gate_layout import GateLayout, gate_layouts
from selfish.mask_history import MaskHistory
from selfish.mask_update import Population, Rules
from selfish.selection import count, random_subset

#: What a step leaves of the running sum of gradients that growth by momentum reads.
MOMENTUM = 0.9


class Masking:
    """Keeps a module sparse while it is trained.

    Attributes:
        masks: By the parameter's name, 1 where a weight lives and 0 where not, in the parameter's type.
        history: The start and every update.
        steps: Optimizer steps so far.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        density: float,
        decay_steps: int,
        rules: Rules | None = None,
        sparse_init: str = UNIFORM,
        death_rate: float = 0.5,
        death_rate_decay: str = "cosine",
        threshold: float = 1e-3,
        dense: Iterable[str] = (),
        gates: Mapping[str, GateLayout] | None = None,
        seed: int = 0,
    ) -> None:
        """Draws the first masks and sets the dead weights to 0.

        Args:
            module: Its trained parameters of two dimensions or more become sparse.
            density: The share of their weights that lives, of all together.
            decay_steps: Optimizer steps over which the death rate falls.
            rules: How masks evolve; None for the defaults of `Rules`.
            sparse_init: `selfish.density.initial_counts`.
            death_rate: The share of living weights that the first update kills.
            death_rate_decay: ``cosine`` or ``linear``.
            threshold: Of ``threshold`` death and ``nonzeros`` redistribution; death doubles or halves it.
            dense: Names of parameters to leave alone.
            gates: The gates of recurrent weights; None looks for them, `gate_layouts`.
            seed: Of all draws.

        Raises:
            UserError: A density, rate or name is none, no parameter is left, or gates are asked for and unknown.
        """
        self.rules = Rules() if rules is None else rules
        self._rate = DeathRate(death_rate, steps=decay_steps, decay=death_rate_decay)
        self._parameters = _sparse_parameters(module, set(dense))
        layouts = gate_layouts(module) if gates is None else gates
        self._layouts = {name: layout for name, layout in layouts.items() if name in self._parameters}
        if self.rules.of_gates is not None and not self._layouts:
            raise UserError(f"{self.rules.of_gates} needs a recurrent layer whose gates are known; this model has none")
        self._threshold, self._adjustment, self._residuals = threshold, 0.0, 0.0
        self._generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        self._baseline = initial_counts(shapes, density, sparse_init)
        self._target = density * sum(parameter.numel() for parameter in self._parameters.values())
        self.masks = {name: self._drawn(name) for name in self._parameters}
        self.history = MaskHistory(self.masks, self._layouts)
        self._momenta: dict[str, Tensor] = {}
        if self.rules.by_momentum:
            self._momenta = {name: torch.zeros_like(weight.detach()) for name, weight in self._parameters.items()}
        self.apply()

    @property
    def death_rate(self) -> float:
        """That of an update now."""
        return self._rate.at(self.steps)

    @property
    def density(self) -> float:
        """The share of weights that lives, of all sparse parameters together."""
        return sum(map(count, self.masks.values())) / sum(mask.numel() for mask in self.masks.values())

    def _drawn(self, name: str) -> Tensor:
        everything = torch.ones(self._parameters[name].shape, dtype=torch.bool)
        return random_subset(everything, self._baseline[name], self._generator).to(self._parameters[name])

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Sets dead weights to 0, and all that the optimizer keeps for them: momenta, second moments, averages."""
        tensors: list[Tensor] = []
        masks: list[Tensor] = []
        for name, parameter in self._parameters.items():
            if self.masks[name].device != parameter.device or self.masks[name].dtype != parameter.dtype:
                self.masks[name] = self.masks[name].to(parameter)
            state = {} if optimizer is None else optimizer.state.get(parameter, {})
            kept = [
                value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape != ()
            ]
            tensors += [parameter, *kept]
            masks += [self.masks[name]] * (1 + len(kept))
        torch._foreach_mul_(tensors, masks)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call it after every ``optimizer.step()``, before gradients are cleared."""
        self.apply(optimizer)
        self.steps += 1
        for name, momentum in self._momenta.items():
            parameter = self._parameters[name]
            if parameter.grad is not None:
                self._momenta[name] = momentum.to(parameter).mul_(MOMENTUM).add_(parameter.grad)

    @torch.no_grad()
    def evolve(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets weights die and grow. Weights that grow start at 0, and so does what the optimizer keeps for them.

        Averages are not in the optimizer: call their ``remask`` afterwards.

        Raises:
            UserError: Growth asks for a gradient that there is not.
        """
        self.apply(optimizer)
        rules, generator = self.rules, self._generator
        living = {name: mask != 0 for name, mask in self.masks.items()}
        population = self._population(living)
        part = mask_update.shares(rules, population, self._threshold)
        rate = self.death_rate
        numbers = mask_update.numbers_to_die(population, rate, part)
        left = mask_update.survivors(rules, population, numbers, self._threshold, generator)
        if rules.death == "threshold":
            died = sum(map(count, living.values())) - sum(map(count, left.values()))
            self._threshold = mask_update.next_threshold(self._threshold, died, sum(numbers.values()))
        quota = mask_update.quotas(rules, population, left, part, self._adjustment)
        grown = mask_update.grown(rules, population, left, quota, generator)
        del left
        for name, mask in grown.items():
            _take_from_first_process(mask)
            self.masks[name].copy_(mask)
        if rules.growth_expectation:
            self._adjust(sum(map(count, grown.values())))
        self.apply(optimizer)
        self.history.add(self.steps, rate, living, grown)

    def _adjust(self, living: int) -> None:
        """Corrects later redistribution for the weights that Bernoulli draws left out, as the original code does."""
        missing = self._target - living
        self._residuals += missing
        self._adjustment = 0.25 * self._adjustment + 0.75 * missing + self._residuals / len(self.history.updates)

    def _population(self, living: dict[str, Tensor]) -> Population:
        parameters = self._parameters
        return Population(
            weights={name: parameter.detach() for name, parameter in parameters.items()},
            living=living,
            layouts=self._layouts,
            baseline=self._baseline,
            momentum=lambda name: self._momenta[name],
            gradient=lambda name: _gradient(parameters[name], name),
        )

    def state_dict(self) -> dict[str, Any]:
        """Masks (bool), counts, the state of the draws and the history."""
        return {
            "masks": {name: mask != 0 for name, mask in self.masks.items()},
            "steps": self.steps,
            "baseline": dict(self._baseline),
            "threshold": self._threshold,
            "adjustment": self._adjustment,
            "residuals": self._residuals,
            "generator": self._generator.get_state(),
            "momenta": dict(self._momenta),
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``; the module's weights are then masked.

        Raises:
            UserError: It has masks of other parameters.
        """
        check_masks(state["masks"], self.masks)
        for name, mask in state["masks"].items():
            self.masks[name].copy_(mask)
        self.steps = int(state["steps"])
        self._baseline = {name: int(number) for name, number in state["baseline"].items()}
        self._threshold = float(state["threshold"])
        self._adjustment, self._residuals = float(state["adjustment"]), float(state["residuals"])
        self._generator.set_state(state["generator"].cpu())
        self._momenta = {
            name: state["momenta"][name].to(momentum, copy=True) if name in state["momenta"] else momentum
            for name, momentum in self._momenta.items()
        }
        self.history.load_state_dict(state["history"])
        self.apply()


def check_masks(saved: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
    """Raises UserError unless both are masks of the same parameters."""
    for name in sorted(saved.keys() | present.keys()):
        shapes = [list(masks[name].shape) if name in masks else "none" for masks in (saved, present)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the checkpoint has other masks: for {name} {shapes[0]}, here {shapes[1]}; "
                "use the flags of the run that wrote it"
            )


def _sparse_parameters(module: nn.Module, dense: set[str]) -> dict[str, nn.Parameter]:
    found = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 2 and parameter.requires_grad
    }
    if unknown := dense - found.keys():
        raise UserError(f"there is no parameter {min(unknown)} to leave dense; there are {', '.join(found)}")
    sparse = {name: parameter for name, parameter in found.items() if name not in dense}
    if not sparse:
        raise UserError("the model has no weight matrix that could be sparse")
    return sparse


def _take_from_first_process(mask: Tensor) -> None:
    """All processes of a distributed run compute the same masks; should one of them round differently, no matter."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(mask, src=0)


def _gradient(parameter: Tensor, name: str) -> Tensor:
    if parameter.grad is None:
        raise UserError(f"--growth gradient needs the gradient of the last step, which {name} has none of")
    return parameter.grad
