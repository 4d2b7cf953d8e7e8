"""Mistakes on the command lines: one clear line each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
import torch
from rnncore import checkpoint
from selfish.distances import main as distances_main
from selfish.options import MOS, ONLSTM, TRAIN

Run = Callable[..., Path]
Refused = Callable[..., str]
Refusal = Callable[[click.Command, Sequence[str]], str]
Contents = Callable[[Path], dict[Path, bytes]]

pytestmark = pytest.mark.usefixtures("sandbox")


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


@pytest.fixture(scope="module")
def run(train: Run) -> Path:
    """Seven steps of a sparse run, a checkpoint at every third."""
    return train(TRAIN, "--sparse", "--max_steps", "7", "--checkpoint_interval", "3")


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
