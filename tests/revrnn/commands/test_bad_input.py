"""Bad input and bad luck: one clear line, exit status 2, no traceback, and nothing lost."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from revrnn import train as train_module
from revrnn.generate import main as generate
from revrnn.options import COMMAND
from revrnn.run_state import Training
from revrnn.train import main
from rnncore import checkpoint

Train = Callable[..., Path]
Refused = Callable[..., str]
Rows = Callable[..., list[dict[str, Any]]]
Contents = Callable[[Path], dict[Path, bytes]]
Damage = Callable[[str, Path], None]
Sound = Callable[..., None]
BeforeStep = Callable[..., None]

pytestmark = pytest.mark.usefixtures("sandbox")

NUMBERS = [flag.name for flag in main.flags if flag.kind in (int, float)]
FRACTIONS = [flag.name for flag in main.flags if flag.kind is float]


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, "-2") for name in NUMBERS), *((name, "nan") for name in NUMBERS), *((name, "inf") for name in FRACTIONS)],
)
def test_a_number_out_of_range(name: str, value: str, refused: Refused) -> None:
    line = refused(name, value)
    assert line.startswith(f"Error: {name} must be ")
    assert line.rpartition("not ")[2].strip("'").startswith(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--h_size", "33"], "--h_size 33 must be even"),
        (["--emb_size", "33"], "--emb_size 33 must be even"),
        (["--emb_size", "1.5"], "--emb_size must be a whole number, not '1.5'"),
        (["--dropout", "1"], "--dropout must be at least 0 and below 1"),
        (["--max_forget", "1.5"], "--max_forget must be above 0 and at most 1"),
        (["--lr_decay", "0.5"], "--lr_decay must be at least 1"),
        (["--seed", str(2**40)], "--seed must lie between"),
        (["--model", "revrnn"], "--model must be one of gru, lstm, revgru, revlstm"),
        (["--amp", "fp16"], "--amp must be one of bf16"),
        (["--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N"),
        (["--no_such_flag"], "unknown flag '--no_such_flag'"),
        (["--lr"], "--lr needs a value"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
        (["--model", "lstm", "--use_reverse"], "--use_reverse needs --model revgru or revlstm"),
        (["--data", "nowhere"], "'nowhere' is no directory and no data set"),
        (["--data", "wikitext-103"], "get it with 'rnn-data get wikitext-103'"),
        (["--batch_size", "500"], "train.txt has 889 tokens, but 500 columns need 1000; use a smaller --batch_size"),
    ],
)
def test_a_command_line_that_cannot_run(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, "--run_dir", "never")
    assert not Path("never").exists()


@pytest.mark.parametrize("words", [["--cuda", "--device", "auto"], ["--device", "cuda"], ["--device", "cuda:1"]])
def test_no_gpu(words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(*words)
    assert "asks for a GPU" in line
    assert "use --device cpu" in line


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "has no {0}.txt"),
        (b"", "{0}.txt holds no text"),
        (b" \n\n \n", "{0}.txt holds no text"),
        (b"one two\nthree \xff four\n", "{0}.txt, line 2: invalid UTF-8"),
    ],
)
def test_a_bad_split(split: str, content: bytes | None, expected: str, data: Path, refused: Refused) -> None:
    file = data / f"{split}.txt"
    file.unlink() if content is None else file.write_bytes(content)
    assert expected.format(split) in refused("--data", str(data), "--run_dir", "never")
    assert not Path("never").exists()


def test_a_validation_text_that_is_too_short(data: Path, refused: Refused) -> None:
    (data / "valid.txt").write_text("ba de ba\n")
    line = refused("--data", str(data), "--run_dir", "never")
    assert "valid.txt has 4 tokens, but 10 columns need 20; use a longer text" in line
    assert not Path("never").exists()


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    """Seven steps of a run, a checkpoint at every third."""
    return train("--max_steps", "7", "--checkpoint_interval", "3")


@pytest.fixture
def copied(run: Path, tmp_path: Path, copy_files: Callable[[Path, Path], Path]) -> Path:
    """A copy of the run's files that a test may spoil."""
    return copy_files(run, tmp_path / "copied")


def test_a_directory_that_holds_a_run(run: Path, contents: Contents, refused: Refused) -> None:
    before = contents(run)
    assert "holds a run; --resume continues it" in refused("--run_dir", str(run))
    assert contents(run) == before


DAMAGES = {
    "cut off": "is damaged",
    "another bit": "is damaged",
    "empty": "is damaged",
    "another kind": f"is a checkpoint of awdlm-train, not of {COMMAND}",
}


@pytest.mark.parametrize(("how", "expected"), DAMAGES.items())
def test_a_checkpoint_that_cannot_be_read(
    how: str, expected: str, copied: Path, damage: Damage, contents: Contents, refused: Refused
) -> None:
    for file in (copied / "last.pt", copied / "best.pt"):
        if how == "another kind":
            checkpoint.save(file, checkpoint.load(file) | {"kind": "awdlm-train"}, keep_previous=False)
        else:
            damage(how, file)
    before = contents(copied)
    line = refused("--resume", str(copied))
    assert f"{copied / 'last.pt'} {expected}" in line
    assert expected != "is damaged" or f"its predecessor {copied / 'last.previous.pt'} is whole" in line
    assert f"{copied / 'best.pt'} {expected}" in refused("--run_dir", str(copied), command=generate)
    after = contents(copied)
    after.pop(copied / ".lock", None)
    before.pop(copied / ".lock", None)
    assert after == before


def test_the_predecessor_takes_the_place_of_a_damaged_checkpoint(
    copied: Path, run: Path, damage: Damage, rows_of: Rows
) -> None:
    damage("cut off", copied / "last.pt")
    os.replace(copied / "last.previous.pt", copied / "last.pt")
    main(["--resume", str(copied), "--max_steps", "7"], standalone_mode=False)
    assert rows_of(copied) == rows_of(run)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--run_dir", "nowhere"], "there is no checkpoint"),
        ([], "there is no run"),
        (["--checkpoint", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--temperature", "-1"], "--temperature must be at least 0"),
        (["--temperature", "nan"], "--temperature must be a finite number"),
        (["--top_k", "0"], "--top_k must be at least 1"),
        (["--top_p", "0"], "--top_p must be above 0"),
        (["--words", "0"], "--words must be at least 1"),
        (["--seed", str(2**70)], "--seed must be at least 0 and at most"),
        (["--device", "gpu"], "--device must be"),
    ],
)
def test_text_that_cannot_be_written(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, command=generate)


def test_a_run_directory_that_cannot_be_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"cannot write {tmp_path / 'file' / 'run'}" in refused("--run_dir", str(tmp_path / "file" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_run_directory_without_permission(refused: Refused, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write" in refused("--run_dir", str(tmp_path / "run"))


def test_a_run_directory_in_use(refused: Refused, hold: Callable[[str], None]) -> None:
    hold("used")
    assert "used is in use by another process" in refused("--run_dir", "used")


def little_space(file_limit: Callable[[int], None]) -> Callable[[Training], None]:
    """Lets the disk be full when the next checkpoint is written."""
    return lambda training: file_limit(training.run.last.stat().st_size - 999)


def test_a_disk_that_fills_while_a_checkpoint_is_written(
    refused: Refused,
    file_limit: Callable[[int], None],
    before_step: BeforeStep,
    assert_sound: Sound,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_step(monkeypatch, train_module, 5, little_space(file_limit))
    line = refused("--run_dir", "full", "--checkpoint_interval", "3")
    assert "cannot write full/last.pt: no space left; the previous checkpoint is intact" in line
    assert_sound(Path("full/last.pt"), COMMAND, 3)
    assert not list(Path("full").glob("*.tmp"))


def test_a_run_goes_on_when_there_is_space_again(
    train: Train,
    refused: Refused,
    file_limit: Callable[[int], None],
    before_step: BeforeStep,
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["--model", "gru", "--epochs", "1", "--checkpoint_interval", "3"]
    with monkeypatch.context() as patch:
        before_step(patch, train_module, 5, little_space(file_limit))
        refused(*words, "--run_dir", "again")
    file_limit(-1)  # none
    main(["--resume", "again"], standalone_mode=False)
    assert rows_of(Path("again")) == rows_of(train(*words))


def spoil(training: Training) -> None:
    """Make a row of weights NaN, of which dropout leaves some."""
    weight: Any = next(parameter for name, parameter in training.model.named_parameters() if "hh" in name)
    with torch.no_grad():
        weight[0] = float("nan")


@pytest.mark.parametrize("words", [["--model", "lstm"], ["--use_reverse"], ["--model", "revlstm"]])
def test_a_loss_that_becomes_nan(
    words: list[str],
    refused: Refused,
    before_step: BeforeStep,
    assert_sound: Sound,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(f"nan-{words[-1]}")
    before_step(monkeypatch, train_module, 9, spoil)
    line = refused(*words, "--run_dir", str(run), "--checkpoint_interval", "4")
    assert line == (
        "Error: stopped at step 9: the weights are no longer finite numbers; use a smaller --lr or --clip; "
        "the last checkpoint is from before it\n"
    )
    assert_sound(run / "last.pt", COMMAND, 8)
    monkeypatch.undo()


@pytest.mark.parametrize("words", [["--model", "lstm"], ["--model", "gru"], ["--use_reverse"], ["--model", "revlstm"]])
def test_steps_that_are_much_too_large(words: list[str], refused: Refused, assert_sound: Sound) -> None:
    run = Path(f"large-{words[-1]}")
    line = refused(*words, "--lr", "1e30", "--clip", "1e30", "--run_dir", str(run), "--checkpoint_interval", "1")
    assert "Error: stopped a" in line
    assert " step " in line
    assert_sound(run / "last.pt", COMMAND)
    assert not (run / "best.pt").exists()


def test_a_validation_loss_that_is_not_finite(
    refused: Refused, assert_sound: Sound, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, float("nan")])
    monkeypatch.setattr(train_module, "evaluate", lambda *_: next(losses))
    line = refused("--model", "gru", "--epochs", "2", "--run_dir", "invalid")
    assert "the valid loss is nan after step" in line
    assert_sound(Path("invalid/best.pt"), COMMAND)
    assert checkpoint.load(Path("invalid/last.pt"))["place"]["epoch"] == 2
    assert len(rows_of(Path("invalid"), "valid")) == 1
