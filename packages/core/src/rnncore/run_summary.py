"""What the metrics of finished and unfinished runs amount to, and a table of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from rnncore.errors import UserError
from rnncore.loss_units import Unit, converted
from rnncore.metrics_file import read_metrics

Points = list[tuple[int, float]]
#: "loss": as it is.
Shown = Unit | Literal["loss"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run, read from its ``metrics.jsonl``; None where the run has not come so far.

    Attributes:
        name: the last part of its path, or the path where that is not unique.
        unit: how losses are shown: as perplexity, bits per character, or as they are ("loss"), which is so where they
            are no losses of text.
        train, valid, test: (step, loss) of every line; nats per token for text.
        best_epoch: the epoch of the lowest validation loss.
        seconds: time of the whole run.
        ms: median over the step lines of their milliseconds per step.
        tokens_per_s: median over the step lines.
        peak_rss_mb, peak_cuda_mb: peak memory.
    """

    name: str
    unit: Shown
    train: Points
    valid: Points
    test: Points
    best_epoch: int | None
    seconds: float | None
    ms: float | None
    tokens_per_s: float | None
    peak_rss_mb: float | None
    peak_cuda_mb: float | None


def summarise(run: Path) -> RunSummary:
    """Read one run directory. Raises UserError when it is none, its metrics are damaged, or hold no loss yet."""
    metrics = run / "metrics.jsonl"
    if not metrics.exists():
        raise UserError(f"{run} is not a run directory: there is no metrics.jsonl")
    rows = read_metrics(metrics)
    try:
        summary = _summary(run, rows)
    except (KeyError, TypeError) as error:
        raise UserError(f"{metrics} lacks a number that docs/metrics.md asks for: {error}") from error
    if not (summary.train or summary.valid or summary.test):
        raise UserError(f"{run} holds no losses yet")
    return summary


def summarise_all(runs: Sequence[Path]) -> list[RunSummary]:
    """Read several run directories; where two share a name, all are named by their paths. Raises as `summarise`."""
    summaries = [summarise(run) for run in runs]
    if len({summary.name for summary in summaries}) < len(summaries):
        return [replace(summary, name=str(run)) for summary, run in zip(summaries, runs, strict=True)]
    return summaries


def table(summaries: Sequence[RunSummary]) -> str:
    """The runs as lines of text under a line of headings; ``-`` where a run has not come so far."""
    headings = ("run", "best valid", "test", "time", "ms/step", "tokens/s", "peak MB")
    rows = [headings, *(_cells(summary) for summary in summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in rows)


def as_shown(loss: float, unit: Shown) -> float:
    """A loss in the unit in which it is shown."""
    return loss if unit == "loss" else converted(loss, unit)


def _summary(run: Path, rows: list[dict[str, Any]]) -> RunSummary:
    steps = [row for row in rows if row["event"] == "step"]
    valid = [row for row in rows if row["event"] == "valid"]
    ends = [row for row in rows if row["event"] == "end"]
    end = ends[-1] if ends else {}
    return RunSummary(
        name=run.resolve().name,
        unit=_unit(rows),
        train=_points(steps),
        valid=_points(valid),
        test=_points([row for row in rows if row["event"] == "test"]),
        best_epoch=min(valid, key=lambda row: row["loss"])["epoch"] if valid else None,
        seconds=end.get("seconds"),
        ms=statistics.median(row["ms"] for row in steps) if steps else None,
        tokens_per_s=statistics.median(row["tokens_per_s"] for row in steps) if steps else None,
        peak_rss_mb=end.get("peak_rss_mb"),
        peak_cuda_mb=end.get("peak_cuda_mb"),
    )


def _unit(rows: list[dict[str, Any]]) -> Shown:
    """By the evaluations; a run without one counts as one of words until it tells."""
    evaluated = [row for row in rows if row["event"] in ("valid", "test")]
    if any("bpc" in row for row in evaluated):
        return "bpc"
    return "ppl" if not evaluated or any("ppl" in row for row in evaluated) else "loss"


def _points(rows: list[dict[str, Any]]) -> Points:
    return [(int(row["step"]), float(row["loss"])) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The name to the left, numbers to the right."""
    name, *numbers = zip(row, widths, strict=True)
    return [name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in numbers)]


def _cells(run: RunSummary) -> tuple[str, ...]:
    best = min((loss for _, loss in run.valid), default=None)
    epoch = f" (epoch {run.best_epoch})" if run.best_epoch is not None else ""
    memory = _number(run.peak_rss_mb, ".0f")
    if run.peak_cuda_mb is not None:
        memory += f" + {run.peak_cuda_mb:.0f} GPU"
    return (
        run.name,
        _loss(best, run.unit) + epoch,
        _loss(run.test[-1][1] if run.test else None, run.unit),
        "-" if run.seconds is None else str(timedelta(seconds=round(run.seconds))),
        _number(run.ms, ".1f"),
        _number(run.tokens_per_s, ",.0f"),
        memory,
    )


def _loss(loss: float | None, unit: Shown) -> str:
    if loss is None:
        return "-"
    return f"{loss:.4g}" if unit == "loss" else f"{converted(loss, unit):.3f} {unit}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
