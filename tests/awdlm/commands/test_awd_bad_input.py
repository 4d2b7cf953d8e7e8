"""Bad input and bad luck: one clear line, exit status 2, no traceback, and nothing lost."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from awdlm import training as training_module
from awdlm.finetune import main as finetune_main
from awdlm.generate import main as generate_main
from awdlm.options import FINETUNE, TRAIN
from awdlm.pointer import main as pointer_main
from awdlm.run_state import Training
from awdlm.train import main
from rnncore import checkpoint

Run = Callable[..., Path]
Refused = Callable[..., str]
Rows = Callable[..., list[dict[str, Any]]]
Contents = Callable[[Path], dict[Path, bytes]]
Damage = Callable[[str, Path], None]
Sound = Callable[..., None]
BeforeStep = Callable[..., None]

pytestmark = pytest.mark.usefixtures("sandbox")

COMMANDS = {"train": main, "finetune": finetune_main, "pointer": pointer_main, "generate": generate_main}
BAD = [
    (name, flag.name, value)
    for name, command in COMMANDS.items()
    for flag in command.flags
    if flag.kind in (int, float)
    for value in ("-2", "nan", *["inf"] * (flag.kind is float))
]


@pytest.mark.parametrize(("name", "flag", "value"), BAD)
def test_a_number_out_of_range(
    name: str, flag: str, value: str, refusal: Callable[[click.Command, Sequence[str]], str]
) -> None:
    line = refusal(COMMANDS[name], [flag, value])
    assert line.startswith(f"Error: {flag} must be ")
    assert line.rpartition("not ")[2].strip("'").startswith(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--emsize", "1.5"], "--emsize must be a whole number, not '1.5'"),
        (["--dropout", "1"], "--dropout must be at least 0 and below 1"),
        (["--wdrop", "1"], "--wdrop must be at least 0 and below 1"),
        (["--clip", "0"], "--clip must be above 0"),
        (["--seed", str(2**40)], "--seed must be at least 0 and at most 4294967295"),
        (["--model", "RNN"], "--model must be one of LSTM, GRU, QRNN"),
        (["--model", "lstm"], "--model must be one of LSTM, GRU, QRNN, not 'lstm'"),
        (["--optimizer", "asgd"], "--optimizer must be one of sgd, adam"),
        (["--level", "byte"], "--level must be one of word, character"),
        (["--amp", "fp16"], "--amp must be one of bf16"),
        (["--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N"),
        (["--when", "5", "9", "--epochs", "8"], "--when 9 is past the last epoch, --epochs 8"),
        (["--when", "0"], "--when must be at least 1"),
        (["--when"], "--when needs at least one value"),
        (["--no_such_flag"], "unknown flag '--no_such_flag'"),
        (["--lr"], "--lr needs a value"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
        (["--data", "nowhere"], "'nowhere' is no directory and no data set"),
        (["--data", "wikitext-103"], "get it with 'rnn-data get wikitext-103'"),
        (["--batch_size", "500"], "train.txt has 889 tokens, but 500 columns need 1000; use a smaller --batch_size"),
        (["--save", "nowhere/PTB.pt"], "cannot write --save nowhere/PTB.pt: there is no folder nowhere"),
        (["--save", "."], "cannot write --save .: it is a folder; name a file"),
    ],
)
def test_a_command_line_that_cannot_run(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, "--run_dir", "never")
    assert not Path("never").exists()


@pytest.mark.parametrize("words", [["--cuda", "--device", "auto"], ["--device", "cuda"], ["--device", "cuda:1"]])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_gpu(
    name: str,
    words: list[str],
    run: Path,
    refusal: Callable[[click.Command, Sequence[str]], str],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = {"train": arguments, "generate": ["--checkpoint", str(run)]}.get(name, ["--save", str(run)])
    line = refusal(COMMANDS[name], [*before, *words])
    assert "asks for a GPU" in line
    assert "use --device cpu" in line


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "has no {0}.txt"),
        (b"", "{0}.txt holds no text"),
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


@pytest.mark.parametrize("words", [[], ["--nlayers", "1"], ["--tied"]])
def test_a_qrnn_without_weight_drop(words: list[str], train: Run, losses_of: Callable[..., list[float]]) -> None:
    """The original could not."""
    run = train("--model", "QRNN", "--wdrop", "0", "--max_steps", "5", *words)
    assert all(0 < loss < 9 for loss in losses_of(run, "step", "valid", "test"))


@pytest.fixture(scope="module")
def run(train: Run) -> Path:
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
    "another kind": "is a checkpoint of revrnn-train, not of awdlm-train",
}


@pytest.mark.parametrize(("how", "expected"), DAMAGES.items())
def test_a_checkpoint_that_cannot_be_read(
    how: str, expected: str, copied: Path, damage: Damage, contents: Contents, refused: Refused
) -> None:
    best, last = copied / "best.pt", copied / "last.pt"
    for file in (best, last):
        if how == "another kind":
            checkpoint.save(file, checkpoint.load(file) | {"kind": "revrnn-train"}, keep_previous=False)
        else:
            damage(how, file)
    before = contents(copied)
    line = refused("--resume", str(copied))
    assert f"{last} {expected}" in line
    assert expected != "is damaged" or f"its predecessor {copied / 'last.previous.pt'} is whole" in line
    assert f"{best} {expected}" in refused("--save", str(copied), command=finetune_main)
    assert f"{best} {expected}" in refused("--save", str(best), command=pointer_main)
    assert f"{best} {expected}" in refused("--checkpoint", str(copied), command=generate_main)
    assert {file: content for file, content in contents(copied).items() if file.name != ".lock"} == {
        file: content for file, content in before.items() if file.name != ".lock"
    }


def test_a_file_that_is_no_checkpoint(corpus: Path, refused: Refused) -> None:
    assert "is damaged" in refused("--save", str(corpus / "train.txt"), command=pointer_main)


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
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
        ([], "there is no model.pt, and there is no run in runs/awdlm-train; name a checkpoint with --checkpoint"),
        (["--top_k", "0"], "--top_k must be at least 1"),
        (["--top_p", "0"], "--top_p must be above 0"),
        (["--words", "0"], "--words must be at least 1"),
        (["--seed", str(2**70)], "--seed must be at least 0 and at most"),
        (["--device", "gpu"], "--device must be"),
    ],
)
def test_text_that_cannot_be_written(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, command=generate_main)


def test_a_run_directory_that_cannot_be_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"cannot write {tmp_path / 'file' / 'run'}" in refused("--run_dir", str(tmp_path / "file" / "run"))


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
    before_step(monkeypatch, training_module, 5, little_space(file_limit))
    line = refused("--run_dir", "full", "--checkpoint_interval", "3")
    assert "cannot write full/last.pt: no space left; the previous checkpoint is intact" in line
    assert_sound(Path("full/last.pt"), TRAIN, 3)
    assert not list(Path("full").glob("*.tmp"))


def test_a_disk_that_fills_while_the_result_of_finetuning_is_written(
    run: Path, refused: Refused, small_steps: list[str], file_limit: Callable[[int], None]
) -> None:
    before = (run / "best.pt").read_bytes()
    file_limit(len(before) - 999)
    line = refused("--save", str(run), *small_steps, "--run_dir", "no-result", command=finetune_main)
    file_limit(-1)  # none
    assert "cannot write no-result/best.pt: no space left" in line
    assert (run / "best.pt").read_bytes() == before
    assert not (run / "best.finetuned.pt").exists()


def test_a_run_goes_on_when_there_is_space_again(
    train: Run,
    refused: Refused,
    file_limit: Callable[[int], None],
    before_step: BeforeStep,
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["--epochs", "1", "--checkpoint_interval", "3"]
    with monkeypatch.context() as patch:
        before_step(patch, training_module, 5, little_space(file_limit))
        refused(*words, "--run_dir", "again")
    file_limit(-1)
    main(["--resume", "again"], standalone_mode=False)
    assert rows_of(Path("again")) == rows_of(train(*words))


def spoil(training: Training) -> None:
    """Make one weight NaN."""
    weight: Any = next(weight for name, weight in training.model.named_parameters() if name.startswith("layers"))
    with torch.no_grad():
        weight[0, 0] = float("nan")


@pytest.mark.parametrize("name", ["train", "finetune"])
@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
def test_a_loss_that_becomes_nan(
    name: str,
    model: str,
    train: Run,
    small_steps: list[str],
    refused: Refused,
    before_step: BeforeStep,
    assert_sound: Sound,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, words, command = Path(f"nan-{name}-{model}"), ["--model", model], COMMANDS[name]
    if name == "finetune":
        words = [*small_steps, "--save", str(train(*words, "--max_steps", "1"))]
    before_step(monkeypatch, training_module, 9, spoil)
    line = refused(*words, "--run_dir", str(run), "--checkpoint_interval", "4", command=command)
    assert line == (
        "Error: stopped at step 9: the weights are no longer finite numbers; use a smaller --lr or --clip; "
        "the last checkpoint is from before it\n"
    )
    assert_sound(run / "last.pt", TRAIN if name == "train" else FINETUNE, 8)


@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
def test_steps_that_are_much_too_large(model: str, refused: Refused, assert_sound: Sound) -> None:
    run = Path(f"large-{model}")
    words = ["--model", model, "--lr", "1e30", "--clip", "1e30", "--checkpoint_interval", "1"]
    line = refused(*words, "--run_dir", str(run))
    assert "Error: stopped a" in line
    assert " step " in line
    assert not (run / "best.pt").exists()
    if (run / "last.pt").exists():
        assert_sound(run / "last.pt", TRAIN)


def test_a_validation_loss_that_is_not_finite(
    refused: Refused, assert_sound: Sound, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, float("nan")])
    monkeypatch.setattr(training_module, "evaluate", lambda *_: next(losses))
    line = refused("--epochs", "2", "--run_dir", "invalid")
    assert "the valid loss is nan after step" in line
    assert_sound(Path("invalid/best.pt"), TRAIN)
    assert checkpoint.load(Path("invalid/last.pt"))["place"]["epoch"] == 2
    assert len(rows_of(Path("invalid"), "valid")) == 1
