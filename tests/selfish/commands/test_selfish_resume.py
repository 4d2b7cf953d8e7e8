"""What a sparse run that goes on must agree with."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from rnncore import checkpoint
from selfish.options import TRAIN

Run = Callable[..., Path]
Mains = dict[str, click.Command]

SPARSE = ["--sparse", "--density", "0.4"]


@pytest.fixture(scope="module")
def stopped(train: Run) -> Path:
    """A sparse run that has done five steps of its first epoch."""
    return train(TRAIN, *SPARSE, "--epochs", "2", "--max_steps", "5", "--checkpoint_interval", "2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--density", "0.2"], "was begun with --density 0.4, not 0.2"),
        (["--sparsity", "0.2"], "was begun with --sparsity None, not 0.2"),
        (["--growth", "gradient"], "was begun with --growth random, not gradient"),
        (["--death-rate-decay", "linear"], "was begun with --death-rate-decay cosine, not linear"),
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
