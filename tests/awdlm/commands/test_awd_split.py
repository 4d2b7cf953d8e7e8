"""A vocabulary whose softmax is split: the words in order of frequency, head and tails in every command."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from awdlm import model as model_module
from awdlm import saved_model
from awdlm import training as training_module
from awdlm.generate import main as generate
from awdlm.pointer import main as pointer
from awdlm.saved_model import load
from awdlm.train import main
from rnncore import checkpoint
from torch import Tensor

Run = Callable[..., Path]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]
Tokens = Callable[[Path, str], list[str]]

TOMBSTONES = ["criterion.tail_vectors", "criterion.tail_bias"]


@pytest.fixture(scope="module", autouse=True)
def splits() -> Any:
    """The 31 words are split at 5 and 12, as a vocabulary above 75,000 is at 2800 and 20,000."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (model_module, saved_model):
            patch.setattr(module, "splits_for", lambda size: (5, 12))
        yield


@pytest.fixture(scope="module")
def run(train: Run) -> Path:
    """Four epochs, averaged after the second, with a copy of the weights after each."""
    with pytest.MonkeyPatch.context() as patch:
        real, added = training_module.evaluate, iter([5.0, 9.0, 1.0, 0.0, 0.0])
        patch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(added))
        return train("--nonmono", "0", "--epochs", "4", "--when", "1", "2", "3", "4", "--save", "split.pt")


def test_words_are_in_order_of_frequency(run: Path, corpus: Path, tokens_of: Tokens) -> None:
    counts = Counter(tokens_of(corpus, "train"))
    vocabulary = checkpoint.load(run / "best.pt")["vocabulary"]
    assert len(vocabulary) == 31
    numbers = [counts[token] for token in vocabulary]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) > 10


def test_tombstones_are_trained_before_and_after_averaging_begins(run: Path) -> None:
    weights = [checkpoint.load(run / f"epoch{epoch}.pt")["model"] for epoch in (1, 2, 3, 4)]
    for name in TOMBSTONES:
        assert all(bool(weight[name].any(-1).all()) for weight in weights)  # they begin as zeros
        changes = [float((after[name] - before[name]).abs().max()) for before, after in pairwise(weights)]
        assert all(change > 1e-5 for change in changes)
    saved = checkpoint.load(run / "last.pt")
    assert saved["averages"]["steps"] > 30
    assert len(saved["averages"]["averages"]) == len(saved["optimizer"]["param_groups"][0]["params"])


def test_losses_are_those_of_head_and_tails(run: Path, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    assert losses_of(run, "valid")[-1] == pytest.approx(evaluated_by_hand(run / "best.pt", "valid", 10), rel=1e-5)
    assert losses_of(run, "test") == [pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)]


def test_log_probabilities_are_those_of_head_and_tails(
    run: Path,
    corpus: Path,
    text_of: Callable[..., Tensor],
    build: Callable[[dict[str, Any]], Any],
    all_log_probabilities: Callable[[Any, Tensor], Tensor],
) -> None:
    saved = checkpoint.load(run / "best.pt")
    text, model = text_of(corpus, "valid", 10, saved), build(saved)
    with torch.no_grad():
        states = model(text, model.initial_state(10)).dropped[-1]
        expected = all_log_probabilities(model, states)
    ours = load(run / "best.pt").model
    found, _ = ours.log_probabilities(text, ours.initial_state(10))
    torch.testing.assert_close(expected.exp().sum(2), torch.ones_like(expected[..., 0]))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["LSTM", "QRNN"])
def test_it_learns_more_than_the_frequencies_of_words(
    model: str, train: Run, plain: list[str], corpus: Path, tokens_of: Tokens, losses_of: Losses
) -> None:
    run = train(*plain, "--model", model, "--nlayers", "1", "--lr", "5", "--epochs", "7")
    shares = torch.tensor(list(Counter(tokens_of(corpus, "train")).values())) / len(tokens_of(corpus, "train"))
    assert losses_of(run, "step")[-1] < float(-(shares * shares.log()).sum()) - 0.4


def test_a_resumed_run_is_the_same_to_the_bit(train: Run, rows_of: Callable[..., list[dict[str, Any]]]) -> None:
    words = ["--epochs", "2", "--checkpoint_interval", "7"]
    whole, run = train(*words), train(*words, "--max_steps", "30")
    main(["--resume", str(run)], standalone_mode=False)
    assert rows_of(run) == rows_of(whole)


def test_finetuning(run: Path, finetune: Run, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    before, result = Path("split.pt"), Path("split.finetuned.pt")
    found = losses_of(finetune("--save", str(before), "--epochs", "2", "--lr", "3"), "valid")
    assert found[0] == pytest.approx(evaluated_by_hand(before, "valid", 10), rel=1e-5)
    assert min(found) == pytest.approx(evaluated_by_hand(result, "valid", 10), rel=1e-5)
    weights = [checkpoint.load(file)["model"] for file in (before, result)]
    assert all(not torch.equal(*(weight[name] for weight in weights)) for name in TOMBSTONES)


def test_pointer(run: Path, evaluated_by_hand: ByHand, capsys: pytest.CaptureFixture[str]) -> None:
    pointer(["--save", str(run), "--lambdasm", "0", "--window", "9", "--device", "cpu"], standalone_mode=False)
    perplexity = torch.tensor(evaluated_by_hand(run / "best.pt", "test", 1)).exp()
    assert f"test: ppl {perplexity:.3f} without the cache | ppl {perplexity:.3f} with it" in capsys.readouterr().out


def test_generation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(["--checkpoint", str(run), "--words", "300", "--temperature", "2"], standalone_mode=False)
    vocabulary = checkpoint.load(run / "best.pt")["vocabulary"]
    written = {vocabulary.index(word) for word in capsys.readouterr().out.split()}
    assert {min(index // 5, 2) for index in written} == {0, 1, 2}  # words of the head and of the tails
