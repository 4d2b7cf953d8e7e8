"""Fixtures that every package's tests share: reference data, a tiny corpus, and tiny runs of commands.

Functions come as fixtures that return them, so that a test file finds them wherever it lies.
"""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import yaml
from rnncore import checkpoint, report
from rnncore.cache_folders import cache_root
from rnncore.metrics_file import read_metrics
from rnncore.report import plot as report_plot
from torch import Tensor

Rows = list[dict[str, Any]]
Run = Callable[..., Path]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data (corpora, golden numbers), beside the checkout or named by ``RNN_SHARED``."""
    folder = Path(os.environ.get("RNN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no reference data in {folder}; set RNN_SHARED to the folder that holds goldens/ and data/")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers wherever it stands among others."""
    torch.manual_seed(0)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def golden(shared: Path) -> Callable[[str], dict[str, Tensor]]:
    """Loads reference numbers by name."""

    def load(name: str) -> dict[str, Tensor]:
        with np.load(shared / "goldens" / f"{name}.npz") as file:
            return {key: torch.from_numpy(np.array(file[key])) for key in file.files}

    return load


# A tiny corpus with structure to learn, and where commands run.

WORDS = [first + second for first in "bdgklm" for second in ("a", "e", "o", "ua", "in")]


def markov_text(count: int, seed: int) -> str:
    """``count`` words in lines of nine. After most words one of two others follows, each with its own frequency."""
    draw, word, words = random.Random(seed), 0, []
    for _ in range(count):
        jump = 7 if draw.random() < 0.3 else 0
        word = (3 * word + 1 + jump) % len(WORDS) if draw.random() < 0.9 else draw.randrange(len(WORDS))
        words.append(WORDS[word])
    return "".join(" ".join(words[k : k + 9]) + "\n" for k in range(0, count, 9))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``train.txt``, ``valid.txt`` and ``test.txt`` of pseudo-words; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, (split, count) in enumerate({"train": 800, "valid": 200, "test": 90}.items()):
        (folder / f"{split}.txt").write_text(markov_text(count, number), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Path]:
    """Values of ``RNN_DATA`` (with the corpus under the names of data sets) and ``RNNCORE_CACHE``."""
    data, cache = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")
    for name in ("penn", "wikitext-2"):
        shutil.copytree(corpus, data / name)
    kernels = cache_root() / "native"  # compiled once for all tests, not once for each folder
    with contextlib.suppress(OSError):
        kernels.mkdir(parents=True, exist_ok=True)
    (cache / "native").symlink_to(kernels, target_is_directory=True)
    return {"RNN_DATA": data, "RNNCORE_CACHE": cache}


@pytest.fixture(scope="session")
def plot() -> Callable[..., object]:
    """What draws the curves of runs, also where no run does."""
    return report_plot


@pytest.fixture(scope="module")
def sandbox(caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data and caches in temporary folders, an empty working directory, and torch's threads put back at the end.

    No run draws its curves, which takes longer than the rest of it.
    """
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        for name, path in caches.items():
            patch.setenv(name, str(path))
        patch.chdir(folder)
        patch.setattr(report, "plot", lambda runs, output: output.touch())
        yield folder
    torch.set_num_threads(threads)


# Tiny runs of commands.

TINY = yaml.safe_load((Path(__file__).parent / "tiny_runs.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_words(corpus: Path) -> Callable[..., list[str]]:
    """``tiny_words(command, **places)``: the flags of a tiny run; the corpus has its place, others are given."""
    return lambda command, **places: TINY[command].format(corpus=corpus, **places).split()


@pytest.fixture(scope="session")
def runner() -> Callable[..., Run]:
    """``runner(main, words, name)`` makes ``run(*further)``: it runs a command and returns the run directory."""

    def make(main: click.Command, words: Sequence[str], name: str = "run") -> Run:
        numbers = itertools.count(1)

        def run(*further: str) -> Path:
            given = ["--run_dir", f"{name}{next(numbers)}", *further]
            main([*words, *given], standalone_mode=False)
            return Path.cwd() / given[len(given) - given[::-1].index("--run_dir")]

        return run

    return make


@pytest.fixture
def copy_files() -> Callable[[Path, Path], Path]:
    """``copy_files(source, folder)`` copies a directory's files, but no folders in it, and returns the new one."""

    def copy(source: Path, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return copy


@pytest.fixture
def data(corpus: Path, tmp_path: Path, copy_files: Callable[[Path, Path], Path]) -> Path:
    """A copy of the corpus that a test may spoil."""
    return copy_files(corpus, tmp_path / "data")


# What a run has written.

TIMES = {"ms", "tokens_per_s", "seconds", "peak_rss_mb"}
STARTERS = Path(__file__).parent / "starters"


def _rows_of(run: Path, *events: str) -> Rows:
    rows = read_metrics(run / "metrics.jsonl")
    chosen = [row for row in rows if not events or row["event"] in events]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in chosen]


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., Rows]:
    """``rows_of(run, *events)``: the metrics of a run, all or of some events, times apart."""
    return _rows_of


@pytest.fixture(scope="session")
def losses_of() -> Callable[..., list[float]]:
    """``losses_of(run, *events)``: the losses in those rows."""
    return lambda run, *events: [row["loss"] for row in _rows_of(run, *events)]


@pytest.fixture(scope="session")
def tokens_of() -> Callable[[Path, str], list[str]]:
    """``tokens_of(corpus, split)``: the words of a split, with its line ends."""
    return lambda corpus, split: (corpus / f"{split}.txt").read_text().replace("\n", " <eos> ").split()


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[Path, bytes]]:
    """``contents(folder)``: every file below a folder."""
    return lambda folder: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def assert_sound() -> Callable[..., None]:
    """``assert_sound(file, kind, steps)``: the checkpoint can be read, and its weights are finite."""

    def check(file: Path, kind: str, steps: int | None = None) -> None:
        saved = checkpoint.load(file, kind=kind)
        assert all(bool(weight.isfinite().all()) for weight in saved["model"].values())
        assert steps is None or saved["log"]["global_step"] == steps

    return check


# Mistakes, damage, and several processes.


@pytest.fixture
def refusal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[click.Command, Sequence[str]], str]:
    """``refusal(command, words)`` runs a command that must end with status 2 and one line of error: that line.

    Before it stands at most what the core logged, such as where it found the data.
    """

    def run(command: click.Command, words: Sequence[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(list(words))
        errors = capsys.readouterr().err
        assert stopped.value.code == 2
        *notes, line = errors.splitlines(keepends=True)
        assert re.fullmatch(r"Error: .*\n", line), errors
        assert all(note.rstrip("\n") in caplog.messages for note in notes), errors
        return line

    return run


@pytest.fixture(scope="session")
def damage() -> Callable[[str, Path], None]:
    """``damage(how, file)``: a file that is ``"cut off"``, has ``"another bit"``, or is ``"empty"``."""

    def spoil(how: str, file: Path) -> None:
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        if how == "another bit":
            content[middle] ^= 1
        file.write_bytes({"cut off": content[:middle], "another bit": content, "empty": b""}[how])

    return spoil


@pytest.fixture(scope="session")
def rank_starter() -> Iterator[subprocess.Popen[str]]:
    """A process that starts others which find each other, as torchrun does, but has imported torch once for all."""
    command, pipe = [sys.executable, str(STARTERS / "ranks.py")], subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun has it
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, env=environment) as starter:
        yield starter


@pytest.fixture(scope="session")
def in_ranks(rank_starter: subprocess.Popen[str]) -> Callable[..., list[tuple[int, str]]]:
    """``in_ranks(script, words, size)`` runs a script in so many processes: of each its status and what it told.

    The script finds ``words`` as its arguments and its number as ``rank``.
    """

    def run(script: str, words: Sequence[str] = (), size: int = 2) -> list[tuple[int, str]]:
        assert rank_starter.stdin is not None
        assert rank_starter.stdout is not None
        job = script, list(words), size, os.getcwd(), dict(os.environ)
        rank_starter.stdin.write(json.dumps(job) + "\n")
        rank_starter.stdin.flush()
        codes = json.loads(rank_starter.stdout.readline())
        return [(code, Path(f"rank{rank}.txt").read_text()) for rank, code in enumerate(codes)]

    return run
