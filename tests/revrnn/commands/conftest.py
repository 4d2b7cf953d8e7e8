"""A tiny corpus with structure to learn, and runs of the commands on it."""

import contextlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch
from revrnn.train import main
from rnncore.cache_folders import cache_root

WORDS = [first + second for first in "bdgklm" for second in ("a", "e", "o", "ua", "in")]
TINY = {"emb_size": 16, "h_size": 12, "batch_size": 4, "bptt": 10, "threads": 1, "device": "cpu", "log_interval": 5}
SMALL = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]


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


@pytest.fixture(scope="module")
def sandbox(caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data and caches in temporary folders, an empty working directory, and torch's threads put back at the end."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        for name, path in caches.items():
            patch.setenv(name, str(path))
        patch.chdir(folder)
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def arguments(sandbox: Path, corpus: Path) -> list[str]:
    """The corpus and small sizes, for ``revrnn-train``."""
    return ["--data", str(corpus), *SMALL]


@pytest.fixture(scope="module")
def train(sandbox: Path, arguments: list[str]) -> Callable[..., Path]:
    """``train(*words)`` runs ``revrnn-train`` at small sizes in this process and returns the run directory."""
    count = 0

    def run(*words: str) -> Path:
        nonlocal count
        count += 1
        main([*arguments, "--run_dir", f"run{count}", *words], standalone_mode=False)
        return sandbox / f"run{count}"

    return run


@pytest.fixture
def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused(*words)`` runs a command that must end with status 2 and one line of error, which it returns.

    ``command`` is the command; ``revrnn-train`` gets the small sizes first.
    """

    def run(*words: str, command: click.Command = main) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command([*arguments, *words] if command is main else words)
        errors = capsys.readouterr().err
        assert stopped.value.code == 2
        assert re.fullmatch(r"Error: .*\n", errors), errors
        return errors

    return run
