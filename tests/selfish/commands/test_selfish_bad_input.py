"""Bad input and bad luck: one clear line, exit status 2, no traceback, and nothing lost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from rnncore import checkpoint
from selfish import training as training_module
from selfish.distances import main as distances_main
from selfish.export_command import main as export_main
from selfish.generate import main as generate_main
from selfish.options import MOS, ONLSTM, TRAIN
from selfish.run_state import Training
from selfish.train import main as train_main
from selfish.train_mos import main as mos_main
from selfish.train_onlstm import main as onlstm_main

Run = Callable[..., Path]
Refused = Callable[..., str]
Refusal = Callable[[click.Command, Sequence[str]], str]
Contents = Callable[[Path], dict[Path, bytes]]

pytestmark = pytest.mark.usefixtures("sandbox")

COMMANDS = {TRAIN: train_main, ONLSTM: onlstm_main, MOS: mos_main, "selfish-generate": generate_main}
BAD = [
    (name, flag.name, value)
    for name, command in COMMANDS.items()
    for flag in command.flags
    if flag.kind in (int, float)
    for value in ("-2", "nan", *["inf"] * (flag.kind is float))
]


@pytest.mark.parametrize(("name", "flag", "value"), BAD)
def test_a_number_out_of_range(name: str, flag: str, value: str, refusal: Refusal) -> None:
    line = refusal(COMMANDS[name], [flag, value])
    assert line.startswith(f"Error: {flag} must be ")
    assert line.rpartition("not ")[2].strip("'").startswith(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--density", "0"], "--density must be above 0 and below 1, not 0.0"),
        (["--density", "1"], "--density must be above 0 and below 1, not 1.0"),
        (["--density", "1.2"], "--density must be above 0 and below 1, not 1.2"),
        (["--density", "nan"], "--density must be a finite number, not nan"),
        (["--sparsity", "0"], "--sparsity must be above 0 and below 1"),
        (["--sparsity", "1"], "--sparsity must be above 0 and below 1"),
        (["--death-rate", "0"], "--death-rate must be above 0 and below 1"),
        (["--death", "oldest"], "--death must be one of magnitude, magnitude_rnn, SET, threshold, global_magnitude"),
        (["--growth", "magnitude"], "--growth must be one of random, random_rnn, momentum, gradient"),
        (
            ["--redistribution", "random"],
            "--redistribution must be one of none, momentum, magnitude, nonzeros, cell-gate",
        ),
        (["--sparse_init", "normal"], "--sparse_init must be one of uniform, ER"),
        (["--death-rate-decay", "step"], "--death-rate-decay must be one of cosine, linear"),
        (["--growth", "gradient", "--growth_expectation"], "--growth_expectation goes with random growth"),
        (["--optimizer", "asgd"], "--optimizer must be one of sgd, adam"),
        (["--data", "nowhere"], "'nowhere' is no directory and no data set"),
        (["--batch_size", "500"], "train.txt has 889 tokens, but 500 columns need 1000; use a smaller --batch_size"),
        (["--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
        (["--no_such_flag"], "unknown flag '--no_such_flag'"),
        (["--evaluate", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
    ],
)
@pytest.mark.parametrize("command", [TRAIN, ONLSTM, MOS])
def test_a_command_line_that_cannot_run(command: str, words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(command, "--sparse", *words, "--run_dir", "never")
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        (ONLSTM, ["--chunk_size", "5"], "a chunk size of 5 does not divide the 12 units of a layer"),
        (MOS, ["--small_batch_size", "3"], "--small_batch_size 3 does not divide --batch_size 4"),
        (MOS, ["--n_experts", "0"], "--n_experts must be at least 1"),
        (TRAIN, ["--tied"], "tied weights need as many units in the last layer, 12, as in the embedding, 16"),
        (TRAIN, ["--model", "GRU"], "--model must be one of LSTM, RHN"),
        (TRAIN, ["--save", "nowhere/PTB.pt"], "cannot write --save nowhere/PTB.pt: there is no folder nowhere"),
        (TRAIN, ["--eval_batch_size", "150"], "valid.txt has 223 tokens, but 150 columns need 300; use a longer text"),
    ],
)
def test_what_one_command_refuses(command: str, words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(command, *words, "--run_dir", "never")
    assert not Path("never").exists()


def test_a_mixture_goes_on_with_a_run_that_is_named(refused: Refused) -> None:
    assert "--continue_train needs the run directory in --save" in refused(MOS, "--continue_train")
    assert "nowhere holds no run to resume" in refused(MOS, "--continue_train", "--save", "nowhere")


@pytest.mark.parametrize("command", [TRAIN, ONLSTM, MOS])
def test_no_gpu(command: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(command, "--cuda", "--device", "auto")
    assert "asks for a GPU" in line
    assert "use --device cpu" in line


@pytest.fixture(scope="module")
def run(train: Run) -> Path:
    """Seven steps of a sparse run, a checkpoint at every third."""
    return train(TRAIN, "--sparse", "--max_steps", "7", "--checkpoint_interval", "3")


@pytest.mark.parametrize("how", ["cut off", "another bit", "empty"])
def test_a_damaged_checkpoint(
    how: str,
    run: Path,
    tmp_path: Path,
    copy_files: Callable[[Path, Path], Path],
    damage: Callable[[str, Path], None],
    refused: Refused,
    refusal: Refusal,
) -> None:
    copied = copy_files(run, tmp_path / "copied")
    for name in ("best.pt", "last.pt"):
        damage(how, copied / name)
    line = refusal(train_main, ["--resume", str(copied)])
    assert f"{copied / 'last.pt'} is damaged" in line
    assert f"its predecessor {copied / 'last.previous.pt'} is whole" in line
    best = f"{copied / 'best.pt'} is damaged"
    assert best in refused(TRAIN, "--evaluate", str(copied))
    assert best in refused(TRAIN, "--evaluate", str(copied / "best.pt"))
    assert best in refusal(generate_main, ["--checkpoint", str(copied)])
    assert best in refusal(export_main, [str(copied)])
    assert best in refusal(distances_main, [str(copied), "--text", "ba"])


class Pickled:
    """Something that only unpickling could read."""


def test_what_is_no_model(run: Path, corpus: Path, refused: Refused, refusal: Refusal) -> None:
    torch.save([Pickled()], "pickled.pt")
    torch.save({"a": torch.zeros(2)}, "foreign.pt")
    checkpoint.save(Path("kind.pt"), {"kind": "awdlm-train"})
    for command in (TRAIN, ONLSTM, MOS):
        assert "no checkpoint" in refused(command, "--evaluate", str(corpus / "train.txt"))
        assert "no checkpoint" in refused(command, "--evaluate", "pickled.pt")
        assert "foreign.pt: the state dict lacks" in refused(command, "--evaluate", "foreign.pt")
        assert "kind.pt is a checkpoint of awdlm-train, not of selfish-train" in refused(
            command, "--evaluate", "kind.pt"
        )
    assert f"{run}" in refused(ONLSTM, "--evaluate", str(run))
    assert "is a checkpoint of selfish-train, not of selfish-train-onlstm" in refused(ONLSTM, "--evaluate", str(run))


def test_flags_that_contradict_the_checkpoint(run: Path, refused: Refused, data: Path) -> None:
    assert "was trained with --nhid 12, not 20; leave it out" in refused(TRAIN, "--evaluate", str(run), "--nhid", "20")
    (data / "train.txt").write_text("other words " * 50)
    line = refused(TRAIN, "--evaluate", str(run), "--data", str(data))
    assert "has another vocabulary than" in line


def test_only_an_onlstm_tells_distances(run: Path, refusal: Refusal) -> None:
    line = refusal(distances_main, [str(run), "--text", "ba"])
    assert "is a model of selfish-train; only an ON-LSTM tells distances" in line


def spoil(training: Training) -> None:
    """Makes one weight NaN."""
    weight: Any = training.model.decoder.bias
    with torch.no_grad():
        weight[0] = float("nan")


@pytest.mark.parametrize("command", [TRAIN, ONLSTM, MOS])
def test_a_loss_that_becomes_nan(
    command: str,
    refused: Refused,
    before_step: Callable[..., None],
    assert_sound: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(f"nan-{command}")
    before_step(monkeypatch, training_module, 9, spoil)
    line = refused(command, "--sparse", "--run_dir", str(run), "--checkpoint_interval", "4")
    assert line == (
        "Error: stopped at step 9: the weights are no longer finite numbers; use a smaller --lr or --clip; "
        "the last checkpoint is from before it\n"
    )
    assert_sound(run / "last.pt", command, 8)


def test_a_disk_that_fills_while_a_checkpoint_is_written(
    refused: Refused,
    file_limit: Callable[[int], None],
    before_step: Callable[..., None],
    assert_sound: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_step(monkeypatch, training_module, 5, lambda training: file_limit(training.run.last.stat().st_size - 999))
    line = refused(TRAIN, "--sparse", "--run_dir", "full", "--checkpoint_interval", "3")
    assert "cannot write full/last.pt: no space left; the previous checkpoint is intact" in line
    assert_sound(Path("full/last.pt"), TRAIN, 3)


def test_a_directory_that_holds_a_run(run: Path, contents: Contents, refused: Refused) -> None:
    before = contents(run)
    assert "holds a run; --resume continues it" in refused(TRAIN, "--run_dir", str(run))
    assert contents(run) == before
