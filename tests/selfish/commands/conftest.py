"""Runs of the training commands on the tiny corpus, and an evaluation that shares no code with theirs.

Shapes: T time steps, B columns.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from rnncore import checkpoint
from rnncore.flags import from_dict
from selfish import command as command_module
from selfish.models import COMMANDS, build_model
from selfish.options import MOS, ONLSTM, TRAIN
from selfish.train import main as train_main
from selfish.train_mos import main as mos_main
from selfish.train_onlstm import main as onlstm_main
from torch import Tensor

Run = Callable[..., Path]

MAINS: dict[str, click.Command] = {TRAIN: train_main, ONLSTM: onlstm_main, MOS: mos_main}
DROPOUTS = {
    TRAIN: ("dropout", "dropouth", "dropouti", "dropoute"),
    ONLSTM: ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "alpha", "beta"),
    MOS: ("dropout", "dropouth", "dropouti", "dropoute", "dropoutl", "wdrop", "alpha", "beta"),
}


@pytest.fixture(scope="session")
def mains() -> dict[str, click.Command]:
    """The training commands by name."""
    return MAINS


@pytest.fixture(scope="session")
def plain() -> Callable[[str], list[str]]:
    """``plain(command)``: no dropout and no penalty."""
    return lambda command: [word for name in DROPOUTS[command] for word in (f"--{name}", "0")]


@pytest.fixture(scope="module")
def arguments(sandbox: Path, tiny_words: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """``arguments(command)``: the corpus and small sizes."""
    return tiny_words


@pytest.fixture(scope="module", autouse=True)
def pictures() -> Iterator[dict[str, Callable[..., object]]]:
    """No run draws its masks, which takes longer than the rest of it; the functions that would."""
    with pytest.MonkeyPatch.context() as patch:
        real = {name: getattr(command_module, name) for name in ("draw_densities", "draw_overlap")}
        for name in real:
            patch.setattr(command_module, name, lambda *_: None)
        yield real


@pytest.fixture(scope="module")
def train(arguments: Callable[[str], list[str]], runner: Callable[..., Run]) -> Run:
    """``train(command, *further)`` runs a command in this process, at small sizes; the run directory."""
    runs = {command: runner(main, arguments(command), command) for command, main in MAINS.items()}
    return lambda command, *further: runs[command](*further)


@pytest.fixture
def refused(
    arguments: Callable[[str], list[str]], refusal: Callable[[click.Command, Sequence[str]], str]
) -> Callable[..., str]:
    """``refused(command, *words)``: the one line of error of a training command at small sizes."""
    return lambda command, *words: refusal(MAINS[command], [*arguments(command), *words])


@pytest.fixture(scope="session")
def build() -> Callable[[dict[str, Any]], Any]:
    """``build(saved)``: the model of a checkpoint, in float64, without dropout."""

    def make(saved: dict[str, Any]) -> Any:
        options = from_dict(COMMANDS[saved["kind"]], saved["config"])
        model = build_model(options, len(saved["vocabulary"])).double().eval()
        model.load_state_dict(saved["model"])
        return model

    return make


@pytest.fixture
def evaluated_by_hand(
    corpus: Path, tokens_of: Callable[[Path, str], list[str]], build: Callable[[dict[str, Any]], Any]
) -> Callable[[Path, str, int], float]:
    """``evaluated_by_hand(file, split, columns)``: the mean of -log p over all targets, one window, float64."""

    def evaluate(file: Path, split: str, columns: int) -> float:
        saved = checkpoint.load(file)
        model = build(saved)
        ids = torch.tensor([saved["vocabulary"].index(token) for token in tokens_of(corpus, split)])
        text = ids[: len(ids) // columns * columns].view(columns, -1).t()
        found, _ = model.log_probabilities(text[:-1], model.initial_state(columns))
        return -float(found.gather(2, text[1:, :, None]).mean())

    return evaluate


@pytest.fixture(scope="session")
def assert_sparse() -> Callable[[Path], dict[str, Tensor]]:
    """``assert_sparse(run)``: nothing lives where the masks of ``last.pt`` have no weight. The masks."""

    def check(run: Path) -> dict[str, Tensor]:
        saved = checkpoint.load(run / "last.pt")
        masks: dict[str, Tensor] = saved["masking"]["masks"]
        order = [name for name, _ in named_once(saved["model"])]
        for name, mask in masks.items():
            assert not saved["model"][name][~mask].any(), name
            if saved["averages"]["averages"]:
                assert not saved["averages"]["averages"][order.index(name)][~mask].any(), name
                assert torch.equal(saved["averages"]["births"][name] != 0, mask), name
        return masks

    return check


def named_once(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The entries of a state dict, of those that share memory the first."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        seen.setdefault(tensor.data_ptr(), (name, tensor))
    return list(seen.values())
