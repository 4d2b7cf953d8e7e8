"""``rmc-nth-farthest`` at tiny sizes: what it reports is what it did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rmc.farthest import farthest_batch, generator_for
from rmc.farthest_options import FarthestOptions, build_model
from rnncore import checkpoint
from rnncore.flags import from_dict

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize("model", ["rmc", "lstm", "mlp"])
def test_accuracy_is_that_of_the_saved_model(model: str, launch: Run, rows_of: Rows) -> None:
    run = launch("farthest", f"--model {model}")
    saved = checkpoint.load(run / "best.pt", kind="rmc-nth-farthest")
    net = build_model(from_dict(FarthestOptions, saved["config"]))
    net.load_state_dict(saved["model"])
    (test,) = rows_of(run, "test")
    right, loss = 0, 0.0
    for number, size in enumerate((40, 40, 10)):  # 90 questions in batches of 40
        inputs, answers = farthest_batch(generator_for(1111, 2, number, torch.device("cpu")), size, 3, 2)
        with torch.no_grad():
            found = net(inputs).log_softmax(1)
        right += int((found.argmax(1) == answers).sum())
        loss -= float(found.gather(1, answers[:, None]).sum())
    assert test["accuracy"] == pytest.approx(right / 90)
    assert test["loss"] == pytest.approx(loss / 90, abs=1e-5)
    assert [row["step"] for row in rows_of(run, "valid")] == [10, 20, 30]


def test_picture_of_accuracies(launch: Run) -> None:
    first = launch("farthest")
    second = launch("farthest", "--model lstm", f"--compare_with {first}")
    for run in (first, second):
        assert (run / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (second / "accuracy.png").stat().st_size > (first / "accuracy.png").stat().st_size


def test_a_picture_of_another_commands_run(launch: Run, refused: Callable[..., str]) -> None:
    run = launch("rnn", "--max_steps 1")
    line = refused("farthest", "--compare_with", str(run), "--run_dir", "not_begun")
    assert f"--compare_with {run} holds a run of another command" in line
    assert not Path("not_begun").exists()


def test_loss_falls(launch: Run, losses_of: Callable[..., list[float]]) -> None:
    losses = losses_of(launch("farthest", "--n_steps 150 --lr 0.005"), "step")
    assert sum(losses[-5:]) / 5 < sum(losses[:3]) / 3 - 0.2


def test_parts_of_a_batch_add_up(launch: Run, losses_of: Callable[..., list[float]]) -> None:
    whole = losses_of(launch("farthest"), "step")
    parts = losses_of(launch("farthest", "--part_size 15"), "step")
    assert parts == pytest.approx(whole, abs=1e-4)
    assert parts != whole
