"""One update of the masks of a network: how many weights die and grow in each parameter, and which.

Names of the rules are the original code's flags. `selfish.evolution` chooses the weights of one tensor, here the
parameters are brought together.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from rnncore.errors import UserError
from torch import Tensor

from selfish import evolution, redistribution
from selfish.gate_layout import GateLayout
from selfish.selection import count

#: ``magnitude_rnn`` ranks all gates and weights of a recurrent layer together.
DEATHS = ("magnitude", "magnitude_rnn", "SET", "threshold", "global_magnitude")
#: ``random_rnn`` draws in each gate by itself.
GROWTHS = ("random", "random_rnn", "momentum", "gradient")
#: ``cell-gate`` moves weights between the gates of a layer, the others between parameters.
REDISTRIBUTIONS = ("none", "momentum", "magnitude", "nonzeros", "cell-gate")
BETWEEN_PARAMETERS = ("momentum", "magnitude", "nonzeros")

Masks = dict[str, Tensor]
#: By parameter, how many weights grow in which rows: the pieces that grow by themselves, in order.
Quotas = dict[str, list[tuple[slice, int]]]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How masks evolve. UserError for a name that is none of those above.

    ``growth_expectation``: random growth draws each weight by itself, so that numbers are right on average only.
    """

    death: str = "magnitude"
    growth: str = "random"
    redistribution: str = "none"
    growth_expectation: bool = False

    def __post_init__(self) -> None:
        for flag, known in (("death", DEATHS), ("growth", GROWTHS), ("redistribution", REDISTRIBUTIONS)):
            if (value := getattr(self, flag)) not in known:
                raise UserError(f"--{flag} {value} is unknown; choose from {', '.join(known)}")
        if self.growth_expectation and not self.growth.startswith("random"):
            raise UserError(f"--growth_expectation goes with random growth, not with --growth {self.growth}")

    @property
    def by_momentum(self) -> bool:
        """Whether a running mean of the gradients is needed."""
        return "momentum" in (self.growth, self.redistribution)

    @property
    def of_gates(self) -> str | None:
        """The flag that needs to know gates, if there is one."""
        flags = (self.death == "magnitude_rnn", self.growth == "random_rnn", self.redistribution == "cell-gate")
        names = ("--death magnitude_rnn", "--growth random_rnn", "--redistribution cell-gate")
        return next((name for name, used in zip(names, flags, strict=True) if used), None)


@dataclass(frozen=True, kw_only=True)
class Population:
    """What an update reads, by parameter: weights, living masks (bool), gates, and how many weights should live.

    ``momentum``, ``gradient``: look up a tensor by the parameter's name.
    """

    weights: Mapping[str, Tensor]
    living: Mapping[str, Tensor]
    layouts: Mapping[str, GateLayout]
    baseline: Mapping[str, int]
    momentum: Callable[[str], Tensor]
    gradient: Callable[[str], Tensor]


def shares(rules: Rules, population: Population, threshold: float) -> dict[str, float]:
    """What each parameter should have of all growth, before any weight dies; the shares add up to 1.

    ``momentum``: the mean magnitude of its momentum; ``magnitude``: of its living weights; ``nonzeros``: how many
    weights are above the threshold. Without redistribution between parameters all shares are equal, and mean nothing.
    """
    found = dict.fromkeys(population.weights, 1.0)
    for name, weight in population.weights.items():
        if rules.redistribution == "magnitude":
            found[name] = redistribution.mean_magnitude(weight, population.living[name])
        elif rules.redistribution == "momentum":
            found[name] = redistribution.mean_magnitude(population.momentum(name), population.living[name])
        elif rules.redistribution == "nonzeros":
            found[name] = redistribution.large_weights(weight, threshold)
    total = sum(value for value in found.values() if math.isfinite(value)) or 1.0
    return {name: value / total for name, value in found.items()}


def numbers_to_die(population: Population, rate: float, part: Mapping[str, float]) -> dict[str, int]:
    """How many weights of each parameter should die at this rate."""
    numbers = {}
    for name, mask in population.living.items():
        living = count(mask)
        sparsity = 1 - living / mask.numel()
        numbers[name] = math.ceil(redistribution.death_rate_of(rate, sparsity, part[name], len(part)) * living)
    return numbers


def survivors(
    rules: Rules, population: Population, numbers: Mapping[str, int], threshold: float, generator: torch.Generator
) -> Masks:
    """The masks after death, by ``rules.death``; ``threshold`` kills as many as it happens to."""
    weights, living = population.weights, population.living
    if rules.death == "threshold":
        return {name: evolution.threshold_death(weights[name], mask, threshold) for name, mask in living.items()}
    if rules.death == "SET":
        return {
            name: evolution.set_death(weights[name], mask, numbers[name], generator) for name, mask in living.items()
        }
    masks: Masks = {}
    for names in _ranked_together(rules, population):
        left = evolution.global_magnitude_death(
            [weights[name] for name in names],
            [living[name] for name in names],
            sum(numbers[name] for name in names),
            generator,
        )
        masks |= zip(names, left, strict=True)
    return {name: masks[name] for name in living}


def _ranked_together(rules: Rules, population: Population) -> list[list[str]]:
    """The parameters, in groups whose weights compete for survival."""
    groups: dict[str, list[str]] = {}
    for name in population.living:
        key = f"parameter {name}"
        if rules.death == "global_magnitude":
            key = "all"
        elif rules.death == "magnitude_rnn" and name in population.layouts:
            key = f"layer {population.layouts[name].layer}"
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def quotas(rules: Rules, population: Population, left: Masks, part: Mapping[str, float], adjustment: float) -> Quotas:
    """How many weights grow where.

    They make up for what died, exactly, in every parameter; in every layer with ``cell-gate``; together with
    redistribution between parameters. With ``growth_expectation`` these last are rounded up, and ``adjustment`` is
    added before, as in the original code.
    """
    free = {name: mask.numel() - count(mask) for name, mask in left.items()}
    lost = {name: population.baseline[name] - (mask.numel() - free[name]) for name, mask in left.items()}
    if rules.redistribution in BETWEEN_PARAMETERS:
        names = list(left)
        room, parts = [free[name] for name in names], [part[name] for name in names]
        if rules.growth_expectation:
            died = sum(count(population.living[name]) - count(mask) for name, mask in left.items())
            amounts = redistribution.spread(parts, died + adjustment, [0.99 * space for space in room])
            lost = {name: math.ceil(amount) for name, amount in zip(names, amounts, strict=True)}
        else:
            lost = dict(zip(names, redistribution.apportion(parts, sum(lost.values()), room), strict=True))
    return _gate_quotas(rules, population, left, lost)


def _gate_quotas(rules: Rules, population: Population, left: Masks, lost: Mapping[str, int]) -> Quotas:
    """Divides each parameter's growth among its gates by their sizes.

    With ``cell-gate``, each layer's among the gates of all its weights, by size times mean magnitude of the survivors.
    """
    by_gate = rules.growth == "random_rnn" or rules.redistribution == "cell-gate"
    found: Quotas = {name: [] for name in left}
    groups: dict[str, list[str]] = {}
    for name in left:
        if not (by_gate and name in population.layouts):
            free = left[name].numel() - count(left[name])
            found[name] = [(slice(0, len(left[name])), min(max(lost[name], 0), free))]
        else:
            key = population.layouts[name].layer if rules.redistribution == "cell-gate" else name
            groups.setdefault(key, []).append(name)
    for names in groups.values():
        blocks = [(name, rows) for name in names for rows in population.layouts[name].rows.values()]
        room = [left[name][rows].numel() - count(left[name][rows]) for name, rows in blocks]
        parts = [float(left[name][rows].numel()) for name, rows in blocks]
        if rules.redistribution == "cell-gate":
            for place, (name, rows) in enumerate(blocks):
                parts[place] *= redistribution.mean_magnitude(population.weights[name][rows], left[name][rows])
        numbers = redistribution.apportion(parts, max(sum(lost[name] for name in names), 0), room)
        for (name, rows), number in zip(blocks, numbers, strict=True):
            found[name].append((rows, number))
    return found


def grown(rules: Rules, population: Population, left: Masks, quota: Quotas, generator: torch.Generator) -> Masks:
    """The masks after growth, by ``rules.growth``."""
    masks: Masks = {}
    for name, mask in left.items():
        pieces = quota[name]
        if rules.growth_expectation:
            uniform = torch.rand(mask.shape, generator=generator).to(mask.device)
            parts = [evolution.expected_growth(mask[rows], number, uniform[rows]) for rows, number in pieces]
        elif rules.growth.startswith("random"):
            parts = [evolution.random_growth(mask[rows], number, generator) for rows, number in pieces]
        else:
            score = population.momentum(name) if rules.growth == "momentum" else population.gradient(name)
            parts = [evolution.strongest_growth(mask[rows], score[rows], number, generator) for rows, number in pieces]
        masks[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return masks


def next_threshold(threshold: float, died: int, wanted: int) -> float:
    """A threshold that kills closer to as many weights as are wanted: doubled, halved, or within 2 % the same."""
    if died < 0.98 * wanted:
        return 2 * threshold
    return threshold / 2 if died > 1.02 * wanted else threshold
