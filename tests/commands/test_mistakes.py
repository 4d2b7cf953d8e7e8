"""Mistakes on a command line or in the data: one clear line, exit status 2, and nothing begun."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch

Refused = Callable[..., str]
Refusal = Callable[[click.Command, Sequence[str]], str]

pytestmark = pytest.mark.usefixtures("sandbox")

NUMBERS = ["awdlm-train", "awdlm-finetune", "awdlm-pointer", "awdlm-generate", "revrnn-train", "selfish-train"]
NUMBERS += ["selfish-train-onlstm", "selfish-train-mos", "selfish-generate"]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range(name: str, command_named: Callable[[str], Any], refusal: Refusal) -> None:
    pytest.importorskip(name.partition("-")[0])
    main = command_named(name)
    flags = [flag for flag in main.flags if flag.kind in (int, float)]
    assert len(flags) > 3
    for flag in flags:
        for value in ("-2", "nan", *["inf"] * (flag.kind is float)):
            line = refusal(main, [flag.name, value])
            assert line.startswith(f"Error: {flag.name} must be ")
            assert line.rpartition("not ")[2].strip("'").startswith(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--no_such_flag", "unknown flag '--no_such_flag'"),
        ("surplus", "unexpected argument 'surplus'"),
        ("--seed", "seed needs a value"),
        (f"--seed {2**40}", "seed must "),
        ("--seed 1.5", "seed must be a whole number, not '1.5'"),
        ("--amp fp16", "--amp must be one of bf16"),
        ("--device gpu", "--device must be auto, cpu, cuda or cuda:N"),
        ("--config nowhere.yaml", "cannot read the configuration nowhere.yaml"),
        ("--config own.yaml", "own.yaml: unknown key 'no_such_key'"),
    ],
)
def test_a_command_line_that_cannot_run(command: Any, words: str, expected: str, refused: Refused) -> None:
    Path("own.yaml").write_text("no_such_key: 1\n")
    assert expected in refused(command, *words.split(), "--run_dir", "never")
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--data nowhere", "'nowhere' is no directory and no data set"),
        ("--data wikitext-103", "get it with 'rnn-data get wikitext-103'"),
        ("--batch_size 500", "train.txt has 889 tokens, but 500 columns need 1000; use a smaller --batch_size"),
        ("--lr", "--lr needs a value"),
        ("--dropout 1", "--dropout must be at least 0 and below 1"),
        ("--emsize 1.5", "size must be a whole number, not '1.5'"),
    ],
)
def test_what_a_language_model_cannot_learn(language_model: Any, words: str, expected: str, refused: Refused) -> None:
    given = words.replace("--emsize", "--emb_size" if language_model.name == "revrnn-train" else "--emsize").split()
    assert expected in refused(language_model, *given, "--run_dir", "never")
    assert not Path("never").exists()


GPU = ["--cuda --device auto", "--device cuda", "--device cuda:1"]


@pytest.mark.parametrize("words", GPU)
def test_no_gpu(command: Any, words: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--cuda" in words and "--cuda" not in {flag.name for flag in command.main.flags}:
        pytest.skip("it has no --cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(command, *words.split())
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
def test_a_bad_split(
    language_model: Any, split: str, content: bytes | None, expected: str, data: Path, refused: Refused
) -> None:
    file = data / f"{split}.txt"
    file.unlink() if content is None else file.write_bytes(content)
    assert expected.format(split) in refused(language_model, "--data", str(data), "--run_dir", "never")
    assert not Path("never").exists()


def test_a_validation_text_that_is_too_short(language_model: Any, data: Path, refused: Refused) -> None:
    (data / "valid.txt").write_text("ba de ba\n")
    line = refused(language_model, "--data", str(data), "--run_dir", "never")
    assert re.search(r"valid\.txt has 4 tokens, but (\d+) columns need \d+; use a longer text", line)
    assert not Path("never").exists()


def test_a_run_directory_that_cannot_be_made(command: Any, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"cannot write {tmp_path / 'file' / 'run'}" in refused(command, "--run_dir", str(tmp_path / "file" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_run_directory_without_permission(command: Any, refused: Refused, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write" in refused(command, "--run_dir", str(tmp_path / "run"))


def test_a_run_directory_in_use(command: Any, used: str, refused: Refused) -> None:
    assert "used is in use by another process" in refused(command, "--run_dir", used)
