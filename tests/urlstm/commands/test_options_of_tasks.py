"""Flags, YAML keys and shipped configurations; bad input is one clear line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from rnncore.config_file import read_config
from rnncore.flags import OptionsCommand, to_dict
from urlstm import compare, gate_histograms, train_adding, train_copy, train_images, train_language
from urlstm.options import CONFIGURATIONS

COMMANDS: dict[str, OptionsCommand[Any]] = {
    "adding": train_adding.main,
    "copy": train_copy.main,
    "images": train_images.main,
    "language": train_language.main,
}
Refused = Callable[..., str]

#: Keys and defaults of the port's YAML files.
CONTRACT: dict[str, dict[str, Any]] = {
    "adding": {
        "seq_length": 2000,
        "hidden_size": 256,
        "model_type": "ur-lstm",
        "forget_bias": 1.0,
        "batch_size": 10,
        "learning_rate": 0.001,
        "n_steps": 100_000,
        "seed": 22,
    },
    "copy": {
        "time_lag": 480,
        "hidden_size": 256,
        "model_type": "ur-lstm",
        "forget_bias": 1.0,
        "batch_size": 10,
        "learning_rate": 0.001,
        "n_steps": 10_000,
        "seed": 22,
    },
    "images": {
        "dataset_type": "mnist",
        "hidden_size_lstm": 1024,
        "hidden_size_relu": 256,
        "model_type": "ur-lstm",
        "forget_bias": 1.0,
        "batch_size": 50,
        "learning_rate": 0.001,
        "n_epochs": 150,
        "save_model": True,
        "seed": 22,
    },
    "language": {
        "dropout_rate": 0.3,
        "embedding_size": 1024,
        "hidden_size": 3072,
        "model_type": "ur-lstm",
        "forget_bias": 1.0,
        "batch_size": 128,
        "seq_length": 128,
        "learning_rate": 0.001,
        "n_epochs": 100,
        "save_model": True,
        "seed": 22,
    },
}
each_task = pytest.mark.parametrize("task", COMMANDS)


@each_task
def test_defaults_are_those_of_the_port(task: str) -> None:
    options = to_dict(COMMANDS[task].resolve([]))
    assert {key: options[key] for key in CONTRACT[task]} == CONTRACT[task]


@each_task
def test_the_configuration_of_the_paper_is_the_default(task: str) -> None:
    assert COMMANDS[task].resolve(["--config", "paper"]) == COMMANDS[task].resolve([])
    assert CONTRACT[task].items() <= read_config(CONFIGURATIONS / task / "paper.yaml").items()


@each_task
def test_a_file_and_flags_say_the_same(task: str, tmp_path: Path) -> None:
    values = {"model_type": "r-lstm", "forget_bias": None, "learning_rate": 0.01, "seed": 3, "batch_size": 2}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    line = "--model_type r-lstm --forget_bias none --learning_rate 0.01 --seed 3 --batch_size 2"
    command = COMMANDS[task]
    assert command.resolve(["--config", str(tmp_path / "own.yaml")]) == command.resolve(line.split())


@each_task
def test_quick_is_shipped_and_smaller(task: str, sandbox: Path) -> None:
    command = COMMANDS[task]
    quick, default = command.resolve(["--config", "quick"]), command.resolve([])
    assert quick != default
    sizes = [name for name in ("hidden_size", "hidden_size_lstm") if hasattr(quick, name)]
    assert all(getattr(quick, name) < getattr(default, name) for name in sizes)
    assert command.resolve(["--config", "quick", "--seed", "9"]).seed == 9
    Path("quick").write_text("seed: 8\n")  # a file of this name wins
    try:
        assert command.resolve(["--config", "quick"]).seed == 8
    finally:
        Path("quick").unlink()


@pytest.mark.shared
def test_the_contract_is_the_one_agreed_on(shared: Path) -> None:
    assert yaml.safe_load((shared / "spec" / "urlstm.yaml").read_text()) == CONTRACT


BAD = [
    ("adding", "--model_type gru-lstm", "--model_type must be one of lstm, c-lstm, u-lstm"),
    ("adding", "--gate u_lstm", "did you mean u-lstm?"),
    ("adding", "--seq_length 1", "--seq_length must be at least 2, not 1"),
    ("adding", "--seq_length 0", "--seq_length must be at least 2, not 0"),
    ("adding", "--hidden_size 1 --run_dir never", "hidden_size of at least 2"),
    ("adding", "--lr nan", "--learning_rate must be a finite number, not nan"),
    ("adding", "--forget_bias x", "--forget_bias must be a number, not 'x'"),
    ("adding", "--n_steps 0", "--n_steps must be at least 1, not 0"),
    ("adding", "--clip 0", "--clip must be above 0, not 0"),
    ("adding", "--t_max 2", "--t_max must be at least 3, not 2"),
    ("adding", "--seed -1", "--seed must be at least 0"),
    ("adding", "--config nowhere.yaml", "cannot read the configuration nowhere.yaml"),
    ("adding", "--config Quick", "cannot read the configuration Quick"),
    ("adding", "--resume nowhere", "nowhere holds no run to resume"),
    ("adding", "--time_lag 3", "unknown flag '--time_lag'"),
    ("copy", "--time_lag 0", "--time_lag must be at least 1, not 0"),
    ("images", "--dataset_type fashion", "--dataset_type must be one of mnist, p-mnist, cifar-10, digits"),
    ("images", "--readout first", "--readout must be one of last, all"),
    ("images", "--data nowhere", "--data nowhere is no directory"),
    ("images", "--dataset_type cifar-10 --data text", "text has no data_batch_1.bin"),
    ("images", "--data text", "text has no train-images-idx3-ubyte"),
    ("language", "--data nowhere", "'nowhere' is no directory and no data set"),
    ("language", "", "get it with 'rnn-data get wikitext-103'"),
    ("language", "--data text --batch_size 900", "900 columns need 1800; use a smaller --batch_size"),
    ("language", "--dropout_rate 1", "--dropout_rate must be at least 0 and below 1, not 1"),
]


@pytest.mark.parametrize(("task", "words", "expected"), BAD)
def test_a_command_line_that_cannot_run(task: str, words: str, expected: str, refused: Refused) -> None:
    assert expected in refused(COMMANDS[task], *words.split())
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seq_lenght: 100\n", "unknown key 'seq_lenght'; did you mean seq_length?"),
        ("dataset_type: mnist\n", "unknown key 'dataset_type'"),
        ("model_type: foo\n", "model_type must be one of lstm"),
        ("hidden_size: many\n", "hidden_size must be a whole number, not 'many'"),
        ("seq_length: 100\nseq_length: 200\n", "seq_length stands twice"),
        ("- 1\n", "a configuration is a list of lines"),
    ],
)
def test_a_file_that_is_wrong(content: str, expected: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(content)
    assert expected in refused(train_adding.main, "--config", str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        (compare.main, "adding --gates foo", "u-lstm, r-lstm, ur-lstm, o-lstm, or-lstm, gru, ur-gru, not 'foo'"),
        (compare.main, "adding --gates lstm,u_lstm", "('u_lstm' is none of them), not 'lstm,u_lstm'"),
        (compare.main, "adding --gates lstm,lstm", "--gates must name each gate once"),
        (compare.main, "adding --seeds 0", "--seeds must be at least 1, not 0"),
        (compare.main, "adding --model_type lstm", "a comparison takes its gates from --gates"),
        (compare.main, "adding --resume", "a comparison goes on by itself"),
        (compare.main, "adding --time_lag 3", "unknown flag '--time_lag'"),
        (compare.main, "language --run_dir grid", "get it with 'rnn-data get wikitext-103'"),
        (gate_histograms.main, "nowhere", "there is no checkpoint"),
    ],
)
def test_other_commands(command: click.Command, words: str, expected: str, refused: Refused) -> None:
    assert expected in refused(command, *words.split())
