"""Run directories: names, guards against mixing runs, and which run is the newest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.run_directory import RunDirectory, latest

CONFIG = {"data": "penn", "lr": 20.0, "when": [25, 35], "note": "Ä", "resume": None, "cuda": False}


def test_files_and_configuration(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run", command="demo", config=CONFIG)
    assert run.path == tmp_path / "deep" / "run"
    text = run.config_file.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == CONFIG
    assert list(yaml.safe_load(text)) == list(CONFIG)  # in the order of the command's options
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments[0].startswith("# demo, rnncore ")
    assert torch.__version__ in comments[2]
    names = ("last.pt", "best.pt", "metrics.jsonl", "log.txt", "config.yaml", "vocab.txt", "tensorboard")
    paths = (run.last, run.best, run.metrics, run.log_file, run.config_file, run.vocabulary, run.events)
    assert paths == tuple(run.path / name for name in names)


def test_a_command_line_with_line_breaks_stays_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--note", "a\nlr: 1"])
    run = RunDirectory.create(tmp_path, command="demo", config=CONFIG)
    assert yaml.safe_load(run.config_file.read_text(encoding="utf-8")) == CONFIG


def test_default_paths_differ_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "2020-02-02_20-20-20")
    runs = [RunDirectory.create(None, command="demo", config={}) for _ in range(3)]
    stamp = "2020-02-02_20-20-20"
    assert [run.path.name for run in runs] == [stamp, f"{stamp}_2", f"{stamp}_3"]
    assert {run.path.parent for run in runs} == {Path("runs", "demo")}


@pytest.mark.parametrize("name", ["last.pt", "last.previous.pt"])
def test_a_run_is_not_overwritten(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path / name, {"number": 1})
    with pytest.raises(UserError) as caught:
        RunDirectory.create(tmp_path, command="demo", config={})
    assert caught.value.message == f"{tmp_path} holds a run; --resume continues it, or choose another --run_dir"
    assert os.listdir(tmp_path) == [name]
    assert RunDirectory.reopen(tmp_path).path == tmp_path


def test_rests_of_a_run_without_a_checkpoint_are_removed(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, command="demo", config={})
    run.events.mkdir()
    rests = (run.metrics, run.log_file, run.best, run.events / "events.out.tfevents.1")
    for file in (*rests, tmp_path / "mine.txt"):
        file.write_text("old")
    run.close()
    RunDirectory.create(tmp_path, command="demo", config={})
    assert not any(file.exists() for file in rests)
    assert (tmp_path / "mine.txt").exists()


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("mine")
    RunDirectory.create(tmp_path, command="demo", config={})
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_what_cannot_be_resumed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing holds no run to resume: there is no last\.pt"):
        RunDirectory.reopen(tmp_path / "nothing")
    checkpoint.save(tmp_path / "last.pt", {})
    assert RunDirectory.reopen(tmp_path / "last.pt").path == tmp_path
    with pytest.raises(UserError, match=r"nowhere holds no run to resume: there is no last\.pt"):
        RunDirectory.reopen(tmp_path / "nowhere" / "last.pt")
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: File exists"):
        RunDirectory.create(tmp_path / "last.pt", command="demo", config={})


def test_latest_goes_by_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run in .*demo; name its directory with --run_dir"):
        latest("demo", root=tmp_path)
    for name, seconds in (("a", 300), ("b", 100), ("c", 200)):
        run = RunDirectory.create(tmp_path / "demo" / name, command="demo", config={})
        checkpoint.save(run.last, {})
        os.utime(run.last, (seconds, seconds))
    (tmp_path / "demo" / "newer-without-checkpoint").mkdir()
    (tmp_path / "demo" / "file.txt").touch()
    assert latest("demo", root=tmp_path) == tmp_path / "demo" / "a"
    os.utime(tmp_path / "demo" / "b" / "last.pt", (400, 400))
    assert latest("demo", root=tmp_path) == tmp_path / "demo" / "b"


HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="holds the lock with fcntl")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {})
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use by another process; wait for it, or choose another --run_dir"):
            RunDirectory.reopen(tmp_path)
        other.kill()
    RunDirectory.reopen(tmp_path)


TRY = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("held")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="tries the lock with fcntl")
def test_the_lock_is_held_until_closed(tmp_path: Path) -> None:
    def seen_by_another_process() -> str:
        command = [sys.executable, "-c", TRY, str(tmp_path / ".lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    run = RunDirectory.create(tmp_path, command="demo", config={})
    assert seen_by_another_process() == "held"
    run.close()
    assert seen_by_another_process() == "free"
    run.close()
    run = RunDirectory.create(tmp_path, command="demo", config={})
    assert seen_by_another_process() == "held"
    del run
    assert seen_by_another_process() == "free"
