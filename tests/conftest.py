"""Fixtures that every package's tests share: reference data, a tiny corpus, and what is done with runs of commands.

Functions come as fixtures that return them, so that a test file finds them wherever it lies.
"""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import torch
from rnncore import checkpoint
from rnncore.cache_folders import cache_root
from rnncore.metrics_file import read_metrics
from rnncore.run_log import RunLog
from torch import Tensor

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data (corpora, golden numbers), beside the checkout or named by ``RNN_SHARED``."""
    folder = Path(os.environ.get("RNN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no reference data in {folder}; set RNN_SHARED to the folder that holds goldens/ and data/")
    return folder


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
METRICS_PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


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


def documented_keys(event: str) -> dict[str, str]:
    """The keys of an event's table in docs/metrics.md and their types."""
    section = METRICS_PAGE.read_text().partition(f"## `{event}`")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))


@pytest.fixture(scope="session")
def assert_documented() -> Callable[..., Rows]:
    """``assert_documented(run, *further)``: the lines of a run on words have the keys that docs/metrics.md says.

    Lines of steps have ``further`` ones. Returns the lines.
    """

    def check(run: Path, *further: str) -> Rows:
        types = {"integer": int, "number": float}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            event, keys = line["event"], documented_keys(line["event"])
            more = set(further) if event == "step" else set()
            assert line.keys() == set(keys) - {"bpc", "peak_cuda_mb"} | {"event"} | more
            assert all(type(line[key]) is types[keys[key]] for key in line.keys() & keys.keys())
            if "ppl" in line:
                assert line["ppl"] == pytest.approx(math.exp(line["loss"]))
        assert [line["event"] for line in lines][-3:] == ["valid", "test", "end"]
        return lines

    return check


# Mistakes, and bad luck at a given step.


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[click.Command, Sequence[str]], str]:
    """``refusal(command, words)`` runs a command that must end with status 2 and one line of error: that line."""

    def run(command: click.Command, words: Sequence[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(list(words))
        errors = capsys.readouterr().err
        assert stopped.value.code == 2
        assert re.fullmatch(r"Error: .*\n", errors), errors
        return errors

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


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes, as a full disk would."""
    resource = pytest.importorskip("resource")  # Unix has it
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


HOLD = """
import sys
from pathlib import Path
from rnncore.run_directory import RunDirectory

run = RunDirectory.create(Path(sys.argv[1]), command="x", config={})
print("ready", flush=True)
input()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[str], None]]:
    """``hold(folder)``: another process has this run directory, until the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(folder: str) -> None:
            command, pipe = [sys.executable, "-c", HOLD, folder], subprocess.PIPE
            other = stack.enter_context(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe))
            stack.callback(other.kill)
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"

        yield start


@pytest.fixture(scope="session")
def before_step() -> Callable[..., None]:
    """``before_step(patch, module, number, action)`` calls ``action(training)`` right before a step.

    ``module`` holds the command's ``_step(training, inputs, targets)``.
    """

    def prepare(patch: pytest.MonkeyPatch, module: ModuleType, number: int, action: Callable[[Any], object]) -> None:
        step = module._step

        def prepared(training: Any, inputs: Tensor, targets: Tensor) -> Any:
            if training.log.global_step + 1 == number:
                action(training)
            return step(training, inputs, targets)

        patch.setattr(module, "_step", prepared)

    return prepare


@pytest.fixture(scope="session")
def interrupt() -> Callable[[], None]:
    """Ctrl-C."""
    return lambda: os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="session")
def interrupt_at(interrupt: Callable[[], None]) -> Callable[[pytest.MonkeyPatch, int], None]:
    """``interrupt_at(patch, number)``: Ctrl-C right after a step."""

    def prepare(patch: pytest.MonkeyPatch, number: int) -> None:
        step = RunLog.step

        def counted(log: RunLog, loss: Tensor, tokens: int, *, extra: Any = None) -> None:
            step(log, loss, tokens, extra=extra)
            if log.global_step == number:
                interrupt()

        patch.setattr(RunLog, "step", counted)

    return prepare


KILLED = """
import importlib, json, os, signal, sys
import torch._dynamo, torch.utils.tensorboard  # a run imports them late
from rnncore.run_log import RunLog

step = RunLog.step
for line in sys.stdin:
    module, fatal, words, folder, environment = json.loads(line)
    main = importlib.import_module(module).main
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    os.environ.update(environment)
    os.dup2(2, 1)
    def counted(log, *args, **kwargs):
        step(log, *args, **kwargs)
        if log.global_step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    RunLog.step = counted
    main(words)
"""


@pytest.fixture(scope="session")
def killed_processes() -> Iterator[subprocess.Popen[str]]:
    """A process that starts commands in processes of their own; what takes seconds to import is imported once."""
    command, pipe = [sys.executable, "-c", KILLED], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as starter:
        yield starter


@pytest.fixture(scope="session")
def kill_at(killed_processes: subprocess.Popen[str]) -> Callable[[str, int, Sequence[str], Path], Rows]:
    """``kill_at(module, number, words, run)``: kill -9 for another process, whose command is ``main`` of a module.

    It happens right after a step, and in the middle of a line of the metrics. Returns the metrics so far.
    """

    def start(module: str, number: int, words: Sequence[str], run: Path) -> Rows:
        assert killed_processes.stdin is not None
        assert killed_processes.stdout is not None
        job = module, number, [*words, "--run_dir", str(run)], os.getcwd(), dict(os.environ)
        killed_processes.stdin.write(json.dumps(job) + "\n")
        killed_processes.stdin.flush()
        assert int(killed_processes.stdout.readline()) == -signal.SIGKILL
        rows = _rows_of(run)
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"event": "st')
        return rows

    return start


@pytest.fixture(scope="session")
def middle() -> Callable[[Path], int]:
    """``middle(run)``: a step in the middle of the third epoch, 3 past a checkpoint of that epoch at every 7th."""

    def find(run: Path) -> int:
        ends = {row["epoch"]: row["step"] for row in _rows_of(run, "valid")}
        found = next(number for number in range((ends[2] + ends[3]) // 2, ends[3]) if number % 7 == 3)
        assert ends[2] < found - 3 < ends[3]
        return found

    return find


RANKS = """
import faulthandler, json, os, signal, socket, sys
import torch._dynamo, torch.distributed, torch.utils.tensorboard

for line in sys.stdin:
    script, words, size, folder, environment = json.loads(line)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child:
            children.append(child)
            continue
        signal.alarm(60)
        os.chdir(folder)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(environment, **{name: str(value) for name, value in place.items()})
        output = os.open(f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs
        sys.argv = ["script", *words]
        exec(script, {"__name__": "__main__", "rank": rank})
        sys.exit()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@pytest.fixture(scope="session")
def rank_starter() -> Iterator[subprocess.Popen[str]]:
    """A process that starts others which find each other, as torchrun does, but has imported torch once for all."""
    command, pipe = [sys.executable, "-c", RANKS], subprocess.PIPE
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
