"""Milliseconds and memory of one training step of each gate against torch's own layer of the same size.

One step is zero_grad, forward, backward, Adam. The sizes are those of the adding task, where the loss reads the last
time step only, and of a language model's layer, where it reads all. Times are taken in one process, the gates in turn;
peaks of memory in a fresh process each. ``cell loop`` is the UR-LSTM written down plainly, one time step after another.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import torch
from rnncore import device
from rnncore.memory import keep_freed_memory, peak_rss_mb
from torch import Tensor, nn
from urlstm import URLSTMCell, make_layer
from urlstm.gates import GRU_GATES, LSTM_GATES

Step = Callable[[], None]
TORCH = {"nn.LSTM": nn.LSTM, "nn.GRU": nn.GRU}
PLAIN = "cell loop"
GATES = [*TORCH, *LSTM_GATES, *GRU_GATES, PLAIN]


class Size(NamedTuple):
    """Inputs, units, time steps, sequences; whether the loss reads the last step only, and x needs no gradient."""

    inputs: int
    units: int
    steps: int
    batch: int
    last: bool


SIZES = {
    "adding 200": Size(2, 256, 200, 10, True),
    "adding 750": Size(2, 256, 750, 10, True),
    "language": Size(400, 1150, 70, 20, False),
}


class CellLoop(nn.Module):
    """A cell, step by step under autograd."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.cell = URLSTMCell(inputs, units)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """All hidden states, in a tuple as of the layers."""
        state, states = None, []
        for now in x:
            state = self.cell(now, state)
            states.append(state[0])
        return (torch.stack(states),)


def make_step(gate: str, size: Size, place: torch.device) -> Step:
    """A function that takes one optimizer step."""
    torch.manual_seed(0)
    if gate == PLAIN:
        layer: nn.Module = CellLoop(size.inputs, size.units)
    elif gate in TORCH:
        layer = TORCH[gate](size.inputs, size.units)
    else:
        layer = make_layer(gate, size.inputs, size.units, t_max=size.steps)
    layer.to(place)
    x = torch.randn(size.steps, size.batch, size.inputs, device=place, requires_grad=not size.last)
    optimizer = torch.optim.Adam(layer.parameters())

    def step() -> None:
        optimizer.zero_grad()
        x.grad = None
        output = layer(x)[0]
        (output[-1] if size.last else output).square().sum().backward()
        optimizer.step()
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return step


def reference(gate: str) -> str:
    """The layer of torch's that a gate is compared with."""
    return "nn.GRU" if gate.endswith("gru") or gate == "nn.GRU" else "nn.LSTM"


def times(size: Size, place: torch.device, repeats: int) -> dict[str, float]:
    """Median milliseconds of a step of each gate, taken in turn."""
    steps = {gate: make_step(gate, size, place) for gate in GATES}
    samples: dict[str, list[float]] = {gate: [] for gate in GATES}
    for _ in range(repeats + 2):
        for gate, step in steps.items():
            before = time.perf_counter()
            step()
            samples[gate].append((time.perf_counter() - before) * 1e3)
    return {gate: statistics.median(sample[2:]) for gate, sample in samples.items()}


def peak(gate: str, name: str, steps: int) -> float:
    """The peak of resident memory of a fresh process that takes three steps, in MB."""
    command = [sys.executable, __file__, "--peak_of", gate, "--size", name, "--window", str(steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def ratios(values: dict[str, float]) -> dict[str, float]:
    """Each gate's against torch's own layer."""
    return {gate: round(value / values[reference(gate)], 3) for gate, value in values.items() if gate not in TORCH}


@click.command()
@click.option("--repeats", default=9, help="Timed steps of each gate, after two more.")
@click.option("--device", "place", default="cpu", help="auto, cpu or cuda; memory is that of a process on the CPU.")
@click.option("--size", "only", type=click.Choice(list(SIZES)), help="One of the sizes; else all.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Three steps of windows of ten.")
@click.option("--window", type=int, help="Another number of time steps.")
@click.option("--peak_of", hidden=True, help="Take three steps of a gate and print the peak of memory.")
def main(
    repeats: int,
    place: str,
    only: str | None,
    output: Path | None,
    quick: bool,
    window: int | None,
    peak_of: str | None,
) -> None:
    """Print medians, peaks and ratios as JSON."""
    keep_freed_memory()
    # A gradient that fades through many steps else slows torch's own layer down tenfold: the ratios would flatter.
    torch.set_flush_denormal(True)
    where = device.choose(place)
    window, repeats = (10, 3) if quick else (window, repeats)
    sizes = {name: size._replace(steps=window or size.steps) for name, size in SIZES.items() if only in (None, name)}
    if peak_of is not None:
        step = make_step(peak_of, sizes[only or next(iter(sizes))], where)
        for _ in range(3):
            step()
        print(peak_rss_mb())
        return
    report: dict[str, object] = {"machine": device.describe_machine()}
    for name, size in sizes.items():
        ms = times(size, where, repeats)
        mb = {gate: peak(gate, name, size.steps) for gate in GATES}
        report[name] = {
            **size._asdict(),
            "ms": {gate: round(value, 1) for gate, value in ms.items()},
            "ms_ratios": ratios(ms),
            "peak_mb": {gate: round(value) for gate, value in mb.items()},
            "peak_ratios": ratios(mb),
        }
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
