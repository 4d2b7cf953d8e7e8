"""``awdlm-train`` on a tiny corpus: its steps are the paper's, and what it reports is what it did."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from awdlm import training as training_module
from awdlm.options import build_model
from awdlm.train import main
from rnncore import checkpoint
from rnncore.device import seed_everything
from rnncore.windows import random_length
from torch import Tensor
from torch.nn import functional as F

Run = Callable[..., Path]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]
Tokens = Callable[[Path, str], list[str]]


@pytest.mark.parametrize(
    "words", ["--model LSTM", "--model GRU", "--model QRNN", "--tied", "--model QRNN --level character --max_steps 30"]
)
def test_losses_are_of_whole_splits(words: str, train: Run, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    run = train("--epochs", "2", "--lr", "3", *words.split())
    valid = losses_of(run, "valid")
    assert min(valid) == pytest.approx(evaluated_by_hand(run / "best.pt", "valid", 10), rel=1e-5)
    assert valid[-1] == pytest.approx(evaluated_by_hand(run / "last.pt", "valid", 10), rel=1e-5)
    assert losses_of(run, "test") == [pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)]


def test_the_best_model_is_tested_not_the_last(
    train: Run, losses_of: Losses, evaluated_by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, worse = training_module.evaluate, iter([0.0, 9.0, 0.0])
    monkeypatch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(worse))
    run = train("--epochs", "2")
    (tested,) = losses_of(run, "test")
    assert tested == pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)
    assert abs(tested - evaluated_by_hand(run / "last.pt", "test", 1)) > 1e-3


def first_window(corpus: Path, model: Any, vocabulary: list[str], tokens: list[str]) -> tuple[Tensor, Tensor, Any]:
    """Inputs and targets of the first step, with 4 columns and a base of 10 steps, and the state before it."""
    ids = torch.tensor([vocabulary.index(token) for token in tokens])
    text = ids[: len(ids) // 4 * 4].view(4, -1).t()
    length = random_length(10, np.random.default_rng(1111))
    return text[:length], text[1 : length + 1], model.initial_state(4)


@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (9.0, 0.0), (0.0, 9.0), (2.0, 1.0)])
def test_the_first_step_is_that_of_the_paper(
    model: str,
    alpha: float,
    beta: float,
    train: Run,
    plain: list[str],
    arguments: list[str],
    corpus: Path,
    tokens_of: Tokens,
    losses_of: Losses,
) -> None:
    """The gradient of loss and penalties, clipped, at a rate scaled by the window; only the loss is reported."""
    penalties = ["--alpha", str(alpha), "--beta", str(beta)]
    others = ["--model", model, "--wdecay", "0.003", "--clip", "0.05", "--max_steps", "1", "--log_interval", "1"]
    words = [*plain, *penalties, *others]
    saved = checkpoint.load((run := train(*words)) / "last.pt")
    seed_everything(1111)
    lm = build_model(main.resolve([*arguments, *words]), len(saved["vocabulary"])).double()
    inputs, targets, state = first_window(corpus, lm, saved["vocabulary"], tokens_of(corpus, "train"))
    outputs = lm(inputs, state)
    last = outputs.raw[-1]
    logits = outputs.dropped[-1] @ lm.decoder.weight.T + lm.decoder.bias
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    total = loss + alpha * (last**2).mean() + beta * ((last[1:] - last[:-1]) ** 2).mean()
    named = dict(lm.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()))
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    assert norm > 0.05
    for (name, weight), gradient in zip(named.items(), gradients, strict=True):
        step = 30 * len(inputs) / 10 * (gradient * 0.05 / norm + 0.003 * weight)
        torch.testing.assert_close(saved["model"][name].double(), weight - step, rtol=1e-4, atol=2e-5)
    assert losses_of(run, "step") == [pytest.approx(float(loss.detach()), rel=1e-6)]


def test_penalties_act(train: Run, plain: list[str]) -> None:
    runs = [train(*plain, *more, "--max_steps", "1") for more in ([], ["--alpha", "9"], ["--beta", "9"])]
    weights = [checkpoint.load(run / "last.pt")["model"]["layers.1.module.weight_hh_l0"] for run in runs]
    assert all((weight - weights[0]).abs().max() > 1e-4 for weight in weights[1:])


def test_adam_steps_by_the_scaled_rate(train: Run, plain: list[str], arguments: list[str]) -> None:
    words = [*plain, "--optimizer", "adam", "--lr", "0.01", "--wdecay", "0", "--max_steps", "1"]
    saved = checkpoint.load(train(*words) / "last.pt")
    seed_everything(1111)
    before = build_model(main.resolve([*arguments, *words]), len(saved["vocabulary"])).state_dict()
    length = random_length(10, np.random.default_rng(1111))
    for name, weight in before.items():
        largest = float((saved["model"][name] - weight).abs().max())
        assert largest == pytest.approx(0.01 * length / 10, rel=0.01), name


@pytest.mark.parametrize("rate", ["dropout", "dropouth", "dropouti", "dropoute", "wdrop"])
def test_every_dropout_acts_in_training_only(
    rate: str, train: Run, plain: list[str], losses_of: Losses, evaluated_by_hand: ByHand
) -> None:
    steps = ["--max_steps", "5", "--log_interval", "1"]
    run, without = train(*plain, f"--{rate}", "0.5", *steps), train(*plain, *steps)
    assert abs(losses_of(run, "step")[-1] - losses_of(without, "step")[-1]) > 1e-3
    assert losses_of(run, "valid") == [pytest.approx(evaluated_by_hand(run / "last.pt", "valid", 10), rel=1e-5)]


@pytest.mark.parametrize("model", ["LSTM", "QRNN"])
def test_mixed_precision_differs_a_little(
    model: str, train: Run, losses_of: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnncore.device.keeps_memory_of_shapes", lambda *_: False)  # the same windows for both
    steps = ["--model", model, "--lr", "1", "--max_steps", "10", "--log_interval", "1"]
    exact, mixed = (losses_of(train(*steps, *more), "step", "valid") for more in ([], ["--amp", "bf16"]))
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.01)
