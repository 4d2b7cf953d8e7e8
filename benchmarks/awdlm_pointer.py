"""Milliseconds a token of the continuous cache, against a loop over tokens with one-hot histories, all in one run.

Both get the same states and logits of random text, with a full window before them, and give the loss of every token;
their losses must agree. The loop is the manner of the original code: for each token a distribution over the vocabulary
from a history ``[window, V]`` of one-hot rows. The model that makes the states, one stream of text through three LSTM
layers and the decoder, is timed on its own, and is added to both in ``ratio_with_model``.

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
from rnncore import device
from rnncore.memory import keep_freed_memory
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_SIZE, HIDDEN_SIZE = 400, 1150
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


def make_model(vocabulary_size: int, place: torch.device) -> tuple[nn.ModuleList, nn.Linear]:
    """The LSTM layers of the Penn Treebank command, and the decoder."""
    sizes = [EMBEDDING_SIZE, HIDDEN_SIZE, HIDDEN_SIZE, EMBEDDING_SIZE]
    layers = nn.ModuleList(nn.LSTM(sizes[k], sizes[k + 1]) for k in range(3))
    return layers.to(place), nn.Linear(EMBEDDING_SIZE, vocabulary_size).to(place)


def random_text(count: int, vocabulary: int, place: torch.device) -> States:
    """Random states and tokens."""
    states = 0.3 * torch.randn(count, EMBEDDING_SIZE, device=place)
    return states, torch.randint(0, vocabulary, (count,), device=place)


def milliseconds(work: Callable[[], object], place: torch.device) -> float:
    """The time of one call, the device's work included."""
    before = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return (time.perf_counter() - before) * 1e3


def model_ms(layers: nn.ModuleList, decoder: nn.Linear, bptt: int, calls: int, place: torch.device) -> float:
    """Milliseconds a token of one stream through layers and decoder, ``bptt`` tokens a call."""

    def work() -> None:
        x = torch.randn(bptt, 1, EMBEDDING_SIZE, device=place)
        for layer in layers:
            x = layer(x)[0]
        decoder(x)

    return statistics.median([milliseconds(work, place) for _ in range(calls + 1)][1:]) / bptt


def compare(
    window: int, text: States, logits: Tensor, slow_tokens: int, calls: int, model: float, place: torch.device
) -> dict[str, float]:
    """Milliseconds a token of both, their ratios, and the largest difference of a loss.

    The loop goes over the first ``slow_tokens`` of the text, the cache ``calls`` times over all of it.
    """
    theta, lambdasm = SETTINGS.get(window, SETTINGS[500])
    vocabulary, before = logits.shape[1], random_text(window + 1, logits.shape[1], place)
    loop = OneHotPointer(before[0][1:], before[1][1:], vocabulary, theta, lambdasm)
    cache = ContinuousCache(window=window, theta=theta)
    cache.add(*before)
    first = (text[0][:slow_tokens], logits[:slow_tokens], text[1][:slow_tokens])
    slow_losses: list[float] = []
    loop_ms = milliseconds(lambda: slow_losses.extend(loop.losses(*first)), place) / slow_tokens
    losses: list[Tensor] = []
    arguments = (cache, text[0], logits, text[1], lambdasm)
    times = [milliseconds(lambda: losses.append(blocks_losses(*arguments)), place) for _ in range(calls + 1)]
    blocks_ms = statistics.median(times[1:]) / len(logits)
    return {
        "loop_ms": round(loop_ms, 4),
        "blocks_ms": round(blocks_ms, 4),
        "ratio": round(loop_ms / blocks_ms, 1),
        "ratio_with_model": round((loop_ms + model) / (blocks_ms + model), 1),
        "largest_difference": max(abs(a - b) for a, b in zip(slow_losses, losses[0].tolist(), strict=False)),
    }


@click.command()
@click.option("--calls", default=5, help="Timed calls of the model and of the cache, after one more.")
@click.option("--bptt", default=1000, help="Tokens of one call.")
@click.option("--slow_tokens", default=100, help="Tokens that the loop is timed on.")
@click.option("--vocabulary", default=10000, help="Vocabulary size.")
@click.option("--device", "name", default="auto", help="auto, cpu or cuda.")
@click.option("--output", type=click.Path(path_type=Path), help="A file for the JSON, besides the console.")
@click.option("--quick", is_flag=True, help="A window of 50, a vocabulary of 1000, three calls of 100 tokens.")
@torch.no_grad()
def main(calls: int, bptt: int, slow_tokens: int, vocabulary: int, name: str, output: Path | None, quick: bool) -> None:
    """Print times and ratios as JSON; an error where the losses differ."""
    keep_freed_memory()
    if quick:
        calls, bptt, slow_tokens, vocabulary = 3, 100, 20, 1000
    place = device.choose(name)
    torch.manual_seed(0)
    layers, decoder = make_model(vocabulary, place)
    model = model_ms(layers, decoder, bptt, calls, place)
    text = random_text(bptt, vocabulary, place)
    report: dict[str, object] = {"model_ms": round(model, 4)}
    for window in [50] if quick else SETTINGS:
        figures = compare(window, text, decoder(text[0]), min(slow_tokens, bptt), calls, model, place)
        if figures["largest_difference"] > 1e-4:
            raise click.ClickException(f"window {window}: losses differ by {figures['largest_difference']}")
        report[f"window {window}"] = figures
    report |= {"bptt": bptt, "vocabulary": vocabulary, "machine": device.describe_machine()}
    text_of_report = json.dumps(report, indent=1)
    print(text_of_report)
    if output is not None:
        output.write_text(text_of_report + "\n")


if __name__ == "__main__":
    main()
