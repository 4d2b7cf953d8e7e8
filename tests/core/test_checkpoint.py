"""Checkpoints: round trips, damage, full disks, and kills between any two steps of saving."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rnncore import checkpoint
from rnncore.errors import UserError


def state_of(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    model = torch.nn.LSTM(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 2, 3, generator=generator))[0].sum().backward()
    optimizer.step()
    return {
        "kind": "demo-train",
        "config": {"model": "lstm", "lr": 20.0, "when": [25, 35], "resume": None},
        "model_state": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "vocabulary": ["<eos>", "Ärger", "the"],
        "number": number,
        "pair": (1, 2.5),
        "flags": {True, False},
    }


def assert_equal(left: object, right: object) -> None:
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


def test_round_trip(tmp_path: Path) -> None:
    state = state_of(1)
    checkpoint.save(tmp_path / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "last.pt", kind="demo-train", model="lstm")
    assert loaded.pop("format") == checkpoint.FORMAT
    assert_equal(state, loaded)
    assert "format" not in state
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_predecessor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    last = tmp_path / "last.pt"
    for number in (1, 2, 3):
        checkpoint.save(last, {"number": number})
    assert checkpoint.load(last)["number"] == 3
    assert checkpoint.load(tmp_path / "last.previous.pt")["number"] == 2
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


def test_predecessor_is_dropped_on_request(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path / "best.pt", {"number": number}, keep_previous=False)
    assert os.listdir(tmp_path) == ["best.pt"]
    assert checkpoint.load(tmp_path / "best.pt")["number"] == 2


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Path("x"), r"state\['config'\]\['data'\] is a \w+Path"),
        (np.float64(1), r"state\['config'\]\['data'\] is a float64"),
        ([1, [2, object()]], r"state\['config'\]\['data'\]\[1\]\[1\] is a object"),
    ],
)
def test_state_that_could_not_be_loaded_is_refused(tmp_path: Path, value: object, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        checkpoint.save(tmp_path / "last.pt", {"config": {"data": value}})
    assert os.listdir(tmp_path) == []


def test_every_truncation_is_told(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    for number in (1, 2):
        checkpoint.save(last, {"number": number, "weight": torch.arange(300.0)})
    whole = last.read_bytes()
    for length in range(0, len(whole), 41):
        last.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            checkpoint.load(last)
        message = caught.value.message
        assert message.startswith(f"the checkpoint {last} is damaged")
        assert f"its predecessor {tmp_path / 'last.previous.pt'} is whole" in message
        assert "\n" not in message


def test_flipped_bits_are_told(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    checkpoint.save(last, {"number": 1, "weight": torch.arange(40.0), "words": ["a", "b"]})
    whole = last.read_bytes()
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        last.write_bytes(damaged)
        with pytest.raises(UserError, match=r"last\.pt is damaged \(.+\)$"):
            checkpoint.load(last)


def test_torch_reads_the_file_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"weight": torch.arange(40.0)})
    loaded = torch.load(tmp_path / "last.pt", weights_only=True)
    assert torch.equal(loaded["weight"], torch.arange(40.0))


def test_a_damaged_predecessor_is_not_recommended(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    last.write_bytes(b"")
    (tmp_path / "last.previous.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"last\.pt is damaged \(it is cut off\)$"):
        checkpoint.load(last)


def test_missing_file_points_to_its_predecessor(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    with pytest.raises(UserError, match=r"there is no checkpoint .*last\.pt$"):
        checkpoint.load(last)
    checkpoint.save(tmp_path / "last.previous.pt", {})
    with pytest.raises(UserError, match=r"there is no checkpoint .*last\.previous\.pt is whole: rename it to last\.pt"):
        checkpoint.load(last)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    file.write_text("It is a text of more than a dozen bytes.")
    with pytest.raises(UserError, match=r"last\.pt is damaged \(it is cut off, or no checkpoint\)$"):
        checkpoint.load(file)
    torch.save({"format": checkpoint.FORMAT}, file)
    with pytest.raises(UserError, match=r"last\.pt is damaged \(it is cut off, or no checkpoint\)$"):
        checkpoint.load(file)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        checkpoint.load(tmp_path)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists()  # the trap works
    trap.path.unlink()
    monkeypatch.setattr(checkpoint, "_check_plain", lambda *_: None)
    checkpoint.save(tmp_path / "last.pt", {"trap": trap})
    with pytest.raises(UserError, match="not a checkpoint of these packages"):
        checkpoint.load(tmp_path / "last.pt")
    assert not trap.path.exists()


def test_format_kind_and_model_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"kind": "urlstm-lm", "config": {"model": "gru"}})
    with pytest.raises(UserError, match=r"last\.pt is a checkpoint of urlstm-lm, not of revrnn-train"):
        checkpoint.load(file, kind="revrnn-train")
    with pytest.raises(UserError, match=r"last\.pt holds the model gru, not lstm; use --model gru"):
        checkpoint.load(file, kind="urlstm-lm", model="lstm")
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(UserError, match=r"last\.pt has checkpoint format 1; this version reads format 2"):
        checkpoint.load(file)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "link", "replace"])
def test_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    last = tmp_path / "last.pt"
    checkpoint.save(last, {"number": 1})

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(UserError) as caught:
        checkpoint.save(last, {"number": 2})
    assert caught.value.message == f"cannot write {last}: no space left; the previous checkpoint is intact"
    monkeypatch.undo()
    assert checkpoint.load(last)["number"] == 1
    assert not list(tmp_path.glob("*.tmp"))
    checkpoint.save(last, {"number": 3})
    assert checkpoint.load(last)["number"] == 3


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from rnncore import checkpoint
from rnncore.errors import UserError
path = Path(sys.argv[1])
checkpoint.save(path, {"number": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for values in (25_000, 1_000_000):  # the limit falls into the last write, or far before it
    try:
        checkpoint.save(path, {"number": 2, "weight": torch.zeros(values)})
    except UserError as error:
        print(error.message)
print(checkpoint.load(path)["number"], sorted(file.name for file in path.parent.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_write_that_the_system_cuts_off(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(last)], capture_output=True, text=True, timeout=60
    )
    line = f"cannot write {last}: no space left; the previous checkpoint is intact\n"
    assert done.stdout == 2 * line + "1 ['last.pt']\n", done.stderr
    assert done.returncode == 0


def test_a_first_checkpoint_that_fails_promises_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere.last\.pt: No such file or directory$"):
        checkpoint.save(tmp_path / "nowhere" / "last.pt", {})


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from rnncore import checkpoint

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def write_half(state, file):
    file.write(bytes(100))
    file.flush()
    die()

for step in ("write", "fsync", "link", "replace"):
    path = Path(sys.argv[1], step, "last.pt")
    path.parent.mkdir()
    for number in (1, 2):
        checkpoint.save(path, {"number": number, "weight": torch.full((1000,), float(number))})
    child = os.fork()
    if child == 0:
        if step == "write":
            torch.save = write_half
        else:
            setattr(os, step, die)
        checkpoint.save(path, {"number": 3, "weight": torch.full((1000,), 3.0)})
        os._exit(0)
    print(step, os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes to kill")
def test_kill_at_each_step_of_saving(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    killed = f" {int(signal.SIGKILL)}\n"
    assert done.stdout == killed.join(("write", "fsync", "link", "replace", "")), done.stderr
    for step in ("write", "fsync", "link", "replace"):
        last = tmp_path / step / "last.pt"
        assert (tmp_path / step / "last.pt.tmp").exists()  # it did die between the first byte and the rename
        loaded = checkpoint.load(last)
        assert loaded["number"] == 2
        assert torch.equal(loaded["weight"], torch.full((1000,), 2.0))
        checkpoint.save(last, {"number": 4})
        assert checkpoint.load(last)["number"] == 4
        assert checkpoint.load(tmp_path / step / "last.previous.pt")["number"] == 2
        assert sorted(os.listdir(last.parent)) == ["last.previous.pt", "last.pt"]
