"""A run that was killed or stopped goes on as if nothing had happened, with its masks, before and after averaging."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from rnncore import checkpoint
from selfish import training as training_module
from selfish.options import MOS, ONLSTM, TRAIN

Run = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]
Words = Callable[[str], list[str]]
Mains = dict[str, click.Command]

SAVING = ["--checkpoint_interval", "7"]
SPARSE = ["--sparse", "--density", "0.4"]
#: Command, words of a run, and after which epoch it averages.
RUNS: dict[str, tuple[str, list[str], int | None]] = {
    "dense": (TRAIN, ["--nlayers", "1", "--lr", "2"], None),
    "dense averaging": (TRAIN, ["--nonmono", "0", "--lr", "20", "--seed", "3"], 2),
    "sparse": (TRAIN, [*SPARSE, "--growth", "momentum", "--death", "SET"], None),
    "sparse averaging": (TRAIN, [*SPARSE, "--growth", "gradient", "--nonmono", "0", "--lr", "20"], 2),
    "rhn averaging": (
        TRAIN,
        [
            *SPARSE,
            "--model",
            "RHN",
            "--nrecurrence_depth",
            "2",
            "--growth_expectation",
            "--redistribution",
            "nonzeros",
            "--nonmono",
            "0",
            "--lr",
            "20",
        ],
        2,
    ),
    "adam": (TRAIN, [*SPARSE, "--optimizer", "adam", "--adam_lr", "0.01", "--redistribution", "magnitude"], None),
    "onlstm averaging": (
        ONLSTM,
        [
            *SPARSE,
            "--redistribution",
            "cell-gate",
            "--death",
            "threshold",
            "--threshold",
            "0.05",
            "--nonmono",
            "0",
            "--lr",
            "20",
            "--finetuning",
            "3",
        ],
        2,
    ),
    "mos averaging": (MOS, [*SPARSE, "--small_batch_size", "2", "--nonmono", "0", "--lr", "20"], 2),
}


class Case:
    """A run of four epochs that nobody disturbed, and how to begin the same run once more."""

    def __init__(self, name: str, train: Run, mains: Mains) -> None:
        self.name = name
        self.command, words, self.switch = RUNS[name]
        self.main = mains[self.command]
        self.words = [*words, "--epochs", "4", *SAVING]
        self.whole = train(self.command, *self.words)
        self.start = lambda *further: train(self.command, *self.words, *further)

    def resume(self, *words: str) -> None:
        self.main(["--resume", *words], standalone_mode=False)


@pytest.fixture(scope="module", params=RUNS)
def case(request: pytest.FixtureRequest, train: Run, mains: Mains) -> Case:
    return Case(request.param, train, mains)


def test_the_run_averages_when_it_should(case: Case) -> None:
    """Else the tests below would not see what they are about."""
    text = (case.whole / "log.txt").read_text()
    told = re.findall(r"^epoch (\d+) .* valid .*\n.*weights are averaged(?! anew)", text, re.MULTILINE)
    assert told == ([str(case.switch)] if case.switch else [])
    saved = checkpoint.load(case.whole / "last.pt")
    assert bool(saved["averages"]["averages"]) == (case.switch is not None)
    assert ("masking" in saved) == ("--sparse" in case.words)


def assert_same_state(run: Path, whole: Path) -> None:
    """Weights, masks, averages and all else that training goes on from."""
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


def test_killed_run_goes_on_to_the_bit(
    case: Case,
    arguments: Words,
    modules: dict[str, str],
    middle: Callable[[Path], int],
    kill_at: Callable[..., list[dict[str, Any]]],
    rows_of: Rows,
) -> None:
    fatal, run = middle(case.whole), Path(f"killed-{case.whole.name}")
    cut_off = kill_at(modules[case.command], fatal, [*arguments(case.command), *case.words], run)
    assert [row["epoch"] for row in cut_off if row["event"] == "valid"][-2:] == [1, 2]
    case.resume(str(run))
    (resumed_at,) = re.findall(r"resumed at epoch 3, step (\d+)", (run / "log.txt").read_text())
    assert int(resumed_at) == fatal - 3
    assert rows_of(run) == rows_of(case.whole)
    assert rows_of(run)[: len(cut_off)] == cut_off
    assert_same_state(run, case.whole)
    if "--sparse" in case.words:
        assert (run / "masks.csv").read_text() == (case.whole / "masks.csv").read_text()


def test_interrupted_at_the_last_step_of_an_epoch(
    case: Case, interrupt_at: Callable[[pytest.MonkeyPatch, int], None], rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation and the update of the masks still take place, then or when the run goes on."""
    run = Path(f"interrupted-{case.whole.name}")
    end = rows_of(case.whole, "valid")[2]["step"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, end)
        with pytest.raises(SystemExit) as stopped:
            case.start("--run_dir", str(run))
    assert stopped.value.code == 130
    case.resume(str(run))
    assert rows_of(run) == rows_of(case.whole)
    assert_same_state(run, case.whole)


def test_killed_between_the_last_step_and_the_update(
    train: Run, mains: Mains, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growth by gradients needs those of a step that was done before."""
    words = [*SPARSE, "--growth", "gradient", "--epochs", "2", "--lr", "2", "--checkpoint_interval", "1"]
    whole = train(TRAIN, *words)

    def fails(*_: Any) -> float:
        raise KeyError("power")

    with monkeypatch.context() as patch:
        patch.setattr(training_module, "evaluate", fails)
        with pytest.raises(KeyError, match="power"):
            train(TRAIN, *words, "--run_dir", "power")
    assert checkpoint.load(Path("power/last.pt"))["gradients"]
    mains[TRAIN](["--resume", "power"], standalone_mode=False)
    assert rows_of(Path("power")) == rows_of(whole)
    assert_same_state(Path("power"), whole)


def test_max_steps_can_be_raised(case: Case, rows_of: Rows) -> None:
    run = case.start("--max_steps", "50")
    assert rows_of(run, "valid", "test")[-1]["step"] == 50
    case.resume(str(run), "--max_steps", "54")
    told, expected = ([row for row in rows_of(each, "step", "valid") if row["step"] < 54] for each in (run, case.whole))
    assert told == expected
    case.resume(str(run))  # without a limit: to the end
    assert rows_of(run) == rows_of(case.whole)
    assert_same_state(run, case.whole)


def test_a_run_that_is_complete_is_tested_again(case: Case, rows_of: Rows) -> None:
    before = rows_of(case.whole)
    case.resume(str(case.whole))
    assert rows_of(case.whole) == before


def test_a_stop_inside_an_epoch_leaves_the_best_model(train: Run, mains: Mains, rows_of: Rows) -> None:
    run = train(TRAIN, *SPARSE, "--epochs", "1")
    kept = checkpoint.load(run / "best.pt")["model"]
    (best,) = rows_of(run, "valid")
    mains[TRAIN](["--resume", str(run), "--epochs", "2", "--max_steps", str(best["step"] + 5)], standalone_mode=False)
    model = checkpoint.load(run / "best.pt")["model"]
    assert all(torch.equal(model[name], kept[name]) for name in kept)


@pytest.fixture(scope="module")
def stopped(train: Run) -> Path:
    """A sparse run that has done five steps of its first epoch."""
    return train(TRAIN, *SPARSE, "--epochs", "2", "--max_steps", "5", "--checkpoint_interval", "2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--emsize", "32"], "was begun with --emsize 16, not 32"),
        (["--model", "RHN"], "was begun with --model LSTM, not RHN"),
        (["--density", "0.2"], "was begun with --density 0.4, not 0.2"),
        (["--sparsity", "0.2"], "was begun with --sparsity None, not 0.2"),
        (["--growth", "gradient"], "was begun with --growth random, not gradient"),
        (["--death-rate-decay", "linear"], "was begun with --death-rate-decay cosine, not linear"),
        (["--optimizer", "adam"], "was begun with --optimizer sgd, not adam"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    words: list[str],
    expected: str,
    stopped: Path,
    mains: Mains,
    contents: Callable[[Path], dict[Path, bytes]],
    refusal: Callable[[click.Command, list[str]], str],
) -> None:
    before = contents(stopped)
    assert expected in refusal(mains[TRAIN], ["--resume", str(stopped), *words])
    assert contents(stopped) == before


def test_a_dense_run_does_not_become_sparse(
    train: Run, mains: Mains, refusal: Callable[[click.Command, list[str]], str]
) -> None:
    run = train(TRAIN, "--max_steps", "2")
    assert "was begun with --sparse False, not True" in refusal(mains[TRAIN], ["--resume", str(run), "--sparse"])


@pytest.mark.parametrize("change", ["another shape", "another name"])
def test_a_checkpoint_with_other_masks(
    change: str,
    stopped: Path,
    mains: Mains,
    tmp_path: Path,
    copy_files: Callable[[Path, Path], Path],
    refusal: Callable[[click.Command, list[str]], str],
) -> None:
    run = copy_files(stopped, tmp_path / "run")
    saved = checkpoint.load(run / "last.pt")
    masks = saved["masking"]["masks"]
    mask = masks.pop("encoder.weight")
    masks["encoder.weight" if change == "another shape" else "embedding.weight"] = mask[:, 1:]
    checkpoint.save(run / "last.pt", saved, keep_previous=False)
    assert "the checkpoint has other masks: for e" in refusal(mains[TRAIN], ["--resume", str(run)])


def test_a_run_of_another_command(
    stopped: Path, mains: Mains, refusal: Callable[[click.Command, list[str]], str]
) -> None:
    line = refusal(mains[ONLSTM], ["--resume", str(stopped)])
    assert "last.pt is a checkpoint of selfish-train, not of selfish-train-onlstm" in line
