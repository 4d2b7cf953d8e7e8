"""Milliseconds of one training step of the relational memory and its rivals, all in one run, in turn.

One step is zero_grad, forward, backward, clip, Adam on random ids, with the commands' defaults and the vocabulary of
WikiText-2; of Nth farthest, on new questions. Beside the models stand

- the same model written down plainly, as the port has it: a loop over time that embeds, attends, gates and decodes
  step by step, by torch's own operators and autograd;
- bare products: the matrix products of the step's shapes, forward and backward, over all time steps at once.

``--memory`` tells peaks instead, of a process of its own for each.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rmc.farthest import farthest_batch, generator_for
from rmc.farthest_model import FarthestModel
from rmc.language_model import LanguageModel
from rmc.layer import RelationalMemory
from rmc.rnn import StackedRNN
from rmc.softmax import AdaptiveSoftmax
from rnncore import device
from rnncore.memory import keep_freed_memory, peak_rss_mb
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, CUTOFFS = 33278, [1000, 5000, 20000]
Step = Callable[[], None]


def memory_model(variant: str, cutoffs: list[int] | None) -> LanguageModel:
    """The model of ``rmc-train`` with its defaults."""
    layer = RelationalMemory(192, 1, 192, 4, key_size=64, attention_mlp_layers=3, variant=variant)  # type: ignore[arg-type]
    return LanguageModel(layer, VOCABULARY, 192, cutoffs=cutoffs)


def with_optimizer(model: nn.Module, loss_of: Callable[[], Tensor]) -> Step:
    """A whole step around a loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss_of().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return step


def model_step(model: LanguageModel, ids: Tensor) -> Step:
    """A training step of our model."""
    state = model.initial_state(ids.shape[1])
    return with_optimizer(model, lambda: model.loss(ids[:-1], ids[1:], state)[0])


def plain_step(model: LanguageModel, ids: Tensor) -> Step:
    """A training step of the same weights, step by step: embedding, cell, projection, logits, and a loss of all."""

    def loss_of() -> Tensor:
        memory, logits, layer = model.initial_state(ids.shape[1]), [], model.recurrent
        assert isinstance(layer, RelationalMemory)
        for words in ids[:-1]:
            memory, _ = layer.cell(model.dropout(model.embedding(words)), memory)
            output = model.dropout(model.projection(memory.flatten(1)))
            if not isinstance(model.softmax, AdaptiveSoftmax):
                output = F.linear(output, model.softmax.weight, model.softmax.bias)
            logits.append(output)
        rows, targets = torch.cat(logits), ids[1:].flatten()
        if isinstance(model.softmax, AdaptiveSoftmax):
            return model.softmax.loss(rows, targets)
        return F.cross_entropy(rows, targets)

    return with_optimizer(model, loss_of)


def plain_rnn_step(ids: Tensor) -> Step:
    """A training step of torch's LSTM, with all logits at once."""
    model = LanguageModel(StackedRNN("LSTM", 300, 300, 1, library=True), VOCABULARY, 300)

    def loss_of() -> Tensor:
        output, _ = model(ids[:-1], model.initial_state(ids.shape[1]))
        logits = F.linear(output.flatten(0, 1), model.softmax.weight, model.softmax.bias)  # type: ignore[arg-type]
        return F.cross_entropy(logits, ids[1:].flatten())

    return with_optimizer(model, loss_of)


def farthest_step(batch: int, *, plain: bool) -> Step:
    """A training step of Nth farthest; plainly, the whole batch at once and step by step."""
    layer = RelationalMemory(40, 8, 32, 8)
    model = FarthestModel(layer, steps=8, input_size=40, classes=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    generator = generator_for(0, 0, 0, torch.device("cpu"))

    def step() -> None:
        optimizer.zero_grad()
        inputs, answers = farthest_batch(generator, batch)
        size = batch if plain else 400
        for part, right in zip(torch.split(inputs, size, 1), torch.split(answers, size), strict=True):
            logits = model.head(layer(part, return_attention=True)[0][-1]) if plain else model(part)
            (F.cross_entropy(logits, right, reduction="sum") / batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return step


def products_step(rows: int, shapes: list[tuple[int, int, int]]) -> Step:
    """Products of (times as many rows, inputs, outputs): outputs, gradients by inputs and by weights."""
    parts = [(torch.randn(k * rows, i), torch.randn(o, i), torch.randn(k * rows, o)) for k, i, o in shapes]

    def step() -> None:
        for x, weight, grad in parts:
            F.linear(x, weight)
            grad @ weight
            grad.t() @ x

    return step


def steps_of(ids: Tensor, batch: int) -> dict[str, Callable[[], Step]]:
    """What is measured, by name; made when called."""
    rows = (len(ids) - 1) * ids.shape[1]
    core = [(1, 192, 768), (2, 768, 1280), (2, 768, 1536), (2, 768, 768), (2, 768, 768), (2, 768, 768), (1, 768, 192)]
    slots = [(1, 40, 256), (9, 256, 768), (9, 256, 256), (9, 256, 256), (9, 256, 512)]
    return {
        "rmc": lambda: model_step(memory_model("port", None), ids),
        "rmc plain": lambda: plain_step(memory_model("port", None), ids),
        "rmc products": lambda: products_step(rows, [*core, (1, 192, VOCABULARY)]),
        "rmc adaptive": lambda: model_step(memory_model("port", CUTOFFS), ids),
        "rmc adaptive plain": lambda: plain_step(memory_model("port", CUTOFFS), ids),
        "rmc adaptive products": lambda: products_step(rows, core),
        "rmc sonnet": lambda: model_step(memory_model("sonnet", None), ids),
        "lstm": lambda: model_step(LanguageModel(StackedRNN("LSTM", 300, 300, 1), VOCABULARY, 300), ids),
        "lstm plain": lambda: plain_rnn_step(ids),
        "farthest": lambda: farthest_step(batch, plain=False),
        "farthest plain": lambda: farthest_step(batch, plain=True),
        "farthest products": lambda: products_step(8 * batch, slots),
    }


def peaks_of(names: list[str], sizes: list[str]) -> dict[str, int]:
    """Peaks in MB of the resident memory of processes that measure one of these each; ``sizes``: options for them."""
    found: dict[str, int] = {}
    for name in names:
        command = [sys.executable, __file__, "--only", name, "--memory", "--steps", "1", *sizes]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found |= json.loads(done.stdout)["peak_mb"]
    return found


@click.command()
@click.option("--steps", default=5, help="Timed steps of each, after one more.")
@click.option("--bptt", default=100, help="Window length.")
@click.option("--batch_size", default=64, help="Batch size of the language models.")
@click.option("--questions", default=1600, help="Batch size of Nth farthest.")
@click.option("--only", multiple=True, help="Names of what to measure, instead of all.")
@click.option("--memory", is_flag=True, help="Tell peaks of memory instead of times.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Two steps of windows of five, and 40 questions.")
def main(
    steps: int,
    bptt: int,
    batch_size: int,
    questions: int,
    only: tuple[str, ...],
    memory: bool,
    output: Path | None,
    quick: bool,
) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    steps, bptt, questions = (2, 5, 40) if quick else (steps, bptt, questions)
    torch.manual_seed(0)
    # Frequent words are frequent in a text, too: squares lean towards small ids, as the adaptive softmax has it.
    ids = (torch.rand(bptt + 1, batch_size) ** 8 * VOCABULARY).long()
    makers = steps_of(ids, questions)
    names = list(only or makers)
    shapes = {"bptt": bptt, "batch_size": batch_size, "questions": questions}
    if memory and len(names) > 1:
        sizes = [word for name, value in shapes.items() for word in (f"--{name}", str(value))]
        _tell({"peak_mb": peaks_of(names, sizes), **shapes}, output)
        return
    runs = {name: makers[name]() for name in names}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(steps + 1):
        for name, step in runs.items():
            before = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - before) * 1e3)
    ms = {name: statistics.median(samples[1:]) for name, samples in times.items()}
    pairs = [(name, f"{name} {other}") for name in ms for other in ("plain", "products")]
    pairs += [("rmc", "lstm"), ("rmc sonnet", "rmc")]
    report: dict[str, object] = {
        "ms": {name: round(value, 1) for name, value in ms.items()},
        "ratios": {f"{a} / {b}": round(ms[a] / ms[b], 3) for a, b in pairs if a in ms and b in ms},
    }
    if memory:
        report = {"peak_mb": {names[0]: round(peak_rss_mb())}}
    _tell({**report, **shapes}, output)


def _tell(report: dict[str, object], output: Path | None) -> None:
    text = json.dumps({**report, "machine": device.describe_machine()}, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
