"""Each command that trains, as the tests here run it, and what can befall a run.

A test that asks for ``command`` is about all of them, one about ``language_model`` about those that train on the
tiny corpus; parametrised with names, indirectly, it is about those.
"""

import contextlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from rnncore import checkpoint
from rnncore.divergence import numbered_step
from rnncore.run_log import RunLog
from torch import Tensor

Rows = list[dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
TINY: dict[str, str] = yaml.safe_load((TESTS / "tiny_runs.yaml").read_text(encoding="utf-8"))
PROJECTS = [tomllib.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("packages/*/pyproject.toml")]
#: Where the function of a command lies.
SCRIPTS = {name: place for each in PROJECTS for name, place in each["project"].get("scripts", {}).items()}
RUN_NUMBERS = itertools.count(1)
INSTALLED = [name for name in TINY if find_spec(SCRIPTS[name].partition(".")[0])]
LANGUAGE_MODELS = [name for name in INSTALLED if "{corpus}" in TINY[name] and not name.startswith("urlstm")]


def main_of(name: str) -> click.Command:
    module, _, function = SCRIPTS[name].partition(":")
    main: click.Command = getattr(importlib.import_module(module), function)
    return main


class Command:
    """A command that trains, at small sizes."""

    def __init__(self, name: str, words: Callable[[], list[str]]) -> None:
        self.name, self.words, self.main = name, words, main_of(name)

    def run(self, *further: str) -> Path:
        """A run in this process: its directory."""
        given = ["--run_dir", f"{self.name}-{next(RUN_NUMBERS)}", *further]
        self.main([*self.words(), *given], standalone_mode=False)
        return Path.cwd() / given[len(given) - given[::-1].index("--run_dir")]

    def resume(self, *words: object) -> None:
        """A run, which is named first, goes on."""
        self.main(["--resume", *map(str, words)], standalone_mode=False)


@pytest.fixture(scope="module", autouse=True)
def pictures() -> Iterator[None]:
    """No run draws its masks or accuracies, which takes longer than the rest of it."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("selfish.command.draw_densities", "selfish.command.draw_overlap", "rmc.accuracy_plot.plot"):
            if find_spec(place.partition(".")[0]):
                patch.setattr(place, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def numbers(sandbox: Path, corpus: Path) -> Path:
    """Lines of the corpus and the same lines backwards, preprocessed to be translated."""
    words = ["-save_data", "pairs"]
    for split, count in {"train": 88, "valid": 20, "test": 9}.items():
        lines = [line.split()[:6] for line in (corpus / f"{split}.txt").read_text().splitlines()[:count]]
        for side, step in (("src", 1), ("tgt", -1)):
            Path(f"{split}.{side}").write_text("".join(" ".join(line[::step]) + "\n" for line in lines))
            words += [f"-{split}_{side}", f"{split}.{side}"]
    main_of("revrnn-nmt-preprocess")(words, standalone_mode=False)
    return sandbox / "pairs"


@pytest.fixture(scope="module")
def model(sandbox: Path, tiny_words: Callable[..., list[str]]) -> Path:
    """A model to finetune."""
    words = [*tiny_words("awdlm-train"), "--epochs", "1", "--lr", "3", "--run_dir", "begun"]
    main_of("awdlm-train")(words, standalone_mode=False)
    return sandbox / "begun" / "best.pt"


@pytest.fixture(scope="module")
def make_command(
    sandbox: Path, tiny_words: Callable[..., list[str]], request: pytest.FixtureRequest
) -> Callable[[str], Command]:
    """``make_command(name)``: a command, or a skipped test where its package is not installed."""

    def make(name: str) -> Command:
        pytest.importorskip(SCRIPTS[name].partition(".")[0])

        def words() -> list[str]:
            places = {}
            if "{numbers}" in TINY[name]:
                places["numbers"] = request.getfixturevalue("numbers")
            if "{model}" in TINY[name]:  # its result goes beside it
                places["model"] = sandbox / f"model{next(RUN_NUMBERS)}.pt"
                places["model"].write_bytes(request.getfixturevalue("model").read_bytes())
            return tiny_words(name, **places)

        return Command(name, words)

    return make


@pytest.fixture(scope="module", params=INSTALLED)
def command(request: pytest.FixtureRequest, make_command: Callable[[str], Command]) -> Command:
    return make_command(request.param)


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def language_model(request: pytest.FixtureRequest, make_command: Callable[[str], Command]) -> Command:
    return make_command(request.param)


@pytest.fixture(scope="session")
def command_named() -> Callable[[str], click.Command]:
    """``command_named("awdlm-generate")``: any command."""
    return main_of


@pytest.fixture
def refused(refusal: Callable[[click.Command, Sequence[str]], str]) -> Callable[..., str]:
    """``refused(command, *words)``: the one line of error of a tiny run."""
    return lambda command, *words: refusal(command.main, [*command.words(), *words])


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes, as a full disk would; -1 ends that."""
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


@pytest.fixture(scope="module")
def used(sandbox: Path) -> Iterator[str]:
    """A run directory that another process has."""
    words, pipe = [sys.executable, "-c", HOLD, "used"], subprocess.PIPE
    with subprocess.Popen(words, text=True, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        yield "used"
        other.kill()


@pytest.fixture(scope="session")
def interrupt() -> Callable[[], None]:
    """Ctrl-C."""
    return lambda: os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interrupted_at(
    interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """``with interrupted_at(number):`` a run that is stopped by Ctrl-C right after a step."""

    @contextlib.contextmanager
    def prepared(number: int) -> Iterator[None]:
        step, before = RunLog.step, signal.getsignal(signal.SIGINT)

        def counted(log: RunLog, loss: Tensor, tokens: int, *, extra: Any = None) -> None:
            step(log, loss, tokens, extra=extra)
            if log.global_step == number:
                interrupt()

        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "step", counted)
            with pytest.raises(SystemExit) as stopped:
                yield
        assert stopped.value.code == 130
        assert signal.getsignal(signal.SIGINT) is before

    return prepared


@pytest.fixture(scope="session")
def killed_processes() -> Iterator[subprocess.Popen[str]]:
    """A process that starts commands in processes of their own."""
    words, pipe = [sys.executable, str(TESTS / "starters" / "killed_runs.py")], subprocess.PIPE
    with subprocess.Popen(words, text=True, stdin=pipe, stdout=pipe) as starter:
        yield starter


@pytest.fixture(scope="session")
def kill_at(
    killed_processes: subprocess.Popen[str], rows_of: Callable[[Path], Rows]
) -> Callable[[Command, int, Sequence[str], Path], Rows]:
    """``kill_at(command, number, words, run)``: kill -9 for a tiny run in another process.

    It happens right after a step, and in the middle of a line of the metrics. Returns the metrics so far.
    """

    def start(command: Command, number: int, words: Sequence[str], run: Path) -> Rows:
        assert killed_processes.stdin is not None
        assert killed_processes.stdout is not None
        line = [*command.words(), *words, "--run_dir", str(run)]
        job = SCRIPTS[command.name].partition(":")[0], number, line, os.getcwd(), dict(os.environ)
        killed_processes.stdin.write(json.dumps(job) + "\n")
        killed_processes.stdin.flush()
        assert int(killed_processes.stdout.readline()) == -signal.SIGKILL
        rows = rows_of(run)
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"event": "st')
        return rows

    return start


@pytest.fixture(scope="session")
def replace_everywhere() -> Callable[[pytest.MonkeyPatch, object, object], None]:
    """``replace_everywhere(patch, real, other)``: each package that has imported a function by name gets another."""

    def replace(patch: pytest.MonkeyPatch, real: Any, other: object) -> None:
        name = real.__name__
        for module in list(sys.modules.values()):
            own = (getattr(module, "__file__", None) or "").startswith(str(TESTS))
            if not own and getattr(module, "__dict__", {}).get(name) is real:
                patch.setattr(module, name, other)

    return replace


@pytest.fixture(scope="session")
def before_step(replace_everywhere: Callable[..., None]) -> Callable[..., None]:
    """``before_step(patch, number, action)`` calls ``action(model)`` right before a step of a command."""

    def prepare(patch: pytest.MonkeyPatch, number: int, action: Callable[[Any], object]) -> None:
        def prepared(log: RunLog, model: Any, *, saved: bool) -> Any:
            if log.global_step + 1 == number:
                action(model)
            return numbered_step(log, model, saved=saved)

        replace_everywhere(patch, numbered_step, prepared)

    return prepare


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from leaves(part, f"{name}/{key}")


@pytest.fixture(scope="session")
def assert_same_state() -> Callable[[Path, Path], None]:
    """``assert_same_state(run, whole)``: all that training goes on from is the same, to the bit."""

    def check(run: Path, whole: Path) -> None:
        for file in ("last.pt", "best.pt"):
            ours, theirs = (dict(leaves(checkpoint.load(each / file))) for each in (run, whole))
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                if not name.startswith(("/config/", "/log/")):
                    tensor, other = isinstance(value, Tensor), theirs[name]
                    assert torch.equal(value, other) if tensor else value == other, name

    return check
