"""Tiny runs of each task: they learn, and what they report is what they did."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rnncore import checkpoint
from rnncore.flags import from_dict, to_dict
from torch.nn import functional as F
from urlstm import train_adding, train_copy, train_images, train_language
from urlstm.adding import GUESS_LOSS, adding_batch
from urlstm.copying import copy_batch, memoryless_loss
from urlstm.images import load_pictures
from urlstm.options import AddingOptions, CopyOptions, ImagesOptions, LanguageOptions
from urlstm.random_streams import Purpose, stream

Launch = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]

FILES = {"config.yaml", "metrics.jsonl", "tensorboard", "log.txt", "last.pt", "best.pt", "report.png"}


@pytest.mark.parametrize("task", ["adding", "copy", "images", "language"])
def test_a_run_leaves_what_it_should(task: str, launch: Launch, rows_of: Rows) -> None:
    run = launch(task)
    files = {path.name for path in run.iterdir()} - {".lock", "last.previous.pt"}
    assert files == FILES | ({"vocab.txt"} if task == "language" else set())
    rows = rows_of(run)
    assert [row["event"] for row in rows][-3:] == ["valid", "test", "end"]
    unit = {"ppl"} if task == "language" else set()
    accuracy = {"accuracy"} if task in ("copy", "images") else set()
    baseline = {"baseline"} if task in ("adding", "copy") else set()
    for row in rows:
        if row["event"] == "valid":
            assert set(row) == {"event", "epoch", "step", "loss"} | unit | accuracy
        if row["event"] == "test":
            assert set(row) == {"event", "epoch", "step", "loss"} | unit | accuracy | baseline
    if task in ("adding", "copy"):
        assert [row["step"] for row in rows if row["event"] == "valid"] == [10, 20, 30, 40]
    assert "accuracy" in (run / "log.txt").read_text() or task in ("adding", "language")


def best_of(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / "best.pt")


def test_adding_is_learned_and_its_test_is_right(launch: Launch, rows_of: Rows) -> None:
    words = "--seq_length 6 --hidden_size 16 --lr 0.02 --n_steps 250 --valid_interval 50"
    run = launch("adding", words)
    (test,) = rows_of(run, "test")
    assert test["baseline"] == GUESS_LOSS
    assert test["loss"] < GUESS_LOSS / 20
    saved = best_of(run)
    options = from_dict(AddingOptions, saved["config"])
    model = train_adding.build_model(options)
    model.load_state_dict(saved["model"])
    squares = []
    for number in range(20):
        inputs, targets = adding_batch(stream(22, Purpose.TEST, number), 6, 50)
        squares.append((model(inputs) - targets).double().pow(2))
    assert test["loss"] == pytest.approx(float(torch.cat(squares).mean().detach()), rel=1e-6)
    assert min(row["loss"] for row in rows_of(run, "valid")) <= rows_of(run, "valid")[0]["loss"] / 5


@pytest.mark.parametrize("recall_only", [False, True])
def test_what_copy_reports_is_right(recall_only: bool, launch: Launch, rows_of: Rows) -> None:
    words = ["--recall_only"] if recall_only else ["--delimiter"]
    run = launch("copy", "--lr", "0.02", "--n_steps", "20", *words)
    (test,) = rows_of(run, "test")
    assert test["baseline"] == memoryless_loss(4, recall_only=recall_only)
    saved = best_of(run)
    options = from_dict(CopyOptions, saved["config"])
    model = train_copy.build_model(options)
    model.load_state_dict(saved["model"])
    losses, right = [], 0
    for number in range(20):
        ids, targets = copy_batch(stream(22, Purpose.TEST, number), 4, 50, delimiter=not recall_only)
        log_likelihood = model(ids).double().log_softmax(2).gather(2, targets.unsqueeze(2))
        losses.append(-log_likelihood[14 if recall_only else 0 :])
        right += int((model(ids)[-10:].argmax(2) == targets[-10:]).sum())
    assert test["loss"] == pytest.approx(float(torch.cat(losses).mean().detach()), rel=1e-6)
    assert test["accuracy"] == right / 10_000


def test_copy_without_a_gap_is_learned(launch: Launch, rows_of: Rows) -> None:
    words = "--time_lag 1 --hidden_size 48 --lr 0.01 --n_steps 300 --valid_interval 300 --recall_only"
    (test,) = rows_of(launch("copy", words), "test")
    assert test["loss"] < 0.85 * test["baseline"]
    assert test["accuracy"] > 2 / 8


def test_digits_are_learned_and_their_test_is_right(launch: Launch, rows_of: Rows) -> None:
    words = "--hidden_size 24 --hidden_size_relu 16 --lr 0.01 --n_epochs 5 --batch_size 50"
    run = launch("images", words)
    rows = rows_of(run)
    assert [row["step"] for row in rows if row["event"] == "valid"] == [29, 58, 87, 116, 145]
    (test,) = (row for row in rows if row["event"] == "test")
    assert test["accuracy"] > 0.3
    saved = best_of(run)
    options = from_dict(ImagesOptions, saved["config"])
    pictures = load_pictures("digits", None, 22)
    model = train_images.build_model(options, pictures)
    model.load_state_dict(saved["model"])
    pixels, labels = pictures.test.batch(slice(None), torch.device("cpu"))
    logits = model(pixels).detach().double()
    assert test["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert test["accuracy"] == float((logits.argmax(1) == labels).double().mean())


def test_every_picture_is_seen_once_in_an_epoch(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    batch = train_images.Pictures.batch

    def noted(pictures: Any, which: Any, device: torch.device) -> Any:
        if isinstance(which, torch.Tensor):
            seen.append(which.tolist())
        return batch(pictures, which, device)

    monkeypatch.setattr(train_images.Pictures, "batch", noted)
    launch("images", "--n_epochs", "2")
    epochs = [[picture for step in steps for picture in step] for steps in (seen[:15], seen[15:])]
    assert len(seen) == 30
    assert all(sorted(epoch) == list(range(1439)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_language_is_learned_and_its_test_is_right(launch: Launch, rows_of: Rows) -> None:
    run = launch("language", "--lr", "0.02", "--n_epochs", "4")
    rows = rows_of(run)
    (test,) = (row for row in rows if row["event"] == "test")
    assert test["ppl"] == pytest.approx(math.exp(test["loss"]), rel=1e-12)
    assert test["ppl"] < 8  # 13 words and <eos>: a uniform guess has 14
    saved = best_of(run)
    options = from_dict(LanguageOptions, saved["config"])
    model = train_language.build_model(options, len(saved["vocabulary"])).eval()
    model.load_state_dict(saved["model"])
    words = Path("text/test.txt").read_text().replace("\n", " <eos> ").split()
    ids = torch.tensor([saved["vocabulary"].index(word) for word in words])[:, None]
    decoded, _ = model(ids[:-1])
    logits = (decoded @ model.embedding.weight.t()).detach().double()
    assert test["loss"] == pytest.approx(float(F.cross_entropy(logits.flatten(0, 1), ids[1:, 0])), rel=1e-6)


def test_only_the_gradient_of_the_layer_is_clipped(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[tuple[float, float]] = []
    step = torch.optim.AdamW.step

    def noted(optimizer: torch.optim.AdamW, *words: Any) -> Any:
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        layer, readout = gradients[:-2], gradients[-2:]  # the readout's weight and bias come last
        total = [
            float(torch.cat([grad.flatten() for grad in part if grad is not None]).norm()) for part in (layer, readout)
        ]
        norms.append((total[0], total[1]))
        return step(optimizer, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    launch("adding", "--clip", "1e-3", "--n_steps", "5")
    assert len(norms) == 5
    assert all(layer <= 1.001e-3 < 1e-2 < readout for layer, readout in norms)


@pytest.mark.parametrize("task", ["adding", "copy", "images", "language"])
def test_a_dry_run_shows_the_configuration(task: str, launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch(task, "--dry_run", "--run_dir", "never", "--amp", "bf16")
    text = capsys.readouterr().out
    assert not Path("never").exists()
    assert "# parameters: " in text
    assert yaml.safe_load(text)["amp"] == "bf16"


def test_the_configuration_of_a_run_can_be_given_again(launch: Launch) -> None:
    run = launch("copy", "--n_steps", "1")
    again = train_copy.main.resolve(["--config", str(run / "config.yaml")])
    assert to_dict(again) == best_of(run)["config"] if (run / "best.pt").exists() else True
    assert again.time_lag == 4
    assert again.n_steps == 1


@pytest.mark.parametrize("task", ["adding", "copy", "images", "language"])
def test_mixed_precision_trains(task: str, launch: Launch, rows_of: Rows) -> None:
    run = launch(task, "--amp", "bf16", "--max_steps", "10")
    plain = launch(task, "--max_steps", "10")
    mixed_loss, plain_loss = rows_of(run, "valid")[-1]["loss"], rows_of(plain, "valid")[-1]["loss"]
    assert mixed_loss == pytest.approx(plain_loss, rel=0.05)
    assert mixed_loss != plain_loss


def test_without_save_model_the_last_model_is_tested(launch: Launch, rows_of: Rows) -> None:
    run = launch("images", "--save_model=false", "--n_epochs", "1")
    assert not (run / "best.pt").exists()
    assert len(rows_of(run, "test")) == 1


def test_a_run_that_diverges_says_where(launch: Launch) -> None:
    from rnncore.errors import UserError

    with pytest.raises(UserError, match=r"stopped at step \d+: .*; use a smaller --lr or --clip"):
        launch("adding", "--lr 1000 --n_steps 200")


def test_seeds_differ_and_repeat(launch: Launch, rows_of: Rows) -> None:
    first, again, other = (launch("adding", "--n_steps", "10", "--seed", seed) for seed in ("1", "1", "2"))
    assert rows_of(first) == rows_of(again)
    losses = [row["loss"] for row in rows_of(other, "step")]
    assert not np.isclose(losses, [row["loss"] for row in rows_of(first, "step")], rtol=1e-6).any()
