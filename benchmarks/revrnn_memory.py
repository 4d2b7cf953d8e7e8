"""Peak memory of a training step by window length, states stored against states rebuilt, each in its own process.

Writes the figures as JSON and a plot of them.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
from rnncore import device

MODES = {"stored": "revgru", "rebuilt": "revgru-reverse"}


def measure(model: str, bptt: int) -> float:
    """Peak resident MB of a fresh process that takes two steps of a model with windows of ``bptt``."""
    here = Path(__file__).resolve()
    command = [sys.executable, str(here), "--one", model, "--bptt", str(bptt)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def take_steps(model: str, bptt: int) -> None:
    """Takes two steps on random ids and prints the peak."""
    import torch
    from revrnn_speed import VOCABULARY, make_step
    from rnncore.memory import keep_freed_memory, peak_rss_mb

    keep_freed_memory()
    torch.manual_seed(0)
    step = make_step(model, torch.randint(0, VOCABULARY, (bptt + 1, 20)), torch.device("cpu"), None)
    step()
    step()
    print(peak_rss_mb())


def draw(figures: dict[str, dict[int, float]], picture: Path) -> None:
    """Draws peak memory over window length, a line for each way of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    for name, points in figures.items():
        axes.plot(list(points), [mb / 1024 for mb in points.values()], marker="o", label=name)
    axes.set(xlabel="window length (--bptt, steps)", ylabel="peak memory of the process (GiB)", ylim=(0, None))
    axes.set_title("One training step, batch 20, 650 units, 10,000 types")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Folder for revrnn_memory.json and .png; else none.")
@click.option("--one", help="Measure one model in this process.")
@click.option("--bptt", default=70, help="Window length for --one.")
@click.option("--quick", is_flag=True, help="Two short windows.")
def main(output: Path | None, one: str | None, bptt: int, quick: bool) -> None:
    """Print the figures as JSON."""
    if one:
        take_steps(one, bptt)
        return
    lengths = [10, 20] if quick else [70, 280, 1000, 2000, 4000]
    figures = {name: {length: measure(model, length) for length in lengths} for name, model in MODES.items()}
    report = json.dumps({"peak_mb": figures, "machine": device.describe_machine()}, indent=1)
    print(report)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "revrnn_memory.json").write_text(report + "\n")
        draw(figures, output / "revrnn_memory.png")


if __name__ == "__main__":
    main()
