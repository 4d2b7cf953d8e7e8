"""Several processes train as one does: the same losses, one run directory, and one end."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from rmc import train_memory, train_rnn
from rnncore import checkpoint
from torch import Tensor

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
InRanks = Callable[..., list[tuple[int, str]]]
MAINS: dict[str, click.Command] = {"memory": train_memory.main, "rnn": train_rnn.main}
#: Sums in another order: at most this between losses of about 3 in float32, whose steps there are 2.4e-7.
ORDER = 1e-6

SCRIPT = """
import os, signal
from rnncore import report
from rmc import training
from rmc.{module} import main

report.plot = lambda *_: None
step = training._step
def counted(run, *window):
    if run.log.global_step == {number} and rank == {rank}:
        {deed}
    return step(run, *window)
training._step = counted
main()
"""


def script(task: str, number: int = 0, rank: int = 0, deed: str = "pass") -> str:
    """A command; after so many steps one rank does ``deed``."""
    return SCRIPT.format(module=f"train_{task}", number=number, rank=rank, deed=deed)


def steps_of(rows: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(row["event"], row["epoch"], row["step"]) for row in rows if row["event"] != "end"]


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if row["event"] != "end"]


@pytest.mark.parametrize(
    ("task", "size", "words"),
    [
        ("memory", 2, "--batch_size 15"),
        ("memory", 2, "--adaptivesoftmax --cutoffs 5 28 --bptt 3 --max_steps 20"),
        ("rnn", 3, "--batch_size 16 --nlayers 2"),
        ("rnn", 2, "--model GRU --adaptivesoftmax --cutoffs 5 28 --bptt 3 --max_steps 20"),
    ],
)
def test_losses_are_those_of_one_process(
    task: str,
    size: int,
    words: str,
    launch: Run,
    arguments: Callable[[str], list[str]],
    in_ranks: InRanks,
    rows_of: Rows,
) -> None:
    """The batch's columns part unevenly, the last window is a short one, and rare words may be one process's only."""
    flags = f"--dropout 0 --epochs 1 --log-interval 1 {words}".split()
    run = Path(f"{task}-of-{size}-{len(words)}")
    first, *others = in_ranks(script(task), [*arguments(task), *flags, "--run_dir", str(run)], size)
    assert first[0] == 0, first[1]
    assert others == [(0, "")] * (size - 1)
    one = rows_of(launch(task, *flags))
    assert steps_of(rows_of(run)) == steps_of(one)
    assert losses(rows_of(run)) == pytest.approx(losses(one), abs=ORDER)
    assert f"{size} processes share" in (run / "log.txt").read_text()


@pytest.mark.parametrize("task", ["memory"])
def test_killed_run_goes_on_to_the_bit(
    task: str, arguments: Callable[[str], list[str]], in_ranks: InRanks, rows_of: Rows
) -> None:
    """With dropout, whose masks each process draws for itself."""
    limit = ["--max_steps", "9"]  # past the end of an epoch
    words = [*arguments(task), *limit, "--batch_size", "15", "--checkpoint_interval", "3"]
    whole, run = Path(f"parallel-{task}"), Path(f"parallel-killed-{task}")
    assert [code for code, _ in in_ranks(script(task), [*words, "--run_dir", str(whole)])] == [0, 0]
    kill = script(task, 5, 1, "os.kill(os.getpid(), signal.SIGKILL)")
    (code, told), (killed, _) = in_ranks(kill, [*words, "--run_dir", str(run)])
    assert (code, killed) == (2, -9)
    assert len(re.findall("^Error: .*another process of this run has ended", told, re.MULTILINE)) == 1
    assert "Traceback" not in told
    assert [code for code, _ in in_ranks(script(task), ["--resume", str(run), *limit])] == [0, 0]
    assert "resumed at epoch 1, step 3\n" in (run / "log.txt").read_text()
    assert rows_of(run) == rows_of(whole)
    ours, theirs = (checkpoint.load(each / "last.pt") for each in (run, whole))
    assert all(ours["model"][name].equal(weight) for name, weight in theirs["model"].items())
    assert all(mine.equal(other) for mine, other in zip(torches(ours), torches(theirs), strict=True))
    assert not torches(ours)[0].equal(torches(ours)[1])


def torches(saved: dict[str, Any]) -> list[Tensor]:
    """The states of torch's generators, of each process."""
    return [state["torch"] for state in (saved["rng"], *saved["generators_of_others"])]


@pytest.mark.parametrize("task", ["rnn"])
def test_interrupted_run_goes_on_with_another_number_of_processes(
    task: str, launch: Run, arguments: Callable[[str], list[str]], in_ranks: InRanks, rows_of: Rows
) -> None:
    """Ctrl-C reaches one process of two, then one of three; the end is one process's."""
    flags = ["--dropout", "0", "--batch_size", "15", "--epochs", "2", "--log-interval", "1"]
    run = Path(f"parallel-interrupted-{task}")
    stop = "os.kill(os.getpid(), signal.SIGINT)"
    first = in_ranks(script(task, 3, 1, stop), [*arguments(task), *flags, "--run_dir", str(run)])
    assert [code for code, _ in first] == [130, 130]
    assert f"stopped; to go on: rmc-train{'-rnn' if task == 'rnn' else ''} --resume {run}" in first[0][1]
    assert checkpoint.load(run / "last.pt")["log"]["global_step"] == 4
    second = in_ranks(script(task, 8, 0, stop), ["--resume", str(run)], 3)
    assert [code for code, _ in second] == [130, 130, 130]
    MAINS[task](["--resume", str(run)], standalone_mode=False)
    one = rows_of(launch(task, *flags))
    assert steps_of(rows_of(run)) == steps_of(one)
    assert losses(rows_of(run)) == pytest.approx(losses(one), abs=ORDER)


def test_numbers_that_are_none_in_one_process_end_all_with_one_line(
    arguments: Callable[[str], list[str]], in_ranks: InRanks, assert_sound: Callable[..., None]
) -> None:
    spoil = "next(run.model.parameters()).data.fill_(float('nan'))"
    ended = in_ranks(script("memory", 8, 1, spoil), [*arguments("memory"), "--run_dir", "parallel-spoilt"])
    assert [code for code, _ in ended] == [2, 2]
    (line,) = re.findall("^Error: .*", "".join(told for _, told in ended), re.MULTILINE)
    assert re.match(r"Error: stopped at step 9: .*; the last checkpoint is from before it", line)
    assert_sound(Path("parallel-spoilt/last.pt"), "rmc-train", 7)


def test_a_mistake_is_told_once(arguments: Callable[[str], list[str]], in_ranks: InRanks) -> None:
    words = [*arguments("memory"), "--batch_size", "1", "--run_dir", "parallel-small"]
    ended = in_ranks(script("memory"), words)
    assert [code for code, _ in ended] == [2, 2]
    expected = "Error: a batch of 1 columns is too small for 2 processes; start fewer\n"
    assert "".join(told for _, told in ended) == expected
    assert not Path("parallel-small").exists()


def test_starts_by_torchrun(launch: Run, arguments: Callable[[str], list[str]], rows_of: Rows) -> None:
    """The command as it is typed; torchrun's own words go to standard error."""
    flags = ["--dropout", "0", "--max_steps", "4", "--log-interval", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = Path(sys.executable).parent / "rmc-train-rnn"
    words = [*torchrun, str(command), *arguments("rnn"), *flags, "--run_dir", "torchrun"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("run directory torchrun") == 2  # at the beginning and at the end
    one = rows_of(launch("rnn", *flags))
    assert losses(rows_of(Path("torchrun"))) == pytest.approx(losses(one), abs=ORDER)
