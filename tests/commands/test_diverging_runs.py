"""Runs whose numbers are no longer numbers: they stop, say where, and keep what was saved before."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from rnncore.evaluation import evaluate

Refused = Callable[..., str]
Sound = Callable[..., None]

MODELS = [
    ("awdlm-train", "--model LSTM"),
    ("awdlm-train", "--model GRU"),
    ("awdlm-train", "--model QRNN"),
    ("revrnn-train", "--model lstm"),
    ("revrnn-train", "--model gru"),
    ("revrnn-train", "--use_reverse"),
    ("revrnn-train", "--model revlstm"),
    ("selfish-train", "--sparse"),
    ("selfish-train-onlstm", "--sparse"),
    ("selfish-train-mos", "--sparse"),
    ("rmc-train", ""),
    ("rmc-train-rnn", ""),
]
each_model = pytest.mark.parametrize(("command", "words"), MODELS, indirect=["command"])


def spoil(model: Any) -> None:
    """Make a row of recurrent weights NaN, of which dropout leaves some; a QRNN has none, any layer's do."""
    named = {name: weight for name, weight in model.named_parameters() if weight.dim() > 1}
    chosen = [name for name in named if "hh" in name] or [name for name in named if name.startswith("layers")]
    with torch.no_grad():
        named[(chosen or list(named))[0]][0] = float("nan")


@pytest.fixture
def assert_stops(
    refusal: Callable[[Any, list[str]], str],
    before_step: Callable[..., None],
    assert_sound: Sound,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """``assert_stops(command, words, run)``: where weights become NaN, with the checkpoint from before."""

    def check(command: Any, words: list[str], run: Path) -> None:
        before_step(monkeypatch, 9, spoil)
        line = refusal(command.main, [*words, "--run_dir", str(run), "--checkpoint_interval", "4"])
        assert line == (
            "Error: stopped at step 9: the weights are no longer finite numbers; use a smaller --lr or --clip; "
            "the last checkpoint is from before it\n"
        )
        assert_sound(run / "last.pt", command.name, 8)

    return check


@each_model
def test_a_loss_that_becomes_nan(command: Any, words: str, assert_stops: Callable[..., None]) -> None:
    run = Path("-".join(["nan", command.name, *words.split()]))
    assert_stops(command, [*command.words(), *words.split()], run)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
def test_a_loss_of_finetuning_that_becomes_nan(
    kind: str, make_command: Callable[[str], Any], assert_stops: Callable[..., None]
) -> None:
    begun = make_command("awdlm-train").run("--model", kind, "--max_steps", "1", "--run_dir", f"begun-{kind}")
    command = make_command("awdlm-finetune")
    assert_stops(command, [*command.words(), "--save", str(begun)], Path(f"nan-{kind}"))


@pytest.mark.parametrize(("command", "words"), MODELS[:-1], indirect=["command"])
def test_steps_that_are_much_too_large(command: Any, words: str, refused: Refused, assert_sound: Sound) -> None:
    run = Path("-".join(["large", command.name, *words.split()]))
    given = [*words.split(), "--lr", "1e30", "--clip", "1e30", "--checkpoint_interval", "1"]
    assert re.match(r"Error: stopped a.* step ", refused(command, *given, "--run_dir", str(run)))
    assert not (run / "best.pt").exists()
    if command.name == "revrnn-train" or (run / "last.pt").exists():
        assert_sound(run / "last.pt", command.name)


def test_a_validation_loss_that_is_not_finite(
    language_model: Any,
    refused: Refused,
    assert_sound: Sound,
    replace_everywhere: Callable[..., None],
    rows_of: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, run = iter([2.0, float("nan")]), Path(f"invalid-{language_model.name}")
    replace_everywhere(monkeypatch, evaluate, lambda *_, **__: next(losses))
    line = refused(language_model, "--epochs", "2", "--batch_size", "8", "--run_dir", str(run))
    assert "the valid loss is nan after step" in line
    assert_sound(run / "best.pt", language_model.name)
    assert checkpoint.load(run / "last.pt")["place"]["epoch"] == 2
    assert len(rows_of(run, "valid")) == 1
