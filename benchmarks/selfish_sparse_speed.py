"""What sparsity costs in training: a step and a mask update of the README's networks, all in one run, in turn.

The steps are of one network, on random ids, with the README's dropouts: zero_grad, forward, backward, clip and SGD
(``dense``); the same and the masks (``sparse``); the same and each weight's average (``averaged``). The mask update is
that of the end of an epoch, after the switch; its memory is what the process holds at most above what it held before.
"""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rnncore import device
from rnncore.memory import keep_freed_memory, peak_rss_mb, reset_peak_rss
from selfish.masking import Masking
from selfish.onlstm_model import ONLSTMModel
from selfish.rhn_model import RHNModel
from selfish.sparse_asgd import SparseAverages
from selfish.stacked_lstm import StackedLSTM
from torch import nn

VOCABULARY, BATCH = 10000, 20
Step = Callable[[], None]

#: By name: the model, its density, steps of a window.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    "LSTM": (lambda: StackedLSTM(VOCABULARY), 0.33, 35),
    "RHN": (lambda: RHNModel(VOCABULARY, couple=True, tied=True), 0.472, 35),
    "ON-LSTM": (
        lambda: ONLSTMModel(VOCABULARY, chunk_size=10, dropout=0.45, dropout_hidden=0.3, weight_drop=0.45),
        0.45,
        70,
    ),
}


def measure(name: str, steps: int, bptt: int | None) -> dict[str, float]:
    """Medians of milliseconds, ratios, and the update's megabytes, for one network."""
    build, density, window = NETWORKS[name]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1.2e-6, fused=True)
    masking = Masking(model, density=density, decay_steps=10000)
    averages = SparseAverages(model.named_parameters(), masking.masks)
    averages.start()
    ids = torch.randint(0, VOCABULARY, ((bptt or window) + 1, BATCH))
    state = model.initial_state(BATCH)

    def dense() -> None:
        optimizer.zero_grad()
        model.loss(model(ids[:-1], state).dropped[-1], ids[1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    def sparse() -> None:
        dense()
        masking.after_step(optimizer)

    def averaged() -> None:
        sparse()
        averages.update()

    ms = timed({"dense": dense, "sparse": sparse, "averaged": averaged}, steps)
    update, megabytes = mask_update(masking, averages, optimizer, averaged, steps)
    ratios = {f"{kind} / dense": round(ms[kind] / ms["dense"], 3) for kind in ("sparse", "averaged")}
    times = {kind: round(value, 1) for kind, value in ms.items()}
    return {**times, **ratios, "mask update": round(update, 1), "mask update MB": round(megabytes, 1)}


def timed(runs: dict[str, Step], steps: int) -> dict[str, float]:
    """The median of each in milliseconds, after one more that does not count; in turn."""
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(steps + 1):
        for kind, step in runs.items():
            before = time.perf_counter()
            step()
            times[kind].append((time.perf_counter() - before) * 1e3)
    return {kind: statistics.median(samples[1:]) for kind, samples in times.items()}


def mask_update(
    masking: Masking, averages: SparseAverages, optimizer: torch.optim.Optimizer, train: Step, steps: int
) -> tuple[float, float]:
    """Milliseconds and megabytes of an update of masks and averages, each after a step: what has grown is not 0."""
    times, peaks = [], []
    for _ in range(max(2, steps // 2)):
        train()
        give_back_freed_memory()
        told = reset_peak_rss()
        held, before = peak_rss_mb(), time.perf_counter()
        masking.evolve(optimizer)
        averages.remask()
        times.append((time.perf_counter() - before) * 1e3)
        peaks.append(peak_rss_mb() - held if told else float("nan"))
    return statistics.median(times), max(peaks)


def give_back_freed_memory() -> None:
    """What the steps have freed and kept would hide what an update takes."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


@click.command()
@click.option("--steps", default=7, help="Timed steps of each, after one more.")
@click.option("--model", "models", multiple=True, type=click.Choice(list(NETWORKS)), help="Only this; may be repeated.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Two steps of windows of five.")
def main(steps: int, models: tuple[str, ...], output: Path | None, quick: bool) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    torch.manual_seed(0)
    found = {name: measure(name, 2 if quick else steps, 5 if quick else None) for name in models or NETWORKS}
    text = json.dumps({"measured": found, "machine": device.describe_machine()}, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
