"""A run of ``awdlm-train`` or ``awdlm-finetune`` that was killed or stopped goes on as if nothing had happened."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from awdlm import training as training_module
from awdlm.finetune import main as finetune_main
from awdlm.train import main as train_main
from rnncore import checkpoint

Run = Callable[..., Path]
Refused = Callable[..., str]
Rows = Callable[..., list[dict[str, Any]]]
Copy = Callable[[Path, Path], Path]

SAVING = ["--checkpoint_interval", "7"]
#: Words of a run, and after which epoch it averages.
RUNS: dict[str, tuple[list[str], int | None]] = {
    "lstm": (["--model", "LSTM"], None),
    "lstm averaging": (["--model", "LSTM", "--nonmono", "0"], 2),
    "qrnn": (["--model", "QRNN"], None),
    "qrnn averaging": (["--model", "QRNN", "--nonmono", "0"], 2),
    "adam": (["--model", "GRU", "--optimizer", "adam", "--lr", "0.01", "--when", "1", "3"], None),
    "finetuning": ([], 0),
}


def resume(*words: str, main: click.Command = train_main) -> None:
    main(["--resume", *words], standalone_mode=False)


class Case:
    """A run of four epochs that nobody disturbed, and how to begin the same run once more."""

    def __init__(self, main: click.Command, words: list[str], start: Run, switch: int | None) -> None:
        self.main, self.switch = main, switch
        self.words = [*words, "--epochs", "4", *SAVING]
        self.start = start
        self.whole = start(*self.words)

    def copied_model(self, name: str) -> list[str]:
        """The words, with a copy of the model to finetune where there is one: its result goes beside it."""
        if "--save" not in self.words:
            return self.words
        source = Path(self.words[self.words.index("--save") + 1])
        Path(name).write_bytes(source.read_bytes())
        return [name if word == str(source) else word for word in self.words]


@pytest.fixture(scope="module")
def trained(train: Run, sandbox: Path) -> Path:
    """A model to finetune."""
    train("--epochs", "2", "--lr", "3", "--save", "PTB.pt")
    return sandbox / "PTB.pt"


@pytest.fixture(scope="module", params=RUNS)
def case(request: pytest.FixtureRequest, train: Run, finetune: Run, trained: Path) -> Case:
    words, switch = RUNS[request.param]
    if request.param == "finetuning":
        return Case(finetune_main, ["--save", str(trained)], finetune, switch)
    return Case(train_main, words, train, switch)


def test_the_run_averages_when_it_should(case: Case) -> None:
    """Else the tests below would not see what they are about."""
    text = (case.whole / "log.txt").read_text()
    told = re.findall(r"^epoch (\d+) .* valid .*\n.*weights are averaged", text, re.MULTILINE)
    assert told == ([str(case.switch)] if case.switch else [])
    assert bool(checkpoint.load(case.whole / "last.pt")["averages"]["averages"]) == (case.switch is not None)


def test_killed_run_goes_on_to_the_bit(
    case: Case,
    arguments: list[str],
    small_steps: list[str],
    middle: Callable[[Path], int],
    kill_at: Callable[..., list[dict[str, Any]]],
    rows_of: Rows,
) -> None:
    fatal, run = middle(case.whole), Path(f"killed-{case.whole.name}")
    module, sizes = ("awdlm.train", arguments) if case.main is train_main else ("awdlm.finetune", small_steps)
    cut_off = kill_at(module, fatal, [*sizes, *case.copied_model("killed.pt")], run)
    assert [row["epoch"] for row in cut_off if row["event"] == "valid"][-2:] == [1, 2]
    resume(str(run), main=case.main)
    (resumed_at,) = re.findall(r"resumed at epoch 3, step (\d+)", (run / "log.txt").read_text())
    assert int(resumed_at) == fatal - 3
    assert rows_of(run) == rows_of(case.whole)
    assert rows_of(run)[: len(cut_off)] == cut_off
    assert_same_state(run, case.whole)


def assert_same_state(run: Path, whole: Path) -> None:
    """Weights, averages and all else that training goes on from."""
    ours, theirs = (checkpoint.load(each / "last.pt") for each in (run, whole))
    for saved in (ours, theirs):
        for key in ("config", "log"):
            del saved[key]
    flat, expected = (dict(leaves(saved)) for saved in (ours, theirs))
    assert flat.keys() == expected.keys()
    for name, value in flat.items():
        same = torch.equal(value, expected[name]) if isinstance(value, torch.Tensor) else value == expected[name]
        assert same, name


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, part in value.items() for leaf in leaves(part, f"{name}/{key}")]


def test_interrupted_run_saves_and_goes_on_to_the_bit(
    case: Case,
    middle: Callable[[Path], int],
    interrupt_at: Callable[[pytest.MonkeyPatch, int], None],
    rows_of: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, fatal = Path(f"interrupted-{case.whole.name}"), middle(case.whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, fatal)
        with pytest.raises(SystemExit) as stopped:
            case.start(*case.copied_model("interrupted.pt"), "--run_dir", str(run))
    assert stopped.value.code == 130
    out, err = capsys.readouterr()
    assert f"to go on: {case.main.name} --resume {run}" in out
    assert err == ""
    assert rows_of(run)[-1]["event"] == "step"
    resume(str(run), main=case.main)
    assert f"resumed at epoch 3, step {fatal}" in capsys.readouterr().out
    assert rows_of(run) == rows_of(case.whole)
    assert_same_state(run, case.whole)


def test_max_steps_can_be_raised(case: Case, rows_of: Rows) -> None:
    run = case.start(*case.copied_model("raised.pt"), "--max_steps", "50")
    assert rows_of(run, "valid", "test")[-1]["step"] == 50
    resume(str(run), "--max_steps", "54", main=case.main)
    assert rows_of(run, "valid", "test")[-1]["step"] == 54
    told, expected = ([row for row in rows_of(each, "step", "valid") if row["step"] < 54] for each in (run, case.whole))
    assert told == expected
    resume(str(run), main=case.main)  # without a limit: to the end
    assert rows_of(run) == rows_of(case.whole)


def test_more_epochs_can_be_asked_for(case: Case, rows_of: Rows) -> None:
    words = case.copied_model("more.pt")
    if "--when" in words:  # not past the last epoch; what is to come can be told later
        words = [word for word in words if word != "3"]
    run = case.start(*words, "--epochs", "2")
    later = ["--when", "1", "3"] if "--when" in words else []
    resume(str(run), "--epochs", "4", *later, main=case.main)
    assert rows_of(run) == rows_of(case.whole)


def test_a_run_that_is_complete_is_tested_again(case: Case, rows_of: Rows) -> None:
    before = rows_of(case.whole)
    resume(str(case.whole), main=case.main)
    assert rows_of(case.whole) == before


def test_interrupt_while_validating_ends_the_epoch(
    train: Run, interrupt: Callable[[], None], rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real = train("--epochs", "2"), training_module.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "evaluate", lambda *words: (interrupt(), real(*words))[1])
        with pytest.raises(SystemExit):
            train("--epochs", "2", "--run_dir", "validating")
    assert rows_of(Path("validating"))[-1] == rows_of(whole, "valid")[0]
    resume("validating")
    assert rows_of(Path("validating")) == rows_of(whole)


def test_interrupt_while_the_model_to_finetune_is_validated(
    finetune: Run, trained: Path, interrupt: Callable[[], None], rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, real = ["--save", str(trained), "--epochs", "1"], training_module.evaluate
    whole = finetune(*words)
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "evaluate", lambda *words: (interrupt(), real(*words))[1])
        with pytest.raises(SystemExit):
            finetune(*words, "--run_dir", "beginning")
    assert rows_of(Path("beginning")) == rows_of(whole)[:1]
    resume("beginning", main=finetune_main)
    assert rows_of(Path("beginning")) == rows_of(whole)


def test_finetuning_that_has_stalled_stays_finished(
    finetune: Run, trained: Path, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])  # of the start, three epochs, the test text
    monkeypatch.setattr(training_module, "evaluate", lambda *_: next(losses))
    run = finetune("--save", str(trained), "--nonmono", "1", "--epochs", "9")
    assert rows_of(run, "valid")[-1]["epoch"] == 3
    assert "the validation loss stalls: done" in (run / "log.txt").read_text()
    before = rows_of(run)
    monkeypatch.setattr(training_module, "evaluate", lambda *_: 1.0)
    for more in ([], ["--epochs", "20"]):
        resume(str(run), *more, main=finetune_main)
        assert rows_of(run) == before


def test_what_the_run_itself_saved_is_no_predecessor(train: Run, sandbox: Path) -> None:
    run = train("--epochs", "1", "--max_steps", "5", "--save", "own.pt")
    resume(str(run))
    assert {path.name for path in sandbox.glob("own*")} == {"own.pt"}
    assert torch.equal(*(checkpoint.load(file)["model"]["decoder.bias"] for file in (run / "best.pt", Path("own.pt"))))


def test_a_stop_inside_an_epoch_leaves_the_best_model(train: Run, rows_of: Rows) -> None:
    run = train("--epochs", "1")
    kept = checkpoint.load(run / "best.pt")["model"]
    (best,) = rows_of(run, "valid")
    resume(str(run), "--epochs", "2", "--max_steps", str(best["step"] + 5))
    assert rows_of(run, "valid")[-1]["loss"] < best["loss"]  # which a run without a stop never sees
    model = checkpoint.load(run / "best.pt")["model"]
    assert all(torch.equal(model[name], kept[name]) for name in kept)


def test_a_copy_of_the_best_model_can_be_asked_for_later(train: Run) -> None:
    run = train("--epochs", "1")
    resume(str(run), "--save", "later.pt")
    best, copy = (checkpoint.load(file)["model"] for file in (run / "best.pt", Path("later.pt")))
    assert all(torch.equal(best[name], copy[name]) for name in best)


@pytest.fixture(scope="module")
def stopped(train: Run) -> Path:
    """A run that has done five steps of its first epoch."""
    return train("--epochs", "2", "--max_steps", "5", "--checkpoint_interval", "2")


@pytest.mark.parametrize("place", ["directory", "last.pt", "last.previous.pt", "run_dir", "newest"])
def test_a_run_is_found(
    place: str, stopped: Path, tmp_path: Path, copy_files: Copy, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(stopped, tmp_path / "runs" / "awdlm-train" / "copy")
    words = {"directory": [str(run)], "run_dir": ["--run_dir", str(run)], "newest": []}
    resume(*words.get(place, [str(run / place)]), "--max_steps", "6")
    assert rows_of(run, "test")[-1]["step"] == 6
    first = {"last.previous.pt": 4}.get(place, 5)
    assert f"resumed at epoch 1, step {first}" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--emsize", "32"], "was begun with --emsize 16, not 32"),
        (["--model", "QRNN"], "was begun with --model LSTM, not QRNN"),
        (["--tied"], "was begun with --tied True, not False"),
        (["--seed", "2"], "was begun with --seed 1111, not 2"),
        (["--optimizer", "adam"], "was begun with --optimizer sgd, not adam"),
        (["--nonmono", "2"], "was begun with --nonmono 5, not 2"),
        (["--amp", "bf16"], "was begun with --amp None, not bf16"),
        (["--epochs", "3", "--when", "4"], "--when 4 is past the last epoch"),
        (["--run_dir", "elsewhere"], "leave --run_dir elsewhere out"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    words: list[str],
    expected: str,
    stopped: Path,
    contents: Callable[[Path], dict[Path, bytes]],
    refusal: Callable[[click.Command, list[str]], str],
) -> None:
    before = contents(stopped)
    assert expected in refusal(train_main, ["--resume", str(stopped), *words])
    assert contents(stopped) == before


def test_data_may_move_but_not_change(
    stopped: Path, data: Path, refusal: Callable[[click.Command, list[str]], str]
) -> None:
    resume(str(stopped), "--data", str(data), "--max_steps", "5")
    (data / "train.txt").write_text("other words " * 50)
    line = refusal(train_main, ["--resume", str(stopped), "--data", str(data)])
    assert "has another vocabulary than the model; give the --data it was trained on" in line


def test_a_run_of_the_other_command_cannot_be_resumed(
    stopped: Path, refusal: Callable[[click.Command, list[str]], str]
) -> None:
    line = refusal(finetune_main, ["--resume", str(stopped)])
    assert "last.pt is a checkpoint of awdlm-train, not of awdlm-finetune" in line


def test_best_model_alone_cannot_be_resumed(stopped: Path, refusal: Callable[[click.Command, list[str]], str]) -> None:
    line = refusal(train_main, ["--resume", str(stopped / "best.pt")])
    assert "best.pt is a model without the state of its training; resume from" in line


@pytest.mark.parametrize("main", [train_main, finetune_main])
@pytest.mark.parametrize("place", ["nowhere", "empty", "nowhere/last.pt"])
def test_no_run_to_resume(
    place: str, main: click.Command, refusal: Callable[[click.Command, list[str]], str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "no run to resume" in refusal(main, ["--resume", str(tmp_path / place)])
