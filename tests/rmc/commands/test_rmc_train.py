"""``rmc-train`` and ``rmc-train-rnn`` on a tiny corpus: what they report is what they did."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rmc.options import MEMORY, RNN
from rmc.saved_model import load
from rnncore import checkpoint

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Losses = Callable[..., list[float]]
ADAPTIVE = "--adaptivesoftmax --cutoffs 5 12"


@pytest.mark.parametrize("task", ["memory", "rnn"])
@pytest.mark.parametrize("words", ["", ADAPTIVE])
def test_losses_are_those_of_the_saved_model(
    task: str, words: str, launch: Run, rows_of: Rows, evaluated_by_hand: Callable[..., float]
) -> None:
    """Every target counts once: the last window of an evaluation is a short one."""
    run = launch(task, words)
    best = min(row["loss"] for row in rows_of(run, "valid"))
    assert evaluated_by_hand(run / "best.pt", task, "valid") == pytest.approx(best, abs=1e-5)
    (test,) = rows_of(run, "test")
    assert evaluated_by_hand(run / "best.pt", task, "test") == pytest.approx(test["loss"], abs=1e-5)


@pytest.mark.parametrize("task", ["memory", "rnn"])
def test_parameters_of_the_adaptive_softmax_are_trained_and_saved(task: str, launch: Run) -> None:
    run = launch(task, ADAPTIVE, "--max_steps 1")
    before = checkpoint.load(run / "last.pt")["model"]
    again = launch(task, ADAPTIVE, "--max_steps 5")
    after = checkpoint.load(again / "last.pt")["model"]
    names = [name for name in before if name.startswith("softmax.adaptive.")]
    assert len(names) == 5
    assert all(not torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("task", ["memory", "rnn"])
def test_adaptive_softmax_in_mixed_precision(task: str, launch: Run, rows_of: Rows) -> None:
    wide, mixed = (launch(task, ADAPTIVE, f"{amp} --max_steps 3") for amp in ("", "--amp bf16"))
    (expected,), (found,) = (rows_of(run, "test") for run in (wide, mixed))
    assert 0 < abs(found["loss"] - expected["loss"]) < 0.02


def test_cutoffs_beyond_the_vocabulary_are_left_out(launch: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch("memory", "--adaptivesoftmax --cutoffs 5 31 100000 --max_steps 1")
    assert "warning: the vocabulary has 31 words, so --cutoffs 31, 100000 are left out" in capsys.readouterr().out
    saved = load(run / "best.pt", MEMORY)
    assert saved.model.softmax.adaptive.cutoffs == [5, 31]  # type: ignore[union-attr]
    counts = Counter((Path(saved.options.data) / "train.txt").read_text().split())
    words = [word for word in saved.vocabulary.tokens if word != "<eos>"]
    assert [counts[word] for word in words] == sorted(counts.values(), reverse=True)


def test_rate_is_halved_where_the_loss_stalls(launch: Run, rows_of: Rows) -> None:
    run = launch("memory", "--patience 1 --lr 0.5 --clip 1000 --epochs 9 --log-interval 1")
    best, stalled, rate = math.inf, 0, 0.5
    expected = {1: rate}
    for row in rows_of(run, "valid"):
        if row["loss"] < best * (1 - 1e-4):
            best, stalled = row["loss"], 0
        else:
            stalled += 1
        if stalled > 1:
            rate, stalled = rate / 2, 0
        expected[row["epoch"] + 1] = rate
    assert {row["epoch"]: row["lr"] for row in rows_of(run, "step")}.items() <= expected.items()
    assert rate < 0.5
    assert f"the validation loss stalls: learning rate {0.25:g}" in (run / "log.txt").read_text()


def test_embedding_and_softmax_share_a_weight_where_they_can(launch: Run) -> None:
    def shared(task: str, words: str) -> bool:
        model = load(launch(task, words, "--max_steps 1") / "best.pt", MEMORY if task == "memory" else RNN).model
        return model.embedding.weight is model.softmax.weight

    assert shared("memory", "")
    assert shared("rnn", "")
    assert shared("rnn", "--tied")
    assert not shared("rnn", "--untied")
    assert not shared("rnn", "--nhid 12")


def test_first_loss_is_that_of_guessing(launch: Run, losses_of: Losses) -> None:
    run = launch("memory", "--max_steps 1 --log-interval 1")
    assert losses_of(run, "step")[0] == pytest.approx(math.log(31), abs=0.6)


def test_copy_of_the_best_model(launch: Run, sandbox: Path) -> None:
    run = launch("rnn", "--save copy.pt", "--max_steps 3")
    assert (sandbox / "copy.pt").read_bytes() == (run / "best.pt").read_bytes()
    assert not (sandbox / "model.pt").exists()


def test_name_is_a_directory_of_runs(launch: Run, sandbox: Path) -> None:
    launch("memory", "--name first", "--max_steps 1")
    assert (sandbox / "runs" / "rmc-train" / "first" / "best.pt").exists()


def test_dry_run_tells_the_size(launch: Run, sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch("memory", "--dry_run --memslots 2 --name unwritten")
    text = capsys.readouterr().out
    mem, width = 16, 2 * (2 * 4 + 8)
    core = 17 * mem + 17 * width + 2 * 3 * (width + 2 * mem) + 17 * mem + 2 * 17 * 2 * mem + 2
    assert re.search(r"# parameters: ([\d,]+)", text)[1] == f"{31 * 17 + core + 33 * 16:,}"  # type: ignore[index]
    assert not (sandbox / "runs" / "rmc-train" / "unwritten").exists()
