"""The training commands on a tiny corpus: they stay sparse, and report what they did."""

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from rnncore import checkpoint
from rnncore.device import seed_everything
from rnncore.windows import random_length
from selfish import training as training_module
from selfish.convert import to_original
from selfish.models import build_model
from selfish.options import MOS, ONLSTM, TRAIN
from torch import Tensor
from torch.nn import functional as F

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Losses = Callable[..., list[float]]
ByHand = Callable[[Path, str, int], float]
Sparse = Callable[[Path], dict[str, Tensor]]
Words = Callable[[str], list[str]]

FILES = {"config.yaml", "metrics.jsonl", "tensorboard", "log.txt", "last.pt", "best.pt", "vocab.txt"}
COLUMNS = {TRAIN: (10, 10), ONLSTM: (10, 1), MOS: (10, 1)}
SPARSE = ["--sparse", "--density", "0.5"]


@pytest.fixture(scope="module", params=[TRAIN, ONLSTM, MOS])
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(command: str, train: Run, plot: Callable[..., object], pictures: dict[str, Callable[..., object]]) -> Path:
    """Four epochs of a sparse network, with all dropouts, penalties and pictures; averages begin after the second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnncore.report.plot", plot)
        patch.setattr("selfish.command.draw_densities", pictures["draw_densities"])
        patch.setattr("selfish.command.draw_overlap", pictures["draw_overlap"])
        real, loss = training_module.evaluate, iter([0.0, 0.5, 0.0, 0.0, 0.0])
        patch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(loss))
        return train(command, *SPARSE, "--epochs", "4", "--nonmono", "0", "--lr", "3")


def test_run_directory_is_complete(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= FILES | {"report.png", "densities.png", "overlap.png", "masks.csv"}
    for name in ("report", "densities", "overlap"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_weight_without_a_mask_is_alive(run: Path, assert_sparse: Sparse) -> None:
    masks = assert_sparse(run)
    saved = checkpoint.load(run / "last.pt")
    assert saved["averages"]["averages"]
    sizes = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == pytest.approx(0.5 * sizes, abs=len(masks))
    matrices = {name for name, weight in saved["model"].items() if weight.ndim == 2}
    assert masks.keys() == matrices - ({"decoder.weight"} if "decoder.weight" not in masks else set())


def test_masks_evolve_after_every_epoch_but_that_of_the_switch(run: Path, rows_of: Rows) -> None:
    ends = [row["step"] for row in rows_of(run, "valid")]
    log = (run / "log.txt").read_text()
    told = [int(step) for step in re.findall(r"^mask update at step (\d+), death rate", log, re.MULTILINE)]
    assert told == [ends[0], ends[2], ends[3]]
    assert re.findall(r"^epoch 2 .* valid .*\n.*weights are averaged, each from the step at which it grows", log, re.M)
    with open(run / "masks.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted({int(line["step"]) for line in lines}) == [0, *told]
    masks = checkpoint.load(run / "last.pt")["masking"]["masks"]
    last = {line["parameter"]: line for line in lines if int(line["step"]) == told[-1] and not line["gate"]}
    assert {name: int(line["living"]) for name, line in last.items()} == {n: int(m.sum()) for n, m in masks.items()}
    assert all(int(line["removed"]) + int(line["kept"]) == int(line["living"]) for line in last.values())
    assert sum(int(line["removed"]) for line in lines if int(line["step"]) == told[0]) > 50


def test_losses_are_of_whole_splits(command: str, train: Run, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    run = train(command, *SPARSE, "--epochs", "2", "--lr", "3")
    valid, test = COLUMNS[command]
    best = run / "best.pt"
    assert min(losses_of(run, "valid")) == pytest.approx(evaluated_by_hand(best, "valid", valid), rel=1e-5)
    assert losses_of(run, "test") == [pytest.approx(evaluated_by_hand(best, "test", test), rel=1e-5)]


def test_the_best_model_is_sparse(run: Path) -> None:
    """Masks have as many weights at all times; few of those that live are 0."""
    weights = checkpoint.load(run / "best.pt")["model"]
    for name, mask in checkpoint.load(run / "last.pt")["masking"]["masks"].items():
        living = int(mask.sum())
        assert 0.9 * living < int((weights[name] != 0).sum()) <= living, name


def test_averages_are_what_is_evaluated(run: Path, command: str, losses_of: Losses, evaluated_by_hand: ByHand) -> None:
    """After the switch; ``last.pt`` has the weights that training goes on from."""
    tested = losses_of(run, "test")[0]
    assert tested == pytest.approx(evaluated_by_hand(run / "best.pt", "test", COLUMNS[command][1]), rel=1e-5)
    best, last = (checkpoint.load(run / f"{name}.pt")["model"]["encoder.weight"] for name in ("best", "last"))
    assert not torch.equal(best, last)


def test_a_dense_run_averages_too(command: str, train: Run, losses_of: Losses, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original crashed there."""
    real, worse = training_module.evaluate, iter([0.0, 9.0, 0.0])
    monkeypatch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(worse))
    run = train(command, "--epochs", "3", "--nonmono", "0", "--lr", "3")
    saved = checkpoint.load(run / "last.pt")
    assert "masking" not in saved
    assert saved["averages"]["averages"]
    assert saved["averages"]["births"] == {}
    assert not (run / "masks.csv").exists()
    assert all(math.isfinite(loss) for loss in losses_of(run, "step", "valid", "test"))


def test_penalties_dropouts_and_pieces_act(train: Run, plain: Words, command: str, losses_of: Losses) -> None:
    steps = ["--max_steps", "2", "--log_interval", "1"]
    without = train(command, *plain(command), *steps)
    changes = [*plain(command)[::2], *(["--small_batch_size"] if command == MOS else [])]
    for name in changes:
        if command == TRAIN and name != "--dropout":
            continue  # these are the highway network's
        value = "2" if name == "--small_batch_size" else "0.5"
        run = train(command, *plain(command), name, value, *steps)
        losses = losses_of(run, "step"), losses_of(without, "step")
        first = "wdrop" in name or name.startswith("--dropout")
        if name == "--small_batch_size":  # without dropout, pieces add up to the batch
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        else:
            assert losses[0][0 if first else 1] != losses[1][0 if first else 1], name


@pytest.mark.parametrize("rate", ["--dropout", "--dropouth", "--dropouti", "--dropoute"])
def test_every_dropout_of_the_highway_network_acts(rate: str, train: Run, plain: Words, losses_of: Losses) -> None:
    steps = ["--model", "RHN", "--nlayers", "1", "--nrecurrence_depth", "2", "--max_steps", "5"]
    runs = [train(TRAIN, *plain(TRAIN), *more, *steps) for more in ([], [rate, "0.5"])]
    assert losses_of(runs[0], "step") != losses_of(runs[1], "step")


def test_the_first_step_is_sgd_on_a_masked_network(
    train: Run, plain: Words, arguments: Words, mains: dict[str, Any], corpus: Path, tokens_of: Any
) -> None:
    """The clipped gradient of all weights at the full rate, and then the dead weights are 0."""
    words = [*plain(TRAIN), *SPARSE, "--wdecay", "0.003", "--clip", "0.05", "--max_steps", "1"]
    saved = checkpoint.load(train(TRAIN, *words) / "last.pt")
    masks = saved["masking"]["masks"]
    seed_everything(1111)
    model: Any = build_model(mains[TRAIN].resolve([*arguments(TRAIN), *words]), len(saved["vocabulary"])).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(masks.get(name, torch.ones(())))
    ids = torch.tensor([saved["vocabulary"].index(token) for token in tokens_of(corpus, "train")])
    text = ids[: len(ids) // 4 * 4].view(4, -1).t()
    logits = model(text[:10], model.initial_state(4)).dropped[-1] @ model.decoder.weight.T + model.decoder.bias
    loss = F.cross_entropy(logits.flatten(0, 1), text[1:11].flatten())
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    assert norm > 0.05
    for (name, weight), gradient in zip(named.items(), gradients, strict=True):
        expected = weight - 15 * (gradient * 0.05 / norm + 0.003 * weight)
        if name in masks:
            expected = expected * masks[name]
        torch.testing.assert_close(saved["model"][name].double(), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("command", [ONLSTM, MOS])
def test_random_windows_scale_the_rate(command: str, train: Run, rows_of: Rows) -> None:
    rows = rows_of(train(command, "--lr", "2", "--max_steps", "4", "--log_interval", "1"), "step")
    draw = np.random.default_rng(1111)
    assert [row["lr"] for row in rows] == [pytest.approx(0.2 * random_length(10, draw)) for _ in rows]


def test_windows_of_a_mixture_have_a_longest(train: Run, rows_of: Rows) -> None:
    run = train(MOS, "--lr", "1", "--max_seq_len_delta", "0", "--max_steps", "12", "--log_interval", "1")
    assert {row["lr"] for row in rows_of(run, "step")} & {1.0}
    assert all(row["lr"] <= 1.0 for row in rows_of(run, "step"))


def test_finetuning_averages_anew(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, worse = training_module.evaluate, iter([0.0, 9.0, 0.0, 0.0])
    monkeypatch.setattr(training_module, "evaluate", lambda *words: real(*words) + next(worse))
    run = train(ONLSTM, "--sparse", "--epochs", "4", "--nonmono", "0", "--finetuning", "3", "--lr", "1")
    saved = checkpoint.load(run / "last.pt")
    log = (run / "log.txt").read_text()
    assert log.count("the weights are averaged anew") == 1
    third = int(re.findall(r"^epoch 3 \| step (\d+) \| valid", log, re.MULTILINE)[0])
    assert saved["averages"]["steps"] == saved["log"]["global_step"] - third


def test_adam_halves_its_rate(train: Run, rows_of: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(training_module, "evaluate", lambda *_: next(losses))
    run = train(TRAIN, "--sparse", "--optimizer", "adam", "--epochs", "5")
    rates = {row["epoch"]: row["lr"] for row in rows_of(run, "step")}
    assert rates == {1: 0.001, 2: 0.001, 3: 0.001, 4: 0.001, 5: 0.0005}


@pytest.mark.parametrize(
    "words",
    [
        "--death SET --growth momentum --redistribution momentum",
        "--death threshold --growth random_rnn --redistribution nonzeros",
        "--death global_magnitude --growth gradient --redistribution magnitude",
        "--death magnitude_rnn --growth random_rnn --redistribution cell-gate",
        "--sparse_init ER --growth_expectation --death-rate-decay linear",
    ],
)
def test_every_rule_of_evolution_trains(words: str, train: Run, assert_sparse: Sparse, losses_of: Losses) -> None:
    run = train(TRAIN, *SPARSE, *words.split(), "--epochs", "2", "--lr", "3")
    masks = assert_sparse(run)
    living, size = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    assert living / size == pytest.approx(0.5, abs=0.03 if "expectation" in words else 0.002)
    assert all(math.isfinite(loss) for loss in losses_of(run, "step", "valid", "test"))


def test_sparsity_is_one_minus_density(train: Run) -> None:
    runs = [
        train(TRAIN, "--sparse", *words, "--max_steps", "2")
        for words in (["--density", "0.25"], ["--sparsity", "0.75"])
    ]
    first, second = (checkpoint.load(run / "last.pt")["model"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_copy_of_the_best_model(train: Run, sandbox: Path) -> None:
    run = train(TRAIN, "--sparse", "--max_steps", "3", "--save", "copy.pt")
    best, copy = (checkpoint.load(file)["model"] for file in (run / "best.pt", sandbox / "copy.pt"))
    assert all(torch.equal(best[name], copy[name]) for name in best)


def test_a_mixture_with_a_last_layer_of_another_size(train: Run) -> None:
    model = checkpoint.load(train(MOS, "--nhidlast", "9", "--max_steps", "1") / "best.pt")["model"]
    assert model["latent.weight"].shape == (3 * 16, 9)


def test_a_mixture_is_saved_in_a_folder_and_goes_on(
    arguments: Words, mains: dict[str, click.Command], rows_of: Rows
) -> None:
    mains[MOS]([*arguments(MOS), "--save", "WT2", "--max_steps", "3"], standalone_mode=False)
    mains[MOS](["--continue_train", "--save", "WT2", "--max_steps", "5"], standalone_mode=False)
    assert rows_of(Path("WT2"), "test")[-1]["step"] == 5


@pytest.mark.parametrize("command", [TRAIN, ONLSTM, MOS])
def test_evaluation_of_a_checkpoint_an_export_and_a_state_dict(
    command: str,
    train: Run,
    arguments: Words,
    mains: dict[str, click.Command],
    losses_of: Losses,
    build: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from selfish.export_command import main as export_main

    run = train(command, *SPARSE, "--epochs", "1", "--lr", "3")
    model = build(checkpoint.load(run / "best.pt")).float()
    torch.save(to_original(model), "original.pt")
    export_main([str(run), "--repeats", "0"], standalone_mode=False)
    expected = f"test loss {losses_of(run, 'test')[0]:.4f}"
    for file in (run / "best.pt", run, run / "best.sparse.pt", "original.pt"):
        capsys.readouterr()
        mains[command]([*arguments(command), "--sparse", "--evaluate", str(file)], standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        assert [f"{file} | {expected}" in line for line in lines] == [False, True], lines
