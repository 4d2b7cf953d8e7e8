"""Milliseconds of one training step of each language model on random ids, all in one run, in turn.

One step is zero_grad, forward, backward, clip, SGD, at the sizes of ``revrnn-train`` on Penn Treebank. The ratios
compare training by reversal with torch's own layers, and those with the same model written down plainly.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click
import torch
from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM
from rnncore import device
from rnncore.memory import keep_freed_memory
from torch import nn
from torch.nn import functional as F

VOCABULARY = 10000


class PlainLM(nn.Module):
    """The baseline as one would write it down: masked copies of the weights, all logits, torch's cross entropy."""

    def __init__(self, kind: str, size: int = 650) -> None:
        super().__init__()
        self.embedding, self.bias = nn.Embedding(VOCABULARY, size), nn.Parameter(torch.zeros(VOCABULARY))
        self.rnn = (nn.GRU if kind == "gru" else nn.LSTM)(size, size)

    def initial_state(self, batch_size: int) -> None:
        """None: zeros."""

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, state: None) -> tuple[torch.Tensor]:
        """The mean loss of a window, with dropout as in `BaselineLM`."""
        table = self.embedding.weight
        x = F.embedding(ids, table * F.dropout(torch.ones_like(table[:, :1]), 0.1))
        x = x * F.dropout(torch.ones_like(x[:1]), 0.4)
        dropped = {"weight_hh_l0": F.dropout(self.rnn.weight_hh_l0, 0.5)}
        x, _ = torch.func.functional_call(self.rnn, dropped, x)
        x = x * F.dropout(torch.ones_like(x[:1]), 0.4)
        return (F.cross_entropy(F.linear(x, table, self.bias).flatten(0, 1), targets.flatten()),)


def make_step(model: str, ids: torch.Tensor, place: torch.device, amp: str | None) -> Callable[[], None]:
    """A function that takes one optimizer step: ``gru``, ``gru-plain``, ``revgru`` (stored), ``revgru-reverse``, ..."""
    kind: Literal["gru", "lstm"] = "lstm" if "lstm" in model else "gru"
    if model.endswith("-plain"):
        net: nn.Module = PlainLM(kind)
    else:
        net = ReversibleLM(kind, VOCABULARY) if model.startswith("rev") else BaselineLM(kind, VOCABULARY)
    net.to(place).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, weight_decay=1.2e-6, fused=True)
    state = net.initial_state(ids.shape[1])

    def step() -> None:
        optimizer.zero_grad()
        with device.autocast(place, amp):
            run = net.loss_and_backward if model.endswith("-reverse") else net.loss
            loss = run(ids[:-1], ids[1:], state)[0]
        if not model.endswith("-reverse"):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return step


@click.command()
@click.option("--steps", default=11, help="Timed steps of each model, after two more.")
@click.option("--bptt", default=70, help="Window length.")
@click.option("--batch_size", default=20, help="Batch size.")
@click.option("--device", "name", default="auto", help="auto, cpu or cuda.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Three steps of windows of ten.")
def main(steps: int, bptt: int, batch_size: int, name: str, output: Path | None, quick: bool) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    steps, bptt = (3, 10) if quick else (steps, bptt)
    place = device.choose(name)
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (bptt + 1, batch_size), device=place)
    models = [m for kind in ("gru", "lstm") for m in (f"{kind}-plain", kind, f"rev{kind}", f"rev{kind}-reverse")]
    runs = {
        m + suffix: make_step(m, ids, place, amp) for suffix, amp in (("", None), (" bf16", "bf16")) for m in models
    }
    times: dict[str, list[float]] = {model: [] for model in runs}
    for _ in range(steps + 2):
        for model, step in runs.items():
            before = time.perf_counter()
            step()
            times[model].append((time.perf_counter() - before) * 1e3)
    ms = {model: statistics.median(samples[2:]) for model, samples in times.items()}
    pairs = [(f"rev{kind}-reverse", kind) for kind in ("gru", "lstm")] + [("gru", "gru-plain"), ("lstm", "lstm-plain")]
    ratios = {f"{a}/{b}{s}": round(ms[a + s] / ms[b + s], 3) for s in ("", " bf16") for a, b in pairs}
    medians = {model: round(value, 1) for model, value in ms.items()}
    report: dict[str, object] = {"ms": medians, "ratios": ratios}
    report |= {"bptt": bptt, "batch_size": batch_size, "machine": device.describe_machine()}
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
