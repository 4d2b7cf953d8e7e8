"""A run that was killed or stopped goes on as if nothing had happened, to the bit."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from rnncore.evaluation import evaluate
from rnncore.run_log import RunLog

Rows = Callable[..., list[dict[str, Any]]]
Same = Callable[[Path, Path], None]

TEXT = "--epochs 4 --batch_size 8 --checkpoint_interval 3"
SPARSE = f"{TEXT} --sparse --density 0.4"
AVERAGING = "--nonmono 0 --lr 20"
NMT = "-epochs 4 --checkpoint_interval 3 -dropouti 0.3 -dropouts 0.2 -wdrop 0.1"
REVERSIBLE = "-encoder_model Rev -decoder_model Rev -encoder_rnn_type revgru -decoder_rnn_type revgru -use_reverse"

#: A command and its words. Where the name says that a run averages, its weights are averaged after the second epoch.
RUNS = {
    "lstm": ("awdlm-train", f"{TEXT} --model LSTM"),
    "lstm averaging": ("awdlm-train", f"{TEXT} --model LSTM --nonmono 0"),
    "qrnn": ("awdlm-train", f"{TEXT} --model QRNN"),
    "qrnn averaging": ("awdlm-train", f"{TEXT} --model QRNN --nonmono 0"),
    "adam": ("awdlm-train", f"{TEXT} --model GRU --optimizer adam --lr 0.01 --when 1 3"),
    "finetuning": ("awdlm-finetune", TEXT),
    "revgru": ("revrnn-train", f"{TEXT} --use_reverse"),
    "baseline": ("revrnn-train", f"{TEXT} --model lstm"),
    "nmt revgru": ("revrnn-nmt-train", f"{NMT} {REVERSIBLE} -context_type slice_emb -slice_dim 5"),
    "nmt plain": ("revrnn-nmt-train", f"{NMT} -encoder_model Vanilla"),
    "dense": ("selfish-train", f"{TEXT} --nlayers 1 --lr 2"),
    "dense averaging": ("selfish-train", f"{TEXT} {AVERAGING} --lr 40 --seed 3"),
    "sparse": ("selfish-train", f"{SPARSE} --growth momentum --death SET"),
    "sparse averaging": ("selfish-train", f"{SPARSE} {AVERAGING} --lr 40 --seed 1 --growth gradient"),
    "rhn averaging": (
        "selfish-train",
        f"{SPARSE} {AVERAGING} --model RHN --nrecurrence_depth 2 --growth_expectation --redistribution nonzeros",
    ),
    "sparse adam": ("selfish-train", f"{SPARSE} --optimizer adam --adam_lr 0.01 --redistribution magnitude"),
    "onlstm averaging": (
        "selfish-train-onlstm",
        f"{SPARSE} {AVERAGING} --redistribution cell-gate --death threshold --threshold 0.05 --finetuning 3",
    ),
    "mos averaging": ("selfish-train-mos", f"{SPARSE} {AVERAGING} --lr 40 --seed 1 --small_batch_size 2"),
    "memory": ("rmc-train", TEXT),
    "memory adaptive": ("rmc-train", f"{TEXT} --adaptivesoftmax --cutoffs 5 12 --patience 0 --lr 0.3"),
    "rnn": ("rmc-train-rnn", f"{TEXT} --nlayers 2"),
    "farthest": ("rmc-nth-farthest", "--checkpoint_interval 3"),
    "farthest lstm": ("rmc-nth-farthest", "--checkpoint_interval 3 --model lstm"),
    "adding": ("urlstm-adding", "--checkpoint_interval 3"),
    "copy": ("urlstm-copy", "--checkpoint_interval 3"),
    "images": ("urlstm-images", "--checkpoint_interval 3"),
    "language": ("urlstm-language", "--checkpoint_interval 3 --batch_size 8"),
}
#: Words of a run that is first asked for less, and those that then ask for all.
LESS = {
    "awdlm-train": ("--epochs 2", "--epochs 4"),
    "awdlm-finetune": ("--epochs 2", "--epochs 4"),
    "revrnn-train": ("--epochs 2", "--epochs 4"),
    "rmc-train": ("--epochs 2", "--epochs 4"),
    "rmc-train-rnn": ("--epochs 2", "--epochs 4"),
    "rmc-nth-farthest": ("--n_steps 13", "--n_steps 30"),
    "urlstm-adding": ("--n_steps 23", "--n_steps 40"),
    "urlstm-images": ("--n_epochs 2", "--n_epochs 3"),
}


class Case:
    """A run that nobody disturbed, and how to begin the same run once more."""

    def __init__(self, name: str, command: Any, rows_of: Rows) -> None:
        self.name, self.command = name, command
        self.words = RUNS[name][1].split()
        self.whole = command.run(*self.words)
        self.rows = rows_of(self.whole)
        valid = [row for row in self.rows if row["event"] == "valid" and row["step"] > 0]
        self.ends = [row["step"] for row in valid]
        self.third = valid[2]["epoch"]
        #: Between the second validation and the third, 2 steps past a checkpoint after the second.
        self.middle = next(step for step in range(sum(self.ends[1:3]) // 2, self.ends[2]) if step % 3 == 2)
        assert self.ends[1] < self.middle - 2

    def less(self) -> tuple[list[str], list[str]]:
        """The words of a run that is asked for less, and those that then ask for all."""
        first, then = (words.split() for words in LESS.get(self.command.name, ("", "")))
        if "--when" in self.words:  # not past the last epoch
            first, then = [*first, "--when", "1"], [*then, "--when", "1", "3"]
        return [*self.words, *first], then


@pytest.fixture(scope="module", params=RUNS)
def case(request: pytest.FixtureRequest, make_command: Callable[[str], Any], rows_of: Rows) -> Case:
    return Case(request.param, make_command(RUNS[request.param][0]), rows_of)


def assert_same_files(run: Path, whole: Path) -> None:
    """What else is written: the history of masks, translations."""
    for pattern in ("*.csv", "*.translated.txt"):
        for path in whole.glob(pattern):
            assert (run / path.name).read_bytes() == path.read_bytes()


def test_the_run_averages_when_it_should(case: Case) -> None:
    """Else the tests below would not see what they are about."""
    text = (case.whole / "log.txt").read_text()
    told = re.findall(r"^epoch (\d+) .* valid .*\n.*weights are averaged(?! anew)", text, re.MULTILINE)
    assert told == (["2"] if "averaging" in case.name else [])
    saved = checkpoint.load(case.whole / "last.pt")
    averages = saved.get("averages", {}).get("averages")
    assert bool(averages) == ("averaging" in case.name or case.name == "finetuning")
    assert ("masking" in saved) == ("--sparse" in case.words)
    assert (case.whole / "masks.csv").exists() == ("--sparse" in case.words)
    assert len(list(case.whole.glob("*.translated.txt"))) == (2 if "nmt" in case.name else 0)


def test_a_killed_run_goes_on_to_the_bit(
    case: Case, kill_at: Callable[..., Any], rows_of: Rows, assert_same_state: Same
) -> None:
    run = Path(f"killed-{case.whole.name}")
    cut_off = kill_at(case.command, case.middle, case.words, run)
    assert [row["step"] for row in cut_off if row["event"] == "valid"][-2:] == case.ends[:2]
    torch.manual_seed(0)  # what came before is forgotten
    case.command.resume(run)
    assert f"resumed at epoch {case.third}, step {case.middle - 2}\n" in (run / "log.txt").read_text()
    assert rows_of(run) == case.rows
    assert rows_of(run)[: len(cut_off)] == cut_off
    assert_same_state(run, case.whole)
    assert_same_files(run, case.whole)


def test_a_run_in_pieces_is_the_whole_run(
    case: Case,
    interrupted_at: Callable[[int], Any],
    rows_of: Rows,
    assert_same_state: Same,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped by a number of steps or by Ctrl-C, inside an epoch or at its end, and asked for more when it was done."""
    command, run, (less, more) = case.command, Path(f"pieces-{case.whole.name}"), case.less()

    def assert_stopped_at(number: int) -> None:
        """It was evaluated there, and before it nothing is new."""
        assert rows_of(run, "valid", "test")[-1]["step"] == number
        told = [row for row in rows_of(run, "step", "valid") if row["step"] < number]
        assert told == [row for row in case.rows if row["event"] in ("step", "valid") and row["step"] < number]

    command.run(*less, "--max_steps", "5", "--run_dir", str(run))
    assert_stopped_at(5)
    before = rows_of(run)
    command.resume(run, "--max_steps", "5")  # complete: it is tested again
    assert rows_of(run) == before
    for number in sorted([8, case.ends[0]]):
        command.resume(run, "--max_steps", str(number))
        assert_stopped_at(number)
    if more:
        command.resume(run)  # the limit was that call's
        assert_stopped_at(int(less[-1]) if "--n_steps" in less else case.ends[1])
    command.resume(run, *more, "--max_steps", str(case.middle - 1))
    assert_stopped_at(case.middle - 1)
    for number in (case.middle, case.ends[2]):
        capsys.readouterr()
        with interrupted_at(number):
            command.resume(run)
        out, err = capsys.readouterr()
        assert f"to go on: {command.name} --resume {run}\n" in out
        assert err == ""
        assert number == case.ends[2] or rows_of(run)[-1]["event"] == "step"
    command.resume(run)
    assert f"resumed at epoch {case.third}, step {case.middle}\n" in (run / "log.txt").read_text()
    assert rows_of(run) == case.rows
    assert_same_state(run, case.whole)
    assert_same_files(run, case.whole)
    command.resume(run)
    assert rows_of(run) == case.rows


def test_the_model_of_the_last_step_asked_for_is_tested(command: Any, rows_of: Rows) -> None:
    """Inside the first epoch nothing is known of a best model."""
    whole, run = command.run("--max_steps", "4"), command.run("--max_steps", "2")
    command.resume(run, "--max_steps", "4")
    assert rows_of(run) == rows_of(whole)
    models = [checkpoint.load(path / "best.pt")["model"] for path in (run, whole)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("awdlm-train", ""),
        ("revrnn-train", ""),
        ("selfish-train", "--sparse --density 0.4 --growth gradient --lr 2"),
        ("rmc-train", ""),
    ],
    indirect=["command"],
)
def test_killed_between_the_last_step_of_an_epoch_and_its_validation(
    command: Any,
    words: str,
    replace_everywhere: Callable[..., None],
    rows_of: Rows,
    assert_same_state: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Growth by gradients needs those of a step that was done before."""
    given = [*words.split(), "--epochs", "2", "--batch_size", "8", "--checkpoint_interval", "1"]
    whole, run = command.run(*given), Path(f"power-{command.name}")

    def fails(*_: Any, **__: Any) -> float:
        raise KeyError("power")

    with monkeypatch.context() as patch:
        replace_everywhere(patch, evaluate, fails)
        with pytest.raises(KeyError, match="power"):
            command.run(*given, "--run_dir", str(run))
    assert bool(checkpoint.load(run / "last.pt").get("gradients")) == (command.name == "selfish-train")
    command.resume(run)
    assert rows_of(run) == rows_of(whole)
    assert_same_state(run, whole)


@pytest.mark.parametrize("command", ["rmc-nth-farthest", "urlstm-adding"], indirect=True)
def test_ctrl_c_between_two_steps_loses_neither(
    command: Any, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when it was just decided not to save the first."""
    outside, run = RunLog.outside_step, Path(f"between-{command.name}")

    @contextlib.contextmanager
    def interrupted(log: RunLog) -> Iterator[None]:
        with outside(log):
            yield
        if log.global_step == 2:
            interrupt()

    monkeypatch.setattr(RunLog, "outside_step", interrupted)
    with pytest.raises(SystemExit):
        command.run("--run_dir", str(run))
    assert checkpoint.load(run / "last.pt")["log"]["global_step"] == 3


@pytest.mark.parametrize("case", ["memory", "memory adaptive", "rnn"], indirect=True)
def test_a_run_goes_on_from_the_end_of_its_best_epoch(
    case: Case, copy_files: Callable[[Path, Path], Path], rows_of: Rows, assert_same_state: Same
) -> None:
    run = copy_files(case.whole, Path(f"epochs-{case.whole.name}"))
    (file,) = run.glob("epoch*.pt")
    best = min(rows_of(run, "valid"), key=lambda row: row["loss"])["epoch"]
    assert file.name == f"epoch{best}.pt"
    case.command.resume(best, "--run_dir", run)
    assert f"resumed at epoch {best}," in (run / "log.txt").read_text()
    assert rows_of(run) == case.rows
    assert_same_state(run, case.whole)
