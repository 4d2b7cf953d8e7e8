"""What the runs of a comparison amount to: a figure of medians and ranges over the seeds, and a table."""

from __future__ import annotations

import math
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rnncore.atomic_file import cannot_write
from rnncore.device import describe_machine
from rnncore.metrics_file import read_metrics

from urlstm.options import GATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A task with a baseline is solved at the first line of the log whose training loss is below this share of it.
SOLVED = 1 / 20

_Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """A picture of a number of ``metrics.jsonl`` over the steps."""

    event: str
    key: str
    label: str
    logarithmic: bool = False


class Band(NamedTuple):
    """Median and range over the seeds, at each step that some run has told of."""

    steps: list[int]
    median: list[float]
    low: list[float]
    high: list[float]


def band(runs: Sequence[_Rows], panel: Panel) -> Band:
    """One number of several runs of one gate."""
    values: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if row["event"] == panel.event and row.get(panel.key) is not None:
                values.setdefault(int(row["step"]), []).append(float(row[panel.key]))
    steps = sorted(values)
    return Band(
        steps,
        [statistics.median(values[step]) for step in steps],
        [min(values[step]) for step in steps],
        [max(values[step]) for step in steps],
    )


def steps_to_solve(rows: _Rows) -> int | None:
    """The step of the first line whose training loss is below `SOLVED` times the baseline; None if there is none.

    Adding and copy make up new sequences for every step, so that this loss is one of sequences never seen before. A
    line's loss is the mean over the steps since the line before.
    """
    baseline = next((row["baseline"] for row in rows if "baseline" in row), None)
    if baseline is None:
        return None
    return next((row["step"] for row in rows if row["event"] == "step" and row["loss"] < SOLVED * baseline), None)


def draw(runs: Mapping[str, Sequence[Path]], panels: Sequence[Panel], output: Path) -> None:
    """Draw each panel with a line (the median) and a band (the range over the seeds) for each gate.

    Args:
        runs: Gate to run directories.
        panels: What to draw.
        output: The picture.

    Raises:
        UserError: A run cannot be read; the picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    rows = {gate: [read_metrics(path / "metrics.jsonl") for path in paths] for gate, paths in runs.items()}
    figure = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained", dpi=120)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel, rows)
    figure.axes[0].legend(frameon=False)
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error


def _draw_panel(axes: Axes, panel: Panel, rows: Mapping[str, list[_Rows]]) -> None:
    if panel.logarithmic:
        axes.set_yscale("log")
    for gate, each in rows.items():
        found = band(each, panel)
        colour = f"C{GATES.index(gate) % 10}"  # one gate has one colour in all figures
        axes.plot(found.steps, found.median, color=colour, linewidth=1.4, label=gate)
        axes.fill_between(found.steps, found.low, found.high, color=colour, alpha=0.18, linewidth=0)
    baselines = [row["baseline"] for each in rows.values() for run in each for row in run if "baseline" in row]
    if baselines and panel.key == "loss":
        axes.axhline(baselines[0], color="black", linewidth=0.8, linestyle="--", label="without memory")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(panel.label)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def table(runs: Mapping[str, Sequence[Path]], stopped: Mapping[str, str]) -> str:
    """A table in Markdown: for each gate the medians over the seeds, with the range in brackets.

    Args:
        runs: Gate to the directories of its finished runs.
        stopped: Runs that are not among them, and why.
    """
    rows = {gate: [read_metrics(path / "metrics.jsonl") for path in paths] for gate, paths in runs.items()}
    tests = {gate: [_last(run, "test") for run in each] for gate, each in rows.items()}
    every = [test for each in tests.values() for test in each]
    columns = {"test loss": {gate: _spread([test["loss"] for test in each]) for gate, each in tests.items()}}
    for key, heading in (("accuracy", "test accuracy"), ("ppl", "test perplexity"), ("bpc", "test bits per character")):
        if any(key in test for test in every):
            columns[heading] = {gate: _spread([_number(test[key]) for test in each]) for gate, each in tests.items()}
    if any("baseline" in test for test in every):
        solved = {
            gate: [found for run in each if (found := steps_to_solve(run)) is not None] for gate, each in rows.items()
        }
        counts = {gate: f"{len(solved[gate])} of {len(each)}" for gate, each in rows.items()}
        columns = {"solved": counts, "steps to solve": {gate: _spread(solved[gate]) for gate in rows}, **columns}
    steps = {gate: [[row for row in run if row["event"] == "step"] for run in each] for gate, each in rows.items()}
    columns["ms per step"] = {
        gate: _spread([statistics.median(row["ms"] for row in run) for run in each if run])
        for gate, each in steps.items()
    }
    lines = [f"| gate | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    lines += [
        f"| {gate} | {len(rows[gate])} | {' | '.join(cells[gate] for cells in columns.values())} |" for gate in rows
    ]
    return "\n".join([*lines, "", *_notes(every, stopped)]) + "\n"


def _notes(tests: _Rows, stopped: Mapping[str, str]) -> list[str]:
    """What the table's numbers are, and where they come from."""
    notes = ["Median over the seeds, with the range in brackets."]
    baseline = next((test["baseline"] for test in tests if "baseline" in test), None)
    if baseline is not None:
        notes.append(f"Without memory the loss is {baseline:.4g}; solved: a training loss below {SOLVED:.0%} of that.")
    notes += [f"Left out: {name} ({reason})." for name, reason in stopped.items()]
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return [*notes, f"`{command}`, urlstm {version('urlstm')}, {machine}."]


def _last(rows: _Rows, event: str) -> dict[str, Any]:
    return next(row for row in reversed(rows) if row["event"] == event)


def _number(value: float | None) -> float:
    """Of a line of metrics, where a perplexity that is too large for a number is null."""
    return math.inf if value is None else value


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, middle, high = (_short(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} [{low}, {high}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
