"""Building and loading C++ operators: one build per content, one warning when there is none, two processes at once."""

import ctypes
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rnncore import native

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
SOURCE = 'extern "C" int answer() { return 42; }\n'

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RNNCORE_NATIVE", raising=False)
    monkeypatch.setattr(native, "_SHARED", tmp_path / "shared")  # where the core has no sources
    monkeypatch.setattr(native, "_told", set())


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one line for each run of the compiler."""
    log = tmp_path / "compilations"
    log.touch()
    script = tmp_path / "counting-compiler"
    script.write_text(f'#!/bin/sh\necho run >> "{log}"\nexec "{COMPILER}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    return log


def source_file(folder: Path, text: str = SOURCE, name: str = "kernels.cpp") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def code_to_load(source: Path) -> str:
    """For a process of its own, in which the core has no sources either."""
    shared = source.parent / "shared"
    lines = ["from pathlib import Path", "from rnncore import native", f"native._SHARED = Path({str(shared)!r})"]
    return "\n".join([*lines, f"assert native.load(Path({str(source)!r}))"])


def built(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "native").iterdir())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_only_x86_is_asked_for_vectors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers for other processors refuse an option that they do not know."""
    told = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        told.append([flag for flag in native._flags() if "vector" in flag])
    assert told == [["-mprefer-vector-width=512"], []]


@needs_compiler
def test_a_source_becomes_a_library(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert native.load(source_file(tmp_path / "a"))
    (library,) = built(tmp_path)
    assert ctypes.CDLL(str(library)).answer() == 42
    assert warnings(caplog) == []


@needs_compiler
def test_the_same_content_is_compiled_once(tmp_path: Path, compilations: Path) -> None:
    first, second = source_file(tmp_path / "a"), source_file(tmp_path / "b")
    assert native.load(first)
    assert native.load(first)
    assert native.load(second)
    assert compilations.read_text() == "run\n"
    assert len(built(tmp_path)) == 1


@needs_compiler
def test_what_will_be_wanted_is_compiled_with_it(
    tmp_path: Path, compilations: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The core's sources and those beside it; one that fails is told when it is wanted itself."""
    caplog.set_level(logging.INFO, logger="rnncore")
    first, other = source_file(tmp_path / "a"), source_file(tmp_path / "a", SOURCE + "// other\n", "more.cpp")
    core = source_file(tmp_path / "shared", SOURCE + "// core\n", "core.cpp")
    broken = source_file(tmp_path / "shared", "int broken( {\n", "worse.cpp")
    assert native.load(first)
    assert len(built(tmp_path)) == 3
    assert compilations.read_text() == "run\n" * 4
    assert [record.getMessage() for record in caplog.records] == [
        "compiling kernels.cpp, more.cpp, core.cpp, worse.cpp; this happens once"
    ]
    assert native.load(other)
    assert native.load(core)
    assert compilations.read_text() == "run\n" * 4
    assert not native.load(broken)
    assert len(warnings(caplog)) == 1


def test_ctrl_c_stops_compiling(
    tmp_path: Path, compilations: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The terminal sends it to the compiler, too; nothing further is compiled, and it is not called a failure."""
    (tmp_path / "counting-compiler").write_text(f'#!/bin/sh\necho run >> "{compilations}"\nkill -INT $$\n')
    monkeypatch.setattr(native, "usable_cores", lambda: 1)
    sources = [source_file(tmp_path / "a", SOURCE + f"// {number}\n", f"{number}.cpp") for number in range(9)]
    with pytest.raises(KeyboardInterrupt):
        native.load(sources[0])
    assert compilations.read_text() == "run\n"
    assert warnings(caplog) == []
    assert built(tmp_path) == []


@needs_compiler
def test_other_content_is_compiled_anew(tmp_path: Path, compilations: Path) -> None:
    assert native.load(source_file(tmp_path / "a"))
    assert native.load(source_file(tmp_path / "b", SOURCE.replace("42", "43")))
    assert compilations.read_text() == "run\nrun\n"
    assert sorted(ctypes.CDLL(str(library)).answer() for library in built(tmp_path)) == [42, 43]


@needs_compiler
def test_headers_beside_the_source_are_part_of_the_content(tmp_path: Path, compilations: Path) -> None:
    text = '#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n'
    for folder, number in (("a", 42), ("b", 43), ("c", 42)):
        source = source_file(tmp_path / folder, text)
        (tmp_path / folder / "answer.h").write_text(f"#define ANSWER {number}\n")
        assert native.load(source)
    assert compilations.read_text() == "run\nrun\n"
    assert sorted(ctypes.CDLL(str(library)).answer() for library in built(tmp_path)) == [42, 43]


@needs_compiler
def test_shared_headers_are_part_of_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: Path
) -> None:
    source = source_file(tmp_path / "a", '#include "shared.h"\nextern "C" int answer() { return ANSWER; }\n')
    monkeypatch.setattr(native, "_SHARED", tmp_path)
    for number in (42, 43):
        (tmp_path / "shared.h").write_text(f"#define ANSWER {number}\n")
        native.load.cache_clear()
        assert native.load(source)
    assert compilations.read_text() == "run\nrun\n"
    assert sorted(ctypes.CDLL(str(library)).answer() for library in built(tmp_path)) == [42, 43]


@needs_compiler
def test_another_torch_or_processor_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_file(tmp_path / "a")
    keys = {native._key(source)}
    monkeypatch.setattr(native.torch, "__version__", "1.0.0")
    keys.add(native._key(source))
    monkeypatch.setattr(native.platform, "machine", lambda: "vax")
    keys.add(native._key(source))
    assert len(keys) == 3


def test_a_missing_compiler_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    source = source_file(tmp_path / "a")
    assert not native.load(source)
    assert not native.load(source)
    (message,) = warnings(caplog)
    assert "no-such-compiler" in message
    assert "install a C++ compiler, or set RNNCORE_NATIVE=0" in message
    assert "\n" not in message


@needs_compiler
def test_a_failing_build_is_one_warning_and_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = source_file(tmp_path / "a", "int broken( {\n")
    assert not native.load(source)
    assert not native.load(source)
    (message,) = warnings(caplog)
    assert "error" in message
    assert "\n" not in message
    assert built(tmp_path) == []


def test_a_cache_folder_that_cannot_be_made_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path / "file"))
    assert not native.load(source_file(tmp_path / "a"))
    assert not native.load(source_file(tmp_path / "b", SOURCE + "// of another package\n"))
    (message,) = warnings(caplog)
    assert f"({tmp_path / 'file' / 'native'} cannot be used: Not a directory)" in message
    assert message.endswith("; set RNNCORE_CACHE to another folder, or set RNNCORE_NATIVE=0")
    assert "compiler" not in message


@needs_compiler
def test_a_folder_whose_programs_may_not_run_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load_library(path: str) -> None:
        """As torch on a file system that is mounted with noexec."""
        loader = OSError(f"{path}: failed to map segment from shared object")
        raise OSError(f"Could not load this library: {path}") from loader

    monkeypatch.setattr(native.torch.ops, "load_library", load_library)
    assert not native.load(source_file(tmp_path / "a"))
    assert not native.load(source_file(tmp_path / "b", SOURCE.replace("42", "43")))
    (message,) = warnings(caplog)
    assert f"({tmp_path / 'cache' / 'native'} cannot be used: failed to map segment from shared object)" in message
    assert "set RNNCORE_CACHE to another folder" in message


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("$$.h:3:1: fatal error: y.h: No such file or directory", "name another C++ compiler in CXX"),
        ("ld: final link failed: No space left on device\ncollect2: error: ld returned 1", "make room on the disk"),
    ],
)
def test_each_cause_is_one_warning_with_its_remedy(
    said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "failing-compiler"
    script.write_text(
        f'#!/bin/sh\necho "$*" | grep -q other.cpp && echo "error: other" >&2 || echo "{said}" >&2\nexit 1\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    for name in ("first.cpp", "second.cpp", "other.cpp"):
        assert not native.load(source_file(tmp_path / name, SOURCE, name))
    message, other = warnings(caplog)
    assert f"{said.splitlines()[0].removeprefix('$$')})" in message
    assert message.endswith(f"; {remedy}, or set RNNCORE_NATIVE=0")
    assert "(error: other)" in other


@needs_compiler
def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_file(tmp_path / "a")
    assert native.load(source)
    (library,) = built(tmp_path)
    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "native" / library.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a library")
    subprocess.run([sys.executable, "-W", "error", "-c", code_to_load(source)], check=True, timeout=120)
    assert damaged.read_bytes()[:4] == library.read_bytes()[:4]


@needs_compiler
def test_switched_off_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RNNCORE_NATIVE", "0")
    assert not native.load(source_file(tmp_path / "a"))
    assert not (tmp_path / "cache").exists()
    assert warnings(caplog) == []


@needs_compiler
def test_two_processes_build_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler of each waits until the other's runs too, so that both write the same library."""
    script, marks = tmp_path / "waiting-compiler", tmp_path / "marks"
    marks.mkdir()
    script.write_text(
        f'#!/bin/sh\ntouch "{marks}/$$"\nn=0\n'
        f'while [ $(ls "{marks}" | wc -l) -lt 2 ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done\n'
        f'exec "{COMPILER}" "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    source = source_file(tmp_path / "a")
    command = [sys.executable, "-W", "error", "-c", code_to_load(source)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(list(marks.iterdir())) == 2
    (library,) = built(tmp_path)
    assert ctypes.CDLL(str(library)).answer() == 42
