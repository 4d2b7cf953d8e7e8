"""Milliseconds a token of the continuous cache, against a loop over tokens with one-hot histories, all in one run.

Both get the same states and logits of random text, with a full window before them, and give the loss of every token;
their losses must agree. The loop is the manner of the original code: for each token a distribution over the vocabulary
from a history ``[window, V]`` of one-hot rows. The model that makes the states and decodes them is timed on its own:
for the loop it reads the text from beginning to end, for the cache in pieces side by side, as ``awdlm-pointer`` does,
in float32 and with ``--amp bf16``. How much is read twice depends on how soon a model forgets, so give a trained one
(``--save``); without it weights and text are random.

Shapes: V vocabulary, E features of a state.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from awdlm.cache import ContinuousCache
from awdlm.model import AWDModel, State
from awdlm.pointer import STEPS
from awdlm.saved_model import find, load, load_corpus
from rnncore import device, side_by_side
from rnncore.memory import keep_freed_memory
from rnncore.windows import fixed_windows, window
from torch import Tensor
from torch.nn import functional as F

#: Window, theta and lambdasm of the original's two commands for Penn Treebank and WikiText-2.
SETTINGS = {500: (1.0, 0.1), 3785: (0.662, 0.1279)}

States = tuple[Tensor, Tensor]  # states [n, E], and the token after each, [n]


class OneHotPointer:
    """The loop over tokens, with the window's states ``[window, E]`` and tokens, one-hot ``[window, V]``."""

    def __init__(self, states: Tensor, tokens: Tensor, vocabulary_size: int, theta: float, lambdasm: float) -> None:
        """Starts with a full window."""
        self.states, self.one_hot = states, F.one_hot(tokens, vocabulary_size).to(states.dtype)
        self.window, self.theta, self.lambdasm = len(tokens), theta, lambdasm

    def losses(self, states: Tensor, logits: Tensor, targets: Tensor) -> list[float]:
        """-log p(target) of the next tokens, in nats."""
        history = torch.cat([self.states, states])
        words = torch.cat([self.one_hot, F.one_hot(targets, logits.shape[1]).to(states.dtype)])
        losses = []
        for i, p_vocab in enumerate(torch.softmax(logits, 1)):
            attention = torch.softmax(self.theta * torch.mv(history[i : i + self.window], states[i]), 0)
            p_cache = (attention[:, None].expand(-1, logits.shape[1]) * words[i : i + self.window]).sum(0)
            p = self.lambdasm * p_cache + (1 - self.lambdasm) * p_vocab
            losses.append(-p[targets[i]].log().item())
        self.states, self.one_hot = history[-self.window :], words[-self.window :]
        return losses


def blocks_losses(cache: ContinuousCache, states: Tensor, logits: Tensor, targets: Tensor, lambdasm: float) -> Tensor:
    """The same losses by `ContinuousCache`."""
    log_vocab = F.cross_entropy(logits, targets, reduction="none").neg_()
    return cache.mixed_log_probability(log_vocab, states, targets, lambdasm=lambdasm).neg_()


def random_text(count: int, features: int, vocabulary: int, place: torch.device) -> States:
    """Random states and tokens."""
    states = 0.3 * torch.randn(count, features, device=place)
    return states, torch.randint(0, vocabulary, (count,), device=place)


def milliseconds(work: Callable[[], object], place: torch.device) -> float:
    """The time of one call, the device's work included."""
    before = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return (time.perf_counter() - before) * 1e3


@torch.no_grad()
def model_figures(model: AWDModel, text: Tensor, one_column: int) -> dict[str, dict[str, float]]:
    """Milliseconds a token of model and decoder, by type and manner, and what share of the text was read twice."""
    columns: list[int] = []

    def read(ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        columns.append(ids.numel())
        return model.loss_sum(ids, targets, state)

    def side_by_side_reading() -> None:
        for losses in side_by_side.read(read, text, model.initial_state, length=STEPS):
            torch.stack(losses).sum().item()

    def from_beginning_to_end() -> None:
        state = model.initial_state(1)
        for start, steps in fixed_windows(one_column + 1, STEPS):
            loss, state = model.loss_sum(*window(text, start, steps), state)
            loss.item()

    figures = {}
    for amp in (None, "bf16"):
        with device.autocast(text.device, amp):
            from_beginning_to_end()
            columns.clear()
            figures[amp or "float32"] = {
                "one_column_ms": round(milliseconds(from_beginning_to_end, text.device) / one_column, 4),
                "side_by_side_ms": round(milliseconds(side_by_side_reading, text.device) / (len(text) - 1), 4),
                "read_twice": round(sum(columns) / (len(text) - 1) - 1, 3),
            }
    return figures


def compare(
    window_size: int,
    text: States,
    logits: Tensor,
    slow_tokens: int,
    calls: int,
    model: dict[str, dict[str, float]],
    place: torch.device,
) -> dict[str, float]:
    """Milliseconds a token of both, their ratios, and the largest difference of a loss.

    The loop goes over the first ``slow_tokens`` of the text, the cache ``calls`` times over all of it.
    """
    theta, lambdasm = SETTINGS.get(window_size, SETTINGS[500])
    vocabulary, before = logits.shape[1], random_text(window_size + 1, text[0].shape[1], logits.shape[1], place)
    loop = OneHotPointer(before[0][1:], before[1][1:], vocabulary, theta, lambdasm)
    cache = ContinuousCache(window=window_size, theta=theta)
    cache.add(*before)
    first = (text[0][:slow_tokens], logits[:slow_tokens], text[1][:slow_tokens])
    slow_losses: list[float] = []
    loop_ms = milliseconds(lambda: slow_losses.extend(loop.losses(*first)), place) / slow_tokens
    losses: list[Tensor] = []
    arguments = (cache, text[0], logits, text[1], lambdasm)
    times = [milliseconds(lambda: losses.append(blocks_losses(*arguments)), place) for _ in range(calls + 1)]
    blocks_ms = statistics.median(times[1:]) / len(logits)
    whole = loop_ms + model["float32"]["one_column_ms"]
    return {
        "loop_ms": round(loop_ms, 4),
        "blocks_ms": round(blocks_ms, 4),
        "ratio": round(loop_ms / blocks_ms, 1),
        "ratio_with_model": round(whole / (blocks_ms + model["float32"]["side_by_side_ms"]), 1),
        "ratio_with_model_bf16": round(whole / (blocks_ms + model["bf16"]["side_by_side_ms"]), 1),
        "largest_difference": max(abs(a - b) for a, b in zip(slow_losses, losses[0].tolist(), strict=False)),
    }


@click.command()
@click.option("--calls", default=5, help="Timed calls of the cache, after one more.")
@click.option("--bptt", default=1000, help="Tokens of one call, and of the text that the model reads in one column.")
@click.option("--tokens", default=65536, help="Tokens that the model reads side by side.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="A checkpoint or run directory: a trained model, which reads its own validation text.",
)
@click.option("--slow_tokens", default=100, help="Tokens that the loop is timed on.")
@click.option("--vocabulary", default=10000, help="Vocabulary size.")
@click.option("--device", "name", default="auto", help="auto, cpu or cuda.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="Small sizes.")
def main(
    calls: int,
    bptt: int,
    tokens: int,
    save: Path | None,
    slow_tokens: int,
    vocabulary: int,
    name: str,
    output: Path | None,
    quick: bool,
) -> None:
    """Print times and ratios as JSON; an error where the losses differ."""
    keep_freed_memory()
    if quick:
        calls, bptt, tokens, slow_tokens, vocabulary = 3, 140, 20000, 20, 1000
    place = device.choose(name)
    torch.manual_seed(0)
    if save is None:
        model = AWDModel("LSTM", vocabulary, hidden_size=50 if quick else 1150).eval()
        stream = torch.randint(0, vocabulary, (tokens + 1, 1), device=place)
    else:
        saved = load(find(save, save, flag="--save"), place)
        model, vocabulary = saved.model, len(saved.vocabulary)
        stream = load_corpus(saved.options, saved.vocabulary).columns("valid", 1, place)[: tokens + 1]
    model.to(place)
    figures = model_figures(model, stream, min(bptt, len(stream) - 1))
    text = random_text(bptt, model.decoder.in_features, vocabulary, place)
    report: dict[str, object] = {"model": figures}
    with torch.no_grad():
        logits = F.linear(text[0], model.decoder.weight, model.decoder.bias)
    for window_size in [50] if quick else SETTINGS:
        found = compare(window_size, text, logits, min(slow_tokens, bptt), calls, figures, place)
        if found["largest_difference"] > 1e-4:
            raise click.ClickException(f"window {window_size}: losses differ by {found['largest_difference']}")
        report[f"window {window_size}"] = found
    report |= {"bptt": bptt, "vocabulary": vocabulary, "machine": device.describe_machine()}
    text_of_report = json.dumps(report, indent=1)
    print(text_of_report)
    if output is not None:
        output.write_text(text_of_report + "\n")


if __name__ == "__main__":
    main()
