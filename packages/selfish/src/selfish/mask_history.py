"""What became of the weights in every update of the masks, and the tables and pictures that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rnncore.atomic_file import cannot_write, replace_file
from rnncore.errors import UserError
from torch import Tensor

from selfish.gate_layout import GateLayout
from selfish.selection import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Place:
    """A parameter, or one gate of it: ``rows`` of its weight, ``size`` weights."""

    name: str
    gate: str | None
    rows: slice
    size: int

    @property
    def label(self) -> str:
        """The parameter's name, and the gate's."""
        return self.name if self.gate is None else f"{self.name} {self.gate}"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Of one place in one update. A weight that died and grew at once was kept.

    ``first``: how many of the living weights lived in the first mask.
    """

    removed: int
    grown: int
    kept: int
    first: int

    @property
    def living(self) -> int:
        """After the update."""
        return self.kept + self.grown


@dataclass(frozen=True, kw_only=True)
class MaskUpdate:
    """``step``: optimizer steps before it; ``death_rate``: 0 for the first mask; ``numbers``: one a place."""

    step: int
    death_rate: float
    numbers: tuple[Numbers, ...]


class MaskHistory:
    """The numbers of the first masks and of all updates.

    Attributes:
        places: Each parameter, and after it its gates.
        updates: The first is that of the masks at the start.
    """

    def __init__(self, masks: Mapping[str, Tensor], layouts: Mapping[str, GateLayout]) -> None:
        """Notes the first ``masks``; ``layouts`` says which parameters have gates."""
        self._first = {name: mask != 0 for name, mask in masks.items()}
        self.places: list[Place] = []
        for name, mask in masks.items():
            self.places.append(Place(name=name, gate=None, rows=slice(0, len(mask)), size=mask.numel()))
            for gate, rows in layouts[name].rows.items() if name in layouts else ():
                self.places.append(Place(name=name, gate=gate, rows=rows, size=mask[rows].numel()))
        self.updates: list[MaskUpdate] = []
        self.add(0, 0.0, self._first, self._first)

    def add(self, step: int, death_rate: float, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Notes an update, of bool masks."""
        found: list[Numbers] = []
        for name, new in after.items():
            both, old = new.logical_and(before[name]), new.logical_and(self._first[name].to(new.device))
            whole, *gates = [place for place in self.places if place.name == name]
            pieces = []
            for rows in [place.rows for place in gates or [whole]]:
                kept = count(both[rows])
                removed, grown = count(before[name][rows]) - kept, count(new[rows]) - kept
                pieces.append(Numbers(removed=removed, grown=grown, kept=kept, first=count(old[rows])))
            found += [_sum(pieces), *pieces] if gates else pieces
        self.updates.append(MaskUpdate(step=step, death_rate=death_rate, numbers=tuple(found)))

    def table(self, update: MaskUpdate | None = None) -> str:
        """Density, and weights removed, grown and kept, by parameter and gate, of one update: by default the last."""
        update = self.updates[-1] if update is None else update
        width = max(len(place.label) for place in self.places) + 2
        lines = [f"{'':{width}} density    removed      grown       kept  of the first mask"]
        rows = [("all", *_total(self.places, update.numbers))]
        rows += [
            (place.label if place.gate is None else f"  gate {place.gate}", place.size, numbers)
            for place, numbers in zip(self.places, update.numbers, strict=True)
        ]
        for label, size, numbers in rows:
            share = numbers.first / numbers.living if numbers.living else 0.0
            lines.append(
                f"{label:{width}} {numbers.living / size:7.4f} {numbers.removed:10,} {numbers.grown:10,} "
                f"{numbers.kept:10,}  {share:7.1%}"
            )
        return "\n".join(lines)

    def save_table(self, output: Path) -> None:
        """Writes the numbers of all updates, a line for each place in each update, as CSV.

        Raises:
            UserError: The file cannot be written.
        """
        lines = ["step,death_rate,parameter,gate,size,living,removed,grown,kept,first"]
        for update in self.updates:
            for place, n in zip(self.places, update.numbers, strict=True):
                head = f"{update.step},{update.death_rate:.6f},{place.name},{place.gate or ''},{place.size}"
                lines.append(f"{head},{n.living},{n.removed},{n.grown},{n.kept},{n.first}")
        try:
            replace_file(output, lambda file: file.write(("\n".join(lines) + "\n").encode()))
        except OSError as error:
            raise cannot_write(output, error) from error

    def state_dict(self) -> dict[str, Any]:
        """The first masks, and all numbers in one tensor ``[updates, places, 4]``."""
        counts = [[[n.removed, n.grown, n.kept, n.first] for n in update.numbers] for update in self.updates]
        return {
            "first": dict(self._first),
            "steps": [update.step for update in self.updates],
            "death_rates": [update.death_rate for update in self.updates],
            "counts": torch.tensor(counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a copy of ``state``."""
        self._first = {name: mask.detach().to(self._first[name], copy=True) for name, mask in state["first"].items()}
        self.updates = [
            MaskUpdate(
                step=step,
                death_rate=rate,
                numbers=tuple(Numbers(removed=r, grown=g, kept=k, first=f) for r, g, k, f in counts),
            )
            for step, rate, counts in zip(state["steps"], state["death_rates"], state["counts"].tolist(), strict=True)
        ]


def draw_densities(history: MaskHistory, output: Path) -> None:
    """Draws the density of every parameter over optimizer steps, and beside it that of every gate.

    Raises:
        UserError: The picture cannot be written.
    """
    gates = any(place.gate is not None for place in history.places)
    _draw(history, output, "density", [False, True] if gates else [False])


def draw_overlap(history: MaskHistory, output: Path) -> None:
    """Draws which share of the living weights lived in the first mask, by parameter, over optimizer steps.

    Raises:
        UserError: The picture cannot be written.
    """
    _draw(history, output, "share of the first mask's weights", [False])


def _draw(history: MaskHistory, output: Path, quantity: str, panels: Sequence[bool]) -> None:
    """A panel of parameters, and one of gates where ``panels`` says so."""
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    figure = Figure(figsize=(9.0 * len(panels), 5.6), layout="constrained", dpi=120)
    if output.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw to {output}: give a name that ends in .png, .pdf or .svg")
    for axes, gates in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _curves(axes, history, quantity == "density", gates)
        axes.set_ylabel(quantity)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", ncols=2 if gates else 1, loc="upper left", bbox_to_anchor=(1, 1))
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error


def _curves(axes: Axes, history: MaskHistory, density: bool, gates: bool) -> None:
    steps = [update.step for update in history.updates]
    shown = [(row, place) for row, place in enumerate(history.places) if (place.gate is not None) == gates]
    for number, (row, place) in enumerate(shown):
        found = [update.numbers[row] for update in history.updates]
        values = [n.living / place.size if density else n.first / max(n.living, 1) for n in found]
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        axes.plot(steps, values, marker="o", markersize=3, linestyle=style, linewidth=1.2, label=place.label)


def _total(places: Sequence[Place], numbers: Sequence[Numbers]) -> tuple[int, Numbers]:
    whole = [(place.size, n) for place, n in zip(places, numbers, strict=True) if place.gate is None]
    return sum(size for size, _ in whole), _sum([n for _, n in whole])


def _sum(numbers: Sequence[Numbers]) -> Numbers:
    return Numbers(
        removed=sum(n.removed for n in numbers),
        grown=sum(n.grown for n in numbers),
        kept=sum(n.kept for n in numbers),
        first=sum(n.first for n in numbers),
    )
