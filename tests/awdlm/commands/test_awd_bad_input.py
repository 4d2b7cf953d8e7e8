"""Mistakes on the command lines: one clear line each."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from awdlm.generate import main as generate_main
from awdlm.pointer import main as pointer_main

Run = Callable[..., Path]
Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--wdrop", "1"], "--wdrop must be at least 0 and below 1"),
        (["--clip", "0"], "--clip must be above 0"),
        (["--seed", str(2**40)], "--seed must be at least 0 and at most 4294967295"),
        (["--model", "RNN"], "--model must be one of LSTM, GRU, QRNN"),
        (["--model", "lstm"], "--model must be one of LSTM, GRU, QRNN, not 'lstm'"),
        (["--optimizer", "asgd"], "--optimizer must be one of sgd, adam"),
        (["--level", "byte"], "--level must be one of word, character"),
        (["--when", "5", "9", "--epochs", "8"], "--when 9 is past the last epoch, --epochs 8"),
        (["--when", "0"], "--when must be at least 1"),
        (["--when"], "--when needs at least one value"),
        (["--save", "nowhere/PTB.pt"], "cannot write --save nowhere/PTB.pt: there is no folder nowhere"),
        (["--save", "."], "cannot write --save .: it is a folder; name a file"),
    ],
)
def test_a_command_line_that_cannot_run(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, "--run_dir", "never")
    assert not Path("never").exists()


@pytest.mark.parametrize("words", [["--cuda", "--device", "auto"], ["--device", "cuda"], ["--device", "cuda:1"]])
@pytest.mark.parametrize(("command", "flag"), [(pointer_main, "--save"), (generate_main, "--checkpoint")])
def test_no_gpu_for_a_trained_model(
    command: click.Command, flag: str, words: list[str], run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(flag, str(run), *words, command=command)
    assert "asks for a GPU" in line
    assert "use --device cpu" in line


@pytest.mark.parametrize("words", [[], ["--nlayers", "1"], ["--tied"]])
def test_a_qrnn_without_weight_drop(words: list[str], train: Run, losses_of: Callable[..., list[float]]) -> None:
    """The original could not."""
    run = train("--model", "QRNN", "--wdrop", "0", "--max_steps", "5", *words)
    assert all(0 < loss < 9 for loss in losses_of(run, "step", "valid", "test"))


@pytest.fixture(scope="module")
def run(train: Run) -> Path:
    return train("--max_steps", "1")


def test_a_file_that_is_no_checkpoint(corpus: Path, refused: Refused) -> None:
    assert "is damaged" in refused("--save", str(corpus / "train.txt"), command=pointer_main)


def test_no_model_to_write_text_with(refused: Refused) -> None:
    expected = "there is no model.pt, and there is no run in runs/awdlm-train; name a checkpoint with --checkpoint"
    assert expected in refused(command=generate_main)
