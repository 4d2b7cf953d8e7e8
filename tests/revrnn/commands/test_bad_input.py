"""Bad input and bad luck: one clear line, exit status 2, no traceback, and nothing lost."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from rnncore.metrics_file import read_metrics
from torch import Tensor

Train = Callable[..., Path]
Refused = Callable[..., str]

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


@pytest.fixture
def data(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may spoil."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in corpus.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


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
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's files that a test may spoil."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_directory_that_holds_a_run(run: Path, refused: Refused) -> None:
    before = contents(run)
    assert "holds a run; --resume continues it" in refused("--run_dir", str(run))
    assert contents(run) == before


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_it_another(file: Path) -> None:
    checkpoint.save(file, checkpoint.load(file) | {"kind": "awdlm-train"}, keep_previous=False)


DAMAGES = [
    (cut_off, "is damaged"),
    (flip_a_bit, "is damaged"),
    (lambda file: file.write_bytes(b""), "is damaged"),
    (make_it_another, f"is a checkpoint of awdlm-train, not of {COMMAND}"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES)
def test_a_checkpoint_that_cannot_be_read(
    damage: Callable[[Path], object], expected: str, copied: Path, refused: Refused
) -> None:
    damage(copied / "last.pt")
    damage(copied / "best.pt")
    before = contents(copied)
    line = refused("--resume", str(copied))
    assert f"{copied / 'last.pt'} {expected}" in line
    assert expected != "is damaged" or f"its predecessor {copied / 'last.previous.pt'} is whole" in line
    assert f"{copied / 'best.pt'} {expected}" in refused("--run_dir", str(copied), command=generate)
    after = contents(copied)
    after.pop(copied / ".lock", None)
    before.pop(copied / ".lock", None)
    assert after == before


def test_the_predecessor_takes_the_place_of_a_damaged_checkpoint(copied: Path, run: Path) -> None:
    cut_off(copied / "last.pt")
    os.replace(copied / "last.previous.pt", copied / "last.pt")
    main(["--resume", str(copied), "--max_steps", "7"], standalone_mode=False)
    losses = [[row.get("loss") for row in read_metrics(each / "metrics.jsonl")] for each in (copied, run)]
    assert losses[0] == losses[1]


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


HOLD = """
from pathlib import Path
from rnncore.run_directory import RunDirectory

run = RunDirectory.create(Path("used"), command="x", config={})
print("ready", flush=True)
input()
"""


def test_a_run_directory_in_use(refused: Refused) -> None:
    command, pipe = [sys.executable, "-c", HOLD], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        line = refused("--run_dir", "used")
        other.kill()
    assert "used is in use by another process" in line


Step = Callable[[Training, Tensor, Tensor], tuple[Tensor, dict[str, float]]]


def before_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[Training], object]) -> None:
    """Do something right before a step."""
    step: Step = train_module._step

    def prepared(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        if training.log.global_step + 1 == number:
            action(training)
        return step(training, inputs, targets)

    patch.setattr(train_module, "_step", prepared)


def assert_sound(file: Path, steps: int | None = None) -> None:
    """The checkpoint can be read, and its weights are finite."""
    saved = checkpoint.load(file, kind=COMMAND)
    assert all(bool(weight.isfinite().all()) for weight in saved["model"].values())
    assert steps is None or saved["log"]["global_step"] == steps


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_while_a_checkpoint_is_written(
    refused: Refused, file_limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(monkeypatch, 5, lambda training: file_limit(training.run.last.stat().st_size - 999))
    line = refused("--run_dir", "full", "--checkpoint_interval", "3")
    assert "cannot write full/last.pt: no space left; the previous checkpoint is intact" in line
    assert_sound(Path("full/last.pt"), steps=3)
    assert not list(Path("full").glob("*.tmp"))


def test_a_run_goes_on_when_there_is_space_again(
    train: Train, refused: Refused, file_limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", "gru", "--epochs", "1", "--checkpoint_interval", "3"]
    with monkeypatch.context() as patch:
        before_step(patch, 5, lambda training: file_limit(training.run.last.stat().st_size - 999))
        refused(*words, "--run_dir", "again")
    file_limit(resource.RLIM_INFINITY)
    main(["--resume", "again"], standalone_mode=False)
    whole = train(*words)
    losses = [[row.get("loss") for row in read_metrics(each / "metrics.jsonl")] for each in (Path("again"), whole)]
    assert losses[0] == losses[1]


def spoil(training: Training) -> None:
    """Make one weight NaN."""
    weight: Any = next(parameter for name, parameter in training.model.named_parameters() if "hh" in name)
    with torch.no_grad():
        weight[0, 0] = float("nan")


@pytest.mark.parametrize("words", [["--model", "lstm"], ["--use_reverse"], ["--model", "revlstm"]])
def test_a_loss_that_becomes_nan(words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(f"nan-{words[-1]}")
    before_step(monkeypatch, 9, spoil)
    line = refused(*words, "--run_dir", str(run), "--checkpoint_interval", "4")
    assert line == (
        "Error: stopped at step 9: the weights are no longer finite numbers; use a smaller --lr or --clip; "
        "the last checkpoint is from before it\n"
    )
    assert_sound(run / "last.pt", steps=8)
    monkeypatch.undo()


@pytest.mark.parametrize("words", [["--model", "lstm"], ["--model", "gru"], ["--use_reverse"], ["--model", "revlstm"]])
def test_steps_that_are_much_too_large(words: list[str], refused: Refused) -> None:
    run = Path(f"large-{words[-1]}")
    line = refused(*words, "--lr", "1e30", "--clip", "1e30", "--run_dir", str(run), "--checkpoint_interval", "1")
    assert "Error: stopped a" in line
    assert " step " in line
    assert_sound(run / "last.pt")
    assert not (run / "best.pt").exists()


def test_a_validation_loss_that_is_not_finite(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([2.0, float("nan")])
    monkeypatch.setattr(train_module, "evaluate", lambda *_: next(losses))
    line = refused("--model", "gru", "--epochs", "2", "--run_dir", "invalid")
    assert "the valid loss is nan after step" in line
    assert_sound(Path("invalid/best.pt"))
    assert checkpoint.load(Path("invalid/last.pt"))["place"]["epoch"] == 2
    assert [row["event"] for row in read_metrics(Path("invalid/metrics.jsonl"))].count("valid") == 1
