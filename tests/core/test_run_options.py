"""The flags of every training command, and the description that ``--dry_run`` prints."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rnncore.config_file import read_config
from rnncore.errors import UserError
from rnncore.flags import command, flag, from_dict
from rnncore.run_options import RunOptions, describe


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """A training command's own flags."""

    max_forget: float = flag(0.875, "--max_forget", help="limit")
    continue_train: bool = flag(False, "--continue_train", help="go on")
    learning_rate: float = flag(20.0, "--lr", help="learning rate")


@command(Options, name="some-train")
def some_train(options: Options) -> None:
    """Train."""


def test_the_flags_of_a_run() -> None:
    line = "--run_dir runs/a --resume --dry-run --max_steps 5 --device cuda:1 --amp bf16 --threads 2"
    assert some_train.resolve(line.split()) == Options(
        run_dir=Path("runs/a"), resume="", dry_run=True, max_steps=5, device="cuda:1", amp="bf16", threads=2
    )
    assert some_train.resolve(["--amp", "none", "--threads", "none"]) == Options()


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_names_of_devices(device: str) -> None:
    assert some_train.resolve(["--device", device]).device == device


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--device gpu", "--device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ("--device cuda:", "--device must be auto, cpu, cuda or cuda:N, not 'cuda:'"),
        ("--device=cpu:0", "--device must be auto, cpu, cuda or cuda:N, not 'cpu:0'"),
        ("--amp fp16", "--amp must be one of bf16, not 'fp16'; did you mean bf16?"),
        ("--threads 0", "--threads must be at least 1, not 0"),
        ("--max_steps -1", "--max_steps must be at least 0, not -1"),
    ],
)
def test_bad_values(line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        some_train.resolve(line.split())
    assert error.value.message == message


def test_a_command_keeps_the_abbreviations_of_its_own_flags() -> None:
    assert some_train.resolve(["--max", "0.5"]).max_forget == 0.5
    assert some_train.resolve(["--con"]).continue_train
    assert some_train.resolve(["--max_s", "3", "--thr", "2"]) == Options(max_steps=3, threads=2)
    with pytest.raises(UserError, match=r"^--r is ambiguous: it could be --run_dir, --resume$"):
        some_train.resolve(["--r", "3"])


def test_the_description_is_a_configuration_and_counts_parameters(tmp_path: Path) -> None:
    tied = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 50))
    tied[2].weight = tied[0].weight
    tied[1].bias.requires_grad_(False)
    options = Options(learning_rate=1e-6, run_dir=Path("runs/a"))
    text = describe(options, tied)
    total = 50 * 8 + (8 * 8 + 8) + 50
    assert text.splitlines()[-1] == f"# parameters: {total} ({total - 8} trainable)"
    (tmp_path / "config.yaml").write_text(text)
    assert from_dict(Options, read_config(tmp_path / "config.yaml")) == options
    assert "# parameters: 1,001,000 (" in describe(options, torch.nn.Linear(1000, 1000))
