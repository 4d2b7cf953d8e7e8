"""The options of ``revrnn-train``: what does not go together, and the model that they describe."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM
from revrnn.options import TrainOptions, build_model
from revrnn.train import main
from rnncore.errors import UserError
from torch import nn

pytestmark = pytest.mark.usefixtures("sandbox")

CONTRACT = Path(__file__).parents[2] / "contracts" / "commands.yaml"
README_LINES: list[str] = yaml.safe_load(CONTRACT.read_text())["revrnn-lm"]


@pytest.mark.parametrize("line", README_LINES)
def test_a_readme_command_resolves_to_a_model(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    script, *words = shlex.split(line)
    assert script == "revrnn-train"
    main([*words, "--dry_run", "--device", "cpu"], standalone_mode=False)
    shown = capsys.readouterr().out
    config = yaml.safe_load(shown)
    given = {flag[2:]: value for flag, value in pairwise(words) if not value.startswith("--")}
    assert {name: config[name] for name in given} == given
    assert config["use_reverse"] == ("--use_reverse" in words)
    assert config["use_buffers"] == ("--use_buffers" in words)
    # 31 types with a bias; N rows of weights with E inputs, the units that they multiply, and biases.
    rows, units, biases = {"gru": (3, 650, 2), "lstm": (4, 650, 2), "revgru": (3, 325, 1)}[config["model"]]
    expected = 31 * (650 + 1) + rows * 650 * (650 + units + biases)
    assert f"# parameters: {expected:,} ({expected:,} trainable)" in shown


def test_a_dry_run_leaves_nothing_behind(sandbox: Path) -> None:
    before = sorted(sandbox.iterdir())
    main(["--dry_run", "--run_dir", "dry"], standalone_mode=False)
    assert sorted(sandbox.iterdir()) == before


@pytest.mark.parametrize("name", ["--h_size", "--emb_size"])
def test_odd_sizes_are_refused_for_reversible_models_only(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} 33 must be even"):
        main.resolve([name, "33"])
    assert isinstance(build_model(main.resolve([name, "33", "--model", "gru"]), 5), BaselineLM)


@pytest.mark.parametrize("model", ["gru", "lstm"])
@pytest.mark.parametrize("name", ["--use_reverse", "--use_buffers"])
def test_reversal_needs_a_reversible_model(model: str, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} needs --model revgru or revlstm; {model} cannot be reversed"):
        main.resolve(["--model", model, name])


def test_only_reversal_is_captured() -> None:
    assert main.resolve(["--cuda_graph", "--use_reverse"]).cuda_graph
    for words in (["--cuda_graph"], ["--cuda_graph", "--model", "lstm"]):
        with pytest.raises(UserError, match="--cuda_graph needs --use_reverse"):
            main.resolve(words)


SIZES: dict[str, Any] = {"embedding_size": 8, "hidden_size": 12, "num_layers": 3}
RATES = {"dropout": 0.11, "dropout_hidden": 0.12, "dropout_input": 0.13, "dropout_words": 0.14, "weight_drop": 0.15}


@pytest.mark.parametrize("model", ["gru", "lstm"])
def test_baseline_gets_every_option(model: str) -> None:
    lm = build_model(TrainOptions(model=model, **SIZES, **RATES), 7)
    assert isinstance(lm, BaselineLM)
    inner = [layer.get_submodule("module") for layer in lm.layers]
    assert all(isinstance(layer, nn.GRU if model == "gru" else nn.LSTM) for layer in inner)
    assert [(layer.input_size, layer.hidden_size) for layer in inner] == [(8, 12), (12, 12), (12, 8)]
    assert [layer.p for layer in lm.layers] == [0.15] * 3
    assert [layer.p for layer in lm.drop_outputs] == [0.12, 0.12, 0.11]
    assert (lm.drop_input.p, lm.dropout_words) == (0.13, 0.14)
    assert lm.vocabulary.weight.shape == (7, 8)


@pytest.mark.parametrize("model", ["revgru", "revlstm"])
def test_reversible_model_gets_every_option(model: str) -> None:
    lm = build_model(TrainOptions(model=model, max_forget=0.75, **SIZES, **RATES), 7)
    assert isinstance(lm, ReversibleLM)
    state = lm.initial_state(5)
    assert [tuple(part.shape) for part in state] == [(2 if model == "revgru" else 4, 5, half) for half in (6, 6, 4)]
    assert all(part.dtype == torch.int32 for part in state)
    assert {name: getattr(lm, name) for name in RATES} == RATES
    assert (lm.max_forget, lm.kind, lm.vocabulary.weight.shape) == (0.75, model[3:], (7, 8))
