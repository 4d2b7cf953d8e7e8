"""``rnn-report``: curves and a table of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError
from rnncore.plain_command import plain_command
from rnncore.run_summary import RunSummary, Shown, as_shown, summarise_all, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@plain_command("rnn-report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture; its suffix decides the format. Default: report.png in the run's directory, or here for several.",
)
def main(runs: tuple[Path, ...], output: Path | None) -> None:
    """Draw the loss and perplexity of run directories, and print a table of their results."""
    summaries = summarise_all(runs)
    if output is None:
        output = runs[0] / "report.png" if len(runs) == 1 else Path("report.png")
    _draw(summaries, output)
    click.echo(table(summaries))
    click.echo(f"curves: {output}")


def plot(runs: Sequence[Path], output: Path) -> None:
    """Draw training, validation and test loss of run directories over their steps.

    Left the loss in nats per token; right the perplexity on a logarithmic scale, or bits per character when every run
    is one of characters. Where no run is one of text, both show the loss, right on a logarithmic scale.

    Args:
        runs: run directories, one colour each.
        output: the picture; its suffix decides the format.

    Raises:
        UserError: a run cannot be read; the picture cannot be written.
    """
    _draw(summarise_all(runs), output)


def _draw(summaries: Sequence[RunSummary], output: Path) -> None:
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    figure = Figure(figsize=(12, 4.8), layout="constrained", dpi=120)
    if output.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw to {output}: give a name that ends in .png, .pdf or .svg")
    left, right = figure.subplots(1, 2)
    units = {summary.unit for summary in summaries}
    unit: Shown = units.pop() if len(units) == 1 else "ppl"
    for number, summary in enumerate(summaries):
        _curves(left, summary, f"C{number % 10}", "loss")
        _curves(right, summary, f"C{number % 10}", unit)
    left.set_ylabel("loss" if unit == "loss" else "loss (nats per token)")
    right.set_ylabel({"ppl": "perplexity", "bpc": "bits per character", "loss": "loss"}[unit])
    if unit == "ppl":
        _logarithmic(right)
    elif unit == "loss":
        right.set_yscale("log", nonpositive="mask")
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(left, right, summaries)
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error
    except RuntimeError as error:  # some formats need LaTeX
        raise UserError(f"cannot draw to {output}: {error}") from None


def _curves(axes: Axes, run: RunSummary, colour: str, unit: Shown) -> None:
    """Training as a thin line, validation as a line with a marker per evaluation, the test as a star."""
    styles = (
        (run.train, {"linewidth": 0.8, "alpha": 0.6}),
        (run.valid, {"linewidth": 1.6, "marker": "o", "markersize": 4}),
        (run.test[-1:], {"linestyle": "none", "marker": "*", "markersize": 12, "markeredgecolor": "black"}),
    )
    for points, style in styles:
        if points:
            steps = [step for step, _ in points]
            values = [as_shown(loss, unit) for _, loss in points]
            axes.plot(steps, values, color=colour, **style)


def _logarithmic(axes: Axes) -> None:
    """A logarithmic scale that writes out 50, 100, 200 instead of powers of ten: perplexities span few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(left: Axes, right: Axes, summaries: Sequence[RunSummary]) -> None:
    """Colours say which run (left), line styles say which split (right)."""
    from matplotlib.lines import Line2D

    names = [summary.name.replace("$", r"\$") for summary in summaries]
    colours = [Line2D([], [], color=f"C{number % 10}", linewidth=2) for number in range(len(names))]
    left.legend(colours, names, frameon=False)
    splits = [
        Line2D([], [], color="grey", linewidth=0.8),
        Line2D([], [], color="grey", linewidth=1.6, marker="o", markersize=4),
        Line2D([], [], color="grey", linestyle="none", marker="*", markersize=12),
    ]
    right.legend(splits, ["train", "valid", "test"], frameon=False)
