"""Milliseconds of forward and backward through the core's LSTM layer against torch's, in one process, in turn."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rnncore import device
from rnncore.lstm import LSTMLayer
from rnncore.memory import keep_freed_memory
from torch import nn

#: Inputs, units, time steps, sequences: layers of AWD-LSTM, of a small one, of selfish's LSTM, of the adding task.
SIZES = [
    (400, 1150, 70, 20),
    (1150, 1150, 70, 20),
    (1150, 400, 70, 20),
    (200, 400, 70, 20),
    (1500, 1500, 35, 20),
    (2, 256, 200, 10),
]
LAYERS: dict[str, type[nn.Module]] = {"torch": nn.LSTM, "ours": LSTMLayer}


def make_step(kind: str, size: tuple[int, int, int, int], amp: str | None, place: torch.device) -> Callable[[], None]:
    """A function that goes forward and backward through one layer."""
    inputs, units, steps, batch = size
    torch.manual_seed(0)
    layer = LAYERS[kind](inputs, units).to(place)
    x = torch.randn(steps, batch, inputs, device=place, requires_grad=True)
    zeros = torch.zeros(1, batch, units, device=place)

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        with device.autocast(place, amp):
            output = layer(x, (zeros, zeros))[0]
        output.float().square().sum().backward()
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return step


def times(size: tuple[int, int, int, int], place: torch.device, repeats: int) -> dict[str, float]:
    """Median milliseconds of each layer and precision, taken in turn."""
    steps = {
        f"{kind}{'' if amp is None else ' ' + amp}": make_step(kind, size, amp, place)
        for kind in LAYERS
        for amp in (None, "bf16")
    }
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            before = time.perf_counter()
            step()
            samples[name].append((time.perf_counter() - before) * 1e3)
    return {name: round(statistics.median(sample[2:]), 1) for name, sample in samples.items()}


@click.command()
@click.option("--repeats", default=9, help="Timed steps of each, after two more.")
@click.option("--device", "place", default="cpu", help="auto, cpu or cuda.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="One step of each, of a tenth of the time steps.")
def main(repeats: int, place: str, output: Path | None, quick: bool) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    torch.set_flush_denormal(True)  # a gradient that fades through many steps slows torch's layer down tenfold
    where = device.choose(place)
    report: dict[str, object] = {"machine": device.describe_machine()}
    for inputs, units, steps, batch in SIZES:
        size = (inputs, units, steps // 10 if quick else steps, batch)
        ms = times(size, where, 1 if quick else repeats)
        ratios = {amp.strip() or "float32": round(ms[f"ours{amp}"] / ms[f"torch{amp}"], 3) for amp in ("", " bf16")}
        report[f"{inputs} to {units}, {size[2]} steps, batch {batch}"] = {"ms": ms, "ours / torch": ratios}
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
