"""Tiny runs of the commands."""

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from rnncore import report
from rnncore.cache_folders import cache_root
from rnncore.metrics_file import read_metrics
from urlstm import train_adding, train_copy, train_images, train_language

MAINS: dict[str, click.Command] = {
    "adding": train_adding.main,
    "copy": train_copy.main,
    "images": train_images.main,
    "language": train_language.main,
}
EVERY = "--threads 1 --device cpu --log_interval 5 --checkpoint_interval 7"
#: Sizes so small that a run takes a second; the steps of an epoch are no multiple of the checkpoints' interval.
TINY = {
    "adding": "--seq_length 9 --hidden_size 8 --batch_size 50 --n_steps 40 --valid_interval 10",
    "copy": "--time_lag 4 --hidden_size 8 --batch_size 50 --n_steps 40 --valid_interval 10",
    "images": "--dataset_type digits --hidden_size 8 --hidden_size_relu 6 --batch_size 100 --n_epochs 3",
    "language": "--embedding_size 8 --hidden_size 12 --batch_size 4 --seq_length 9 --n_epochs 3",
}
TIMES = {"ms", "tokens_per_s", "seconds", "peak_rss_mb"}


def text(count: int, seed: int) -> str:
    """``count`` words in lines of nine; each word says much about the next."""
    draw, word, words = random.Random(seed), 0, []
    for _ in range(count):
        word = (3 * word + 1 + (draw.random() < 0.3)) % 13
        words.append("abcdefghijklm"[word])
    return "".join(" ".join(words[k : k + 9]) + "\n" for k in range(0, count, 9))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a corpus ``text``, caches of its own, and torch's threads put back at the end."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("work")
    (folder / "text").mkdir()
    for number, (split, count) in enumerate({"train": 800, "valid": 200, "test": 90}.items()):
        (folder / "text" / f"{split}.txt").write_text(text(count, number), encoding="utf-8")
    kernels = cache_root() / "native"  # compiled once for all tests, not once for each folder
    (folder / "cache").mkdir()
    with contextlib.suppress(OSError):
        kernels.mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "native").symlink_to(kernels, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNNCORE_CACHE", str(folder / "cache"))
        patch.setenv("RNN_DATA", str(folder / "data"))
        patch.chdir(folder)
        patch.setattr(report, "plot", lambda runs, output: output.touch())  # drawing takes as long as a tiny run
        yield folder
    torch.set_num_threads(threads)


def arguments(task: str) -> list[str]:
    """The flags of a tiny run."""
    data = ["--data", "text"] if task == "language" else []
    return [*data, *TINY[task].split(), *EVERY.split()]


@pytest.fixture(scope="module")
def launch(sandbox: Path) -> Callable[..., Path]:
    """``launch(task, *words)`` runs a task's command at tiny sizes in this process; gives the run directory.

    ``words`` are parts of a command line.
    """
    count = 0

    def run(task: str, *words: str) -> Path:
        nonlocal count
        split = [part for word in words for part in word.split()]
        count += 1
        place = [] if "--run_dir" in split else ["--run_dir", f"{task}{count}"]
        MAINS[task]([*arguments(task), *place, *split], standalone_mode=False)
        return sandbox / f"{task}{count}"

    return run


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """``rows_of(run, *events)``: the metrics of a run, times apart; of some events only."""

    def read(run: Path, *events: str) -> list[dict[str, Any]]:
        rows = read_metrics(run / "metrics.jsonl")
        chosen = [row for row in rows if not events or row["event"] in events]
        return [{key: value for key, value in row.items() if key not in TIMES} for row in chosen]

    return read


@pytest.fixture
def refused(sandbox: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused(command, *words)``: a command that must end with status 2 and one line of error, which it returns."""

    def run(command: click.Command, *words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(list(words))
        errors = capsys.readouterr().err
        assert stopped.value.code == 2
        assert re.fullmatch(r"Error: .*\n", errors), errors
        return errors

    return run
