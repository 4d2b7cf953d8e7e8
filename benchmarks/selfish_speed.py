"""Milliseconds of one dense training step of the four models at the README's sizes, all in one run, in turn.

One step is zero_grad, forward, backward, clip, SGD on random ids, with the README's dropouts. Beside each model stand

- its floor: the parts that no implementation can leave out, bare: torch's LSTM layers, or the products of a highway or
  ON-LSTM layer (one for each step where the state is in it, else one for the whole window), the decoder's products, one
  pass over the parameters;
- the same layers written down plainly, as the authors' code has them: a loop over time under autograd.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import torch
from rnncore import device
from rnncore.memory import keep_freed_memory
from selfish.mos_model import MoSModel
from selfish.onlstm_cell import onlstm_cell
from selfish.onlstm_model import ONLSTMModel
from selfish.rhn_cell import rhn_cell
from selfish.rhn_model import RHNModel
from selfish.stacked_lstm import StackedLSTM
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 10000
DEPTH, CHUNK, EXPERTS = 10, 10, 15
Step = Callable[[], None]


class Size(NamedTuple):
    """A model's sizes and its window."""

    embedding: int
    units: tuple[int, ...]
    bptt: int
    batch: int = 20

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and units of each layer."""
        return list(itertools.pairwise([self.embedding, *self.units]))


SIZES = {
    "LSTM": Size(1500, (1500, 1500), 35),
    "RHN": Size(830, (830,), 35),
    "ON-LSTM": Size(400, (1150, 1150, 400), 70),
    "MoS": Size(280, (960, 960, 620), 70, 12),
}


def build(name: str) -> nn.Module:
    """A model with the README's settings."""
    if name == "LSTM":
        return StackedLSTM(VOCABULARY)
    if name == "RHN":
        return RHNModel(VOCABULARY, depth=DEPTH, couple=True, tied=True)
    if name == "ON-LSTM":
        return ONLSTMModel(VOCABULARY, chunk_size=CHUNK, dropout=0.45, dropout_hidden=0.3, weight_drop=0.45)
    size = SIZES["MoS"]
    return MoSModel(
        VOCABULARY,
        embedding_size=size.embedding,
        hidden_size=size.units[0],
        last_hidden_size=size.units[-1],
        n_experts=EXPERTS,
    )


def ids_of(size: Size) -> Tensor:
    """Random ids ``[T + 1, B]``."""
    return torch.randint(0, VOCABULARY, (size.bptt + 1, size.batch))


def with_optimizer(model: nn.Module, gradient: Step) -> Step:
    """A whole step around what computes the gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.2e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        gradient()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


def model_step(name: str, amp: bool = False) -> Step:
    """A training step of our model; ``amp`` in bfloat16."""
    size, model = SIZES[name], build(name)
    ids, state = ids_of(size), model.initial_state(size.batch)

    def gradient() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = model.loss(model(ids[:-1], state).dropped[-1], ids[1:])
        loss.backward()

    return with_optimizer(model, gradient)


class PlainModel(nn.Module):
    """RHN or ON-LSTM as the authors' code has it: our parameters, but the cells in a loop under autograd."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.model = name, build(name)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        table = self.model.encoder.weight
        x = locked(F.embedding(ids, table * F.dropout(torch.ones_like(table[:, :1]), 0.1).expand_as(table)), 0.5)
        for layer in self.model.layers:
            x = locked(self._highway(layer, x) if self.name == "RHN" else self._ordered(layer, x), 0.3)
        return F.cross_entropy(F.linear(x.flatten(0, 1), table, self.model.decoder.bias), targets.flatten())

    def _highway(self, layer: nn.Module, x: Tensor) -> Tensor:
        s, states = x.new_zeros(x.shape[1], layer.hidden_size), []
        mask = F.dropout(torch.ones_like(s), 0.25)
        for x_t in x:
            s = rhn_cell(x_t, s, layer.weight_ih, layer.bias_ih, list(layer.weight_hh), list(layer.bias_hh), mask)
            states.append(s)
        return torch.stack(states)

    def _ordered(self, layer: nn.Module, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], layer.hidden_size)
        weight, states = F.dropout(layer.weight_hh_l0, 0.45), []
        for x_t in x:
            h, c, _, _ = onlstm_cell(x_t, (h, c), layer.weight_ih_l0, weight, layer.bias_ih_l0, layer.bias_hh_l0)
            states.append(h)
        return torch.stack(states)


def locked(x: Tensor, p: float) -> Tensor:
    """Locked dropout, plainly."""
    return x * F.dropout(torch.ones_like(x[:1]), p)


def plain_step(name: str) -> Step:
    """A training step of the plain model."""
    model, ids = PlainModel(name), ids_of(SIZES[name])
    return with_optimizer(model, lambda: model(ids[:-1], ids[1:]).backward())


def floor_step(name: str) -> Step:
    """The bare parts of a step, forward and backward."""
    size = SIZES[name]
    rows, parts = size.bptt * size.batch, []
    for inputs, units in size.layers:
        if name in ("LSTM", "MoS"):
            parts.append(lstm_part(size, inputs, units))
            continue
        width = 2 * units if name == "RHN" else 4 * units + 2 * (units // CHUNK)
        parts.append(product_part(rows, inputs, width))
        parts += [recurrent_part(size, units, width) for _ in range(DEPTH if name == "RHN" else 1)]
    if name == "MoS":
        parts.append(product_part(rows, size.units[-1], EXPERTS * size.embedding))
        parts.append(product_part(rows * EXPERTS, size.embedding, VOCABULARY))
    else:
        parts.append(product_part(rows, size.units[-1], VOCABULARY))
    parameters = torch.zeros(sum(parameter.numel() for parameter in build(name).parameters()))
    gradients = torch.ones_like(parameters)

    def step() -> None:
        parameters.add_(gradients, alpha=-1e-9)
        for part in parts:
            part()

    return step


def lstm_part(size: Size, inputs: int, units: int) -> Step:
    """One LSTM layer of torch, forward and backward."""
    layer, x = nn.LSTM(inputs, units), torch.randn(size.bptt, size.batch, inputs, requires_grad=True)
    grad = torch.randn(size.bptt, size.batch, units)
    return lambda: layer(x)[0].backward(grad)


def product_part(rows: int, inputs: int, outputs: int) -> Step:
    """A linear map's three products, at most 1400 rows at a time: outputs, gradients by the inputs and the weight."""
    count = -(-rows // 1400)
    x, weight = torch.randn(rows // count, inputs), torch.randn(outputs, inputs)
    grad = torch.randn(rows // count, outputs)

    def step() -> None:
        for _ in range(count):
            F.linear(x, weight)
            grad @ weight
            grad.t() @ x

    return step


def recurrent_part(size: Size, units: int, width: int) -> Step:
    """The products of a recurrent weight: two at each step, one for the weight's gradient."""
    weight, h, grad = torch.randn(width, units), torch.randn(size.batch, units), torch.randn(size.batch, width)
    turned = weight.t().contiguous()
    rows, all_h = torch.randn(size.bptt * size.batch, width), torch.randn(size.bptt * size.batch, units)

    def step() -> None:
        for _ in range(size.bptt):
            h @ turned
            grad @ weight
        rows.t() @ all_h

    return step


def build_runs(names: list[str], bf16: bool) -> dict[str, Step]:
    """All that is timed."""
    runs: dict[str, Step] = {}
    for name in names:
        runs[name], runs[f"{name} floor"] = model_step(name), floor_step(name)
        if bf16:
            runs[f"{name} bf16"] = model_step(name, amp=True)
        if name in ("RHN", "ON-LSTM"):
            runs[f"{name} plain"] = plain_step(name)
    return runs


@click.command()
@click.option("--steps", default=7, help="Timed steps of each, after one more.")
@click.option("--model", "models", multiple=True, type=click.Choice(list(SIZES)), help="Only this; may be repeated.")
@click.option("--bf16", is_flag=True, help="Time bfloat16 too.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Two steps of windows of five.")
def main(steps: int, models: tuple[str, ...], bf16: bool, output: Path | None, quick: bool) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    if quick:
        steps = 2
        SIZES.update({name: size._replace(bptt=5) for name, size in SIZES.items()})
    torch.manual_seed(0)
    names = list(models) or list(SIZES)
    runs = build_runs(names, bf16)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(steps + 1):
        for name, step in runs.items():
            before = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - before) * 1e3)
    ms = {name: statistics.median(samples[1:]) for name, samples in times.items()}
    pairs = [(name, f"{name} {other}") for name in names for other in ("floor", "plain", "bf16")]
    ratios = {f"{name} / {other}": ms[name] / ms[other] for name, other in pairs if other in ms}
    report: dict[str, object] = {
        "ms": {name: round(value, 1) for name, value in ms.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "machine": device.describe_machine(),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
