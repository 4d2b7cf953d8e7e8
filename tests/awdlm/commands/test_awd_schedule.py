"""When ``awdlm-train`` goes over to averages and divides the rate, and which files it leaves of its models."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from awdlm import training as training_module
from awdlm.run_state import Training
from awdlm.saved_model import load
from rnncore import checkpoint
from torch import Tensor

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]

SWITCH = "from now on the weights are averaged"
#: Above the least but the last two at epoch 5 first, and again at 9.
STALLS = [3.0, 2.0, 2.5, 2.4, 2.3, 3.3, 3.1, 3.2, 3.4]


def script(patch: pytest.MonkeyPatch, losses: list[float], *, added: bool = False) -> None:
    """Give the evaluations' results, the test's last; or what is ``added`` to them."""
    real, scripted = training_module.evaluate, iter(losses)
    patch.setattr(training_module, "evaluate", lambda *words: next(scripted) + (real(*words) if added else 0.0))


def switches(run: Path) -> list[int]:
    """The epochs after which the log says that averaging begins."""
    text = (run / "log.txt").read_text()
    return [int(epoch) for epoch in re.findall(rf"^epoch (\d+) .* valid .*\n.*{SWITCH}", text, re.MULTILINE)]


def averages_of(run: Path) -> dict[str, Any]:
    averages: dict[str, Any] = checkpoint.load(run / "last.pt")["averages"]
    return averages


@pytest.mark.parametrize(
    ("nonmono", "losses", "epoch"),
    [(0, [2.0, 3.0, 1.0], 2), (2, STALLS, 5), (5, STALLS, 7), (5, [1.0, 2.0, 2.0, 2.0, 2.0], None)],
)
def test_averaging_begins_when_the_validation_loss_stalls(
    nonmono: int, losses: list[float], epoch: int | None, train: Run, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [*losses, 1.0])
    run = train("--nonmono", str(nonmono), "--epochs", str(len(losses)), "--log_interval", "1")
    assert switches(run) == ([] if epoch is None else [epoch])
    assert (run / "log.txt").read_text().count(SWITCH) == len(switches(run))
    after = [row for row in rows_of(run, "step") if epoch is not None and row["epoch"] > epoch]
    assert averages_of(run)["steps"] == len(after)
    assert bool(averages_of(run)["averages"]) == (epoch is not None)


def test_adam_never_averages(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [2.0, 3.0, 4.0, 1.0])
    run = train("--optimizer", "adam", "--lr", "0.01", "--nonmono", "0", "--epochs", "3")
    assert switches(run) == []
    assert averages_of(run) == {"steps": 0, "averages": []}


@pytest.mark.parametrize("model", ["LSTM", "QRNN"])
def test_averages_are_evaluated_and_kept(
    model: str, train: Run, losses_of: Losses, evaluated_by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best.pt holds the mean of the iterates, last.pt the last one."""
    iterates: list[dict[str, Tensor]] = []
    step = training_module._step

    def watched(training: Training, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = step(training, inputs, targets)
        if training.averages.active:
            named = training.model.named_parameters()
            iterates.append({name: weight.detach().double().clone() for name, weight in named})
        return loss

    monkeypatch.setattr(training_module, "_step", watched)
    script(monkeypatch, [5.0, 9.0, 1.0, 0.0, 0.0], added=True)  # a stall at epoch 2; epoch 4 is the best
    run = train("--model", model, "--nonmono", "0", "--epochs", "4")
    assert switches(run) == [2]
    best, last = (checkpoint.load(run / name)["model"] for name in ("best.pt", "last.pt"))
    assert len(iterates) > 30
    for name, weight in iterates[-1].items():
        # From the second iterate on, as torch.optim.ASGD does it.
        mean = torch.stack([iterate[name] for iterate in iterates[1:]]).mean(0)
        torch.testing.assert_close(best[name].double(), mean, rtol=1e-5, atol=1e-5)
        assert torch.equal(last[name].double(), weight)
    valid, (tested,) = losses_of(run, "valid"), losses_of(run, "test")
    assert valid[-1] == pytest.approx(evaluated_by_hand(run / "best.pt", "valid", 10), rel=1e-5)
    assert tested == pytest.approx(evaluated_by_hand(run / "best.pt", "test", 1), rel=1e-5)
    assert evaluated_by_hand(run / "last.pt", "valid", 10) > valid[-1]  # the mean is better than the last iterate


def test_when_divides_the_rate(train: Run, rows_of: Rows) -> None:
    words = ["--optimizer", "adam", "--lr", "0.01", "--when", "2", "3", "--epochs", "4", "--log_interval", "1"]
    run = train(*words, "--save", "divided.pt")
    rates = {1: 0.01, 2: 0.01, 3: 0.001, 4: 0.0001}
    lengths: dict[int, float] = dict.fromkeys(rates, 0.0)
    for row in rows_of(run, "step"):
        length = 10 * row["lr"] / rates[row["epoch"]]  # the rate of a step is scaled by its window of 10 steps or so
        assert length == pytest.approx(round(length))
        assert 1 <= length <= 40
        lengths[row["epoch"]] += length
    assert lengths == pytest.approx(dict.fromkeys(rates, 889 // 4 - 1))
    assert re.findall(r"^learning rate (.*)$", (run / "log.txt").read_text(), re.MULTILINE) == ["0.001", "0.0001"]
    assert checkpoint.load(run / "last.pt")["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.0001)


def test_when_divides_the_rate_of_averaged_sgd_too(train: Run, rows_of: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [2.0, 3.0, 1.0, 1.0, 1.0])
    run = train("--nonmono", "0", "--when", "3", "--epochs", "4", "--log_interval", "1")
    assert switches(run) == [2]
    largest = {row["epoch"]: row["lr"] for row in sorted(rows_of(run, "step"), key=lambda row: row["lr"])}
    assert largest[4] < 10 < largest[3]


def test_when_leaves_copies_that_load(train: Run, sandbox: Path) -> None:
    words = ["--optimizer", "adam", "--lr", "0.01", "--epochs"]
    run = train(*words, "3", "--when", "2", "3", "--save", "copies.pt")
    shorter = train(*words, "2")
    saved = checkpoint.load(shorter / "last.pt")["model"]
    for file in (run / "epoch2.pt", sandbox / "copies.e2.pt"):
        weights = load(file).model.state_dict()
        assert weights.keys() == saved.keys()
        assert all(torch.equal(weights[name], saved[name]) for name in saved)
    assert {path.name for path in run.glob("epoch*")} == {"epoch2.pt", "epoch3.pt"}
    assert {path.name for path in sandbox.glob("copies*")} == {"copies.pt", "copies.e2.pt", "copies.e3.pt"}


def test_save_holds_the_best_model(train: Run, sandbox: Path) -> None:
    run = train("--epochs", "2", "--save", "PTB.pt")
    best, copy = (checkpoint.load(file) for file in (run / "best.pt", sandbox / "PTB.pt"))
    assert best.keys() == copy.keys()
    assert all(torch.equal(best["model"][name], copy["model"][name]) for name in best["model"])
    assert (best["config"], best["vocabulary"]) == (copy["config"], copy["vocabulary"])
    assert not (sandbox / "PTB.previous.pt").exists()
    before = (sandbox / "PTB.pt").read_bytes()
    another = train("--epochs", "2", "--seed", "2", "--save", "PTB.pt")
    assert (sandbox / "PTB.previous.pt").read_bytes() == before  # what an earlier run had left, not its own first
    now = checkpoint.load(sandbox / "PTB.pt")["model"]["decoder.bias"]
    assert torch.equal(now, checkpoint.load(another / "best.pt")["model"]["decoder.bias"])
    assert not torch.equal(now, best["model"]["decoder.bias"])
