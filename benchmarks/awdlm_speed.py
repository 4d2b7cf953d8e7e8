"""Milliseconds of one training step of AWD-LSTM and AWD-QRNN at the sizes of Penn Treebank, all in one run, in turn.

One step is zero_grad, forward, backward, clip, SGD on random ids, with the README's settings. Beside each model stand

- its floor: the parts that no implementation can leave out, bare: torch's LSTM layers (or the QRNN's matrix products),
  the decoder's products, one pass over the parameters;
- the same model written down plainly, as the authors' code has it: masked copies of the weights, a loop over time.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import torch
from awdlm.model import AWDModel
from rnncore import device
from rnncore.gradient import loss_and_gradient
from rnncore.memory import keep_freed_memory
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 10000
Step = Callable[[], None]


class Size(NamedTuple):
    """A model: its layers and the README's dropouts."""

    kind: str
    hidden_size: int
    num_layers: int
    weight_drop: float
    embedding_size: int = 400
    dropout_hidden: float = 0.25
    dropout_input: float = 0.4

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and units of each layer."""
        units = [*[self.hidden_size] * (self.num_layers - 1), self.embedding_size]
        return list(zip([self.embedding_size, *units[:-1]], units, strict=True))


SIZES = {
    "LSTM": Size("LSTM", 1150, 3, 0.5),
    "QRNN": Size("QRNN", 1550, 4, 0.1, dropout_hidden=0.3),
    "QRNN 200": Size("QRNN", 200, 4, 0.1, embedding_size=200, dropout_hidden=0.3),
}


def model_step(size: Size, ids: Tensor, amp: str | None) -> Step:
    """A training step of our model."""
    model = AWDModel(
        size.kind,  # type: ignore[arg-type]
        VOCABULARY,
        embedding_size=size.embedding_size,
        hidden_size=size.hidden_size,
        num_layers=size.num_layers,
        dropout_hidden=size.dropout_hidden,
        dropout_input=size.dropout_input,
        weight_drop=size.weight_drop,
    ).to(ids.device)
    state = model.initial_state(ids.shape[1])

    def gradient() -> None:
        loss_and_gradient(model, ids[:-1], ids[1:], state, activation=2.0, temporal=1.0, amp=amp)

    return with_optimizer(model, gradient)


def with_optimizer(model: nn.Module, gradient: Step) -> Step:
    """A whole step around what computes the gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1.2e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        gradient()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


class PlainModel(nn.Module):
    """The model as the authors' code has it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding, self.bias = nn.Embedding(VOCABULARY, size.embedding_size), nn.Parameter(torch.zeros(VOCABULARY))
        if size.kind == "LSTM":
            self.layers = nn.ModuleList(nn.LSTM(before, after) for before, after in size.layers)
        else:
            windows = [2] + [1] * (size.num_layers - 1)
            pairs = zip(size.layers, windows, strict=True)
            self.layers = nn.ModuleList(nn.Linear(window * before, 3 * after) for (before, after), window in pairs)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss with its penalties."""
        table = self.embedding.weight
        x = F.embedding(ids, table * F.dropout(torch.ones_like(table[:, :1]), 0.1).expand_as(table))
        x = locked(x, self.size.dropout_input)
        raw = x
        for number, layer in enumerate(self.layers):
            raw = self._lstm(layer, x) if self.size.kind == "LSTM" else self._qrnn(layer, x, first=number == 0)
            x = locked(raw, self.size.dropout_hidden if number < len(self.layers) - 1 else 0.4)
        loss = F.cross_entropy(F.linear(x.flatten(0, 1), table, self.bias), targets.flatten())
        return loss + 2 * x.pow(2).mean() + (raw[1:] - raw[:-1]).pow(2).mean()

    def _lstm(self, layer: nn.Module, x: Tensor) -> Tensor:
        dropped = {"weight_hh_l0": F.dropout(layer.get_parameter("weight_hh_l0"), self.size.weight_drop)}
        output: Tensor = torch.func.functional_call(layer, dropped, x)[0]
        return output

    def _qrnn(self, layer: nn.Module, x: Tensor, first: bool) -> Tensor:
        if first:
            x = torch.cat([x, torch.cat([torch.zeros_like(x[:1]), x[:-1]])], 2)
        weight = F.dropout(layer.get_parameter("weight"), self.size.weight_drop)
        z, f, o = F.linear(x, weight, layer.get_parameter("bias")).chunk(3, dim=2)
        z, f, c, states = torch.tanh(z), torch.sigmoid(f), None, []
        for f_t, z_t in zip(f, f * z, strict=True):
            c = z_t if c is None else z_t + (1 - f_t) * c
            states.append(c)
        return torch.sigmoid(o) * torch.stack(states)


def locked(x: Tensor, p: float) -> Tensor:
    """Locked dropout, plainly."""
    return x * F.dropout(torch.ones_like(x[:1]), p)


def plain_step(size: Size, ids: Tensor) -> Step:
    """A training step of the plain model."""
    model = PlainModel(size).to(ids.device)
    return with_optimizer(model, lambda: model(ids[:-1], ids[1:]).backward())


def floor_step(size: Size, ids: Tensor) -> Step:
    """The bare parts of a step, forward and backward."""
    steps, batch = ids.shape[0] - 1, ids.shape[1]
    parts: list[Step] = []
    if size.kind == "LSTM":
        parts += [lstm_part(steps, batch, before, after) for before, after in size.layers]
    else:
        for number, (before, after) in enumerate(size.layers):
            parts.append(product_part(steps * batch, before * (2 if number == 0 else 1), 3 * after))
    parts.append(product_part(steps * batch, size.embedding_size, VOCABULARY))
    units = sum(4 * after * (before + after + 2) for before, after in size.layers)
    if size.kind != "LSTM":
        units = sum(3 * after * before for before, after in size.layers) + 3 * size.hidden_size * size.embedding_size
    parameters = torch.zeros(units + VOCABULARY * (size.embedding_size + 1))
    gradients = torch.ones_like(parameters)

    def step() -> None:
        parameters.add_(gradients, alpha=-1e-9)
        for part in parts:
            part()

    return step


def lstm_part(steps: int, batch: int, before: int, after: int) -> Step:
    """One LSTM layer of torch, forward and backward."""
    layer, x = nn.LSTM(before, after), torch.randn(steps, batch, before, requires_grad=True)
    grad = torch.randn(steps, batch, after)
    return lambda: layer(x)[0].backward(grad)


def product_part(rows: int, inputs: int, outputs: int) -> Step:
    """A linear map's three products: outputs, gradient by the inputs, gradient by the weight."""
    x, weight, grad = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)

    def step() -> None:
        F.linear(x, weight)
        grad @ weight
        grad.t() @ x

    return step


@click.command()
@click.option("--steps", default=9, help="Timed steps of each, after two more.")
@click.option("--bptt", default=70, help="Window length.")
@click.option("--batch_size", default=20, help="Batch size.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Three steps of windows of ten.")
def main(steps: int, bptt: int, batch_size: int, output: Path | None, quick: bool) -> None:
    """Print medians and ratios as JSON."""
    keep_freed_memory()
    steps, bptt = (3, 10) if quick else (steps, bptt)
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (bptt + 1, batch_size))
    runs: dict[str, Step] = {}
    for name, size in SIZES.items():
        runs[name] = model_step(size, ids, None)
        runs[f"{name} bf16"] = model_step(size, ids, "bf16")
        runs[f"{name} plain"] = plain_step(size, ids)
        runs[f"{name} floor"] = floor_step(size, ids)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(steps + 2):
        for name, step in runs.items():
            before = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - before) * 1e3)
    ms = {name: statistics.median(samples[2:]) for name, samples in times.items()}
    against = ("floor", "plain")
    ratios = {f"{name} / {other}": ms[name] / ms[f"{name} {other}"] for name in SIZES for other in against}
    ratios |= {f"{name} bf16 / float32": ms[f"{name} bf16"] / ms[name] for name in SIZES}
    ratios["QRNN / LSTM"] = ms["QRNN"] / ms["LSTM"]
    report: dict[str, object] = {
        "ms": {name: round(value, 1) for name, value in ms.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }
    report |= {"bptt": bptt, "batch_size": batch_size, "machine": device.describe_machine()}
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
