"""Checkpoints that are damaged, of another command or not there, and a disk that is full: nothing is lost."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from rnncore import checkpoint

Refused = Callable[..., str]
Refusal = Callable[[click.Command, Sequence[str]], str]
Rows = Callable[..., list[dict[str, Any]]]
Contents = Callable[[Path], dict[Path, bytes]]
Copy = Callable[[Path, Path], Path]

#: Seven steps, a checkpoint at every third.
SEVEN = ["--max_steps", "7", "--checkpoint_interval", "3"]
#: What else reads a run's best model.
READERS = {
    "awdlm-train": ["awdlm-finetune --save {0}", "awdlm-pointer --save {0}/best.pt", "awdlm-generate --checkpoint {0}"],
    "revrnn-train": ["revrnn-generate --run_dir {0}"],
    "selfish-train": [
        "selfish-train --evaluate {0}",
        "selfish-train --evaluate {0}/best.pt",
        "selfish-generate --checkpoint {0}",
    ],
    "rmc-train": ["rmc-generate --checkpoint {0}", "rmc-attention {0} --text ba"],
    "rmc-train-rnn": ["rmc-generate-rnn --checkpoint {0}"],
}
#: What reads checkpoints of several commands.
READERS_OF_ANY = {"selfish-train": ["selfish-export {0}", "selfish-distances {0} --text ba"]}


@pytest.fixture(scope="module")
def run(command: Any) -> Path:
    return command.run(*SEVEN)


@pytest.fixture
def copied(run: Path, tmp_path: Path, copy_files: Copy) -> Path:
    """A copy of the run's files that a test may spoil."""
    return copy_files(run, tmp_path / "copied")


def test_a_directory_that_holds_a_run(command: Any, run: Path, contents: Contents, refused: Refused) -> None:
    before = contents(run)
    assert "holds a run; --resume continues it" in refused(command, "--run_dir", str(run))
    assert contents(run) == before


@pytest.mark.parametrize("how", ["cut off", "another bit", "empty", "another kind"])
def test_a_checkpoint_that_cannot_be_read(
    how: str,
    command: Any,
    copied: Path,
    damage: Callable[[str, Path], None],
    contents: Contents,
    refusal: Refusal,
    command_named: Callable[[str], click.Command],
) -> None:
    best, last = copied / "best.pt", copied / "last.pt"
    for file in (best, last):
        if how == "another kind":
            checkpoint.save(file, checkpoint.load(file) | {"kind": "another-command"}, keep_previous=False)
        else:
            damage(how, file)
    before = contents(copied)
    expected = "is a checkpoint of another-command" if how == "another kind" else "is damaged"
    line = refusal(command.main, ["--resume", str(copied)])
    assert f"{last} {expected}" in line
    if how == "another kind":
        assert f"not of {command.name}" in line
    else:
        assert f"its predecessor {copied / 'last.previous.pt'} is whole" in line
    of_any = [] if how == "another kind" else READERS_OF_ANY.get(command.name, [])
    for reader in [*READERS.get(command.name, []), *of_any]:
        name, *words = reader.format(copied).split()
        assert f"{best} {expected}" in refusal(command_named(name), words)
    locks = dict.fromkeys([copied / ".lock"])
    assert contents(copied) | locks == before | locks


def test_the_predecessor_takes_the_place_of_a_damaged_checkpoint(
    command: Any, copied: Path, run: Path, damage: Callable[[str, Path], None], rows_of: Rows
) -> None:
    damage("cut off", copied / "last.pt")
    os.replace(copied / "last.previous.pt", copied / "last.pt")
    command.resume(copied, "--max_steps", "7")
    assert rows_of(copied) == rows_of(run)


def test_a_disk_that_fills_while_a_checkpoint_is_written(
    command: Any,
    run: Path,
    refused: Refused,
    file_limit: Callable[[int], None],
    before_step: Callable[..., None],
    assert_sound: Callable[..., None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run goes on when there is space again."""
    full = Path(f"full-{command.name}")
    last = full / "last.pt"
    with monkeypatch.context() as patch:
        before_step(patch, 5, lambda _: file_limit(last.stat().st_size - 999))
        line = refused(command, *SEVEN, "--run_dir", str(full))
    file_limit(-1)
    assert f"cannot write {last}: no space left; the previous checkpoint is intact" in line
    assert_sound(last, command.name, 3)
    assert not list(full.glob("*.tmp"))
    command.resume(full, "--max_steps", "7")
    assert rows_of(full) == rows_of(run)


def test_a_disk_that_fills_while_the_result_of_finetuning_is_written(
    make_command: Callable[[str], Any], refusal: Refusal, file_limit: Callable[[int], None]
) -> None:
    command = make_command("awdlm-finetune")
    words = command.words()
    model = Path(words[words.index("--save") + 1])
    before = model.read_bytes()
    file_limit(len(before) - 999)
    line = refusal(command.main, [*words, "--run_dir", "no-result"])
    file_limit(-1)
    assert "cannot write no-result/best.pt: no space left" in line
    assert model.read_bytes() == before
    assert not model.with_name(f"{model.stem}.finetuned.pt").exists()


@pytest.mark.parametrize("place", ["nowhere", "empty", "nowhere/last.pt"])
def test_no_run_to_resume(place: str, command: Any, refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no run to resume" in refusal(command.main, ["--resume", str(tmp_path / place)])


def test_the_best_model_alone_cannot_be_resumed(command: Any, run: Path, refusal: Refusal) -> None:
    line = refusal(command.main, ["--resume", str(run / "best.pt")])
    assert "best.pt is a model without the state of its training; resume from" in line


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("awdlm-train", "awdlm-finetune"),
        ("selfish-train", "selfish-train-onlstm"),
        ("rmc-train", "rmc-train-rnn"),
        ("urlstm-copy", "urlstm-adding"),
    ],
    indirect=["command"],
)
def test_a_run_of_another_command(
    command: Any, other: str, run: Path, refusal: Refusal, command_named: Callable[[str], click.Command]
) -> None:
    line = refusal(command_named(other), ["--resume", str(run)])
    assert f"last.pt is a checkpoint of {command.name}, not of {other}" in line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("awdlm-train", "--emsize 32: was begun with --emsize 16, not 32"),
        ("awdlm-train", "--model QRNN: was begun with --model LSTM, not QRNN"),
        ("awdlm-train", "--tied: was begun with --tied True, not False"),
        ("awdlm-train", "--seed 2: was begun with --seed 1111, not 2"),
        ("awdlm-train", "--optimizer adam: was begun with --optimizer sgd, not adam"),
        ("awdlm-train", "--nonmono 2: was begun with --nonmono 5, not 2"),
        ("awdlm-train", "--amp bf16: was begun with --amp None, not bf16"),
        ("awdlm-train", "--epochs 3 --when 4: --when 4 is past the last epoch"),
        ("awdlm-train", "--run_dir elsewhere: leave --run_dir elsewhere out"),
        ("revrnn-train", "--emb_size 32: was begun with --emb_size 16, not 32"),
        ("revrnn-train", "--model lstm: was begun with --model revgru, not lstm"),
        ("revrnn-train", "--seed 2: was begun with --seed 1111, not 2"),
        ("revrnn-train", "--amp bf16: was begun with --amp None, not bf16"),
        ("revrnn-train", "--run_dir elsewhere: leave --run_dir elsewhere out"),
        ("revrnn-nmt-train", "-rnn_size 18: was begun with -rnn_size 16, not 18"),
        ("selfish-train", "--emsize 32: was begun with --emsize 16, not 32"),
        ("selfish-train", "--model RHN: was begun with --model LSTM, not RHN"),
        ("selfish-train", "--sparse: was begun with --sparse False, not True"),
        ("selfish-train", "--optimizer adam: was begun with --optimizer sgd, not adam"),
        ("rmc-train", "--memslots 2: was begun with --memslots 1, not 2"),
        ("rmc-train", "--variant sonnet: was begun with --variant port, not sonnet"),
        ("rmc-train-rnn", "--model GRU: was begun with --model LSTM, not GRU"),
        ("rmc-nth-farthest", "--objects 4: was begun with --objects 3, not 4"),
        ("urlstm-adding", "--hidden_size 9: was begun with --hidden_size 8, not 9"),
        ("urlstm-adding", "--model_type gru: was begun with --model_type ur-lstm, not gru"),
        ("urlstm-copy", "--delimiter: was begun with --delimiter False, not True"),
        ("urlstm-images", "--dataset_type p-mnist: was begun with --dataset_type digits, not p-mnist"),
        ("urlstm-language", "--reset_state: was begun with --reset_state False, not True"),
    ],
    indirect=["command"],
)
def test_what_would_make_it_another_run(
    command: Any, words: str, run: Path, contents: Contents, refusal: Refusal
) -> None:
    before = contents(run)
    given, _, expected = words.partition(": ")
    assert expected in refusal(command.main, ["--resume", str(run), *given.split()])
    assert contents(run) == before


def test_data_may_move_but_not_change(language_model: Any, data: Path, refusal: Refusal) -> None:
    run = language_model.run("--max_steps", "2")
    language_model.resume(run, "--data", str(data), "--max_steps", "2")
    (data / "train.txt").write_text("other words " * 50)
    line = refusal(language_model.main, ["--resume", str(run), "--data", str(data)])
    assert re.search("has another vocabulary than the (model; give the|run to resume; give its) --data", line)
