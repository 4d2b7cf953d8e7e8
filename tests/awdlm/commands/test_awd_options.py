"""The options of the awdlm commands, and the command lines of the original README."""

import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from awdlm.finetune import main as finetune
from awdlm.options import TrainOptions, build_model
from awdlm.pointer import main as pointer
from awdlm.qrnn import QRNNLayer
from awdlm.train import main as train
from rnncore import checkpoint, fetch
from rnncore.corpus import Corpus
from rnncore.data_command import main as data_command
from rnncore.flags import to_dict
from rnncore.lstm import LSTMLayer
from torch import nn

pytestmark = pytest.mark.usefixtures("sandbox")

CONTRACT = Path(__file__).parents[2] / "contracts" / "commands.yaml"
README: list[list[str]] = [shlex.split(line, comments=True) for line in yaml.safe_load(CONTRACT.read_text())["awdlm"]]
NAMES = ("penn", "pennchar", "wikitext-2", "wikitext-103", "enwik8")


def lines_of(script: str) -> list[Any]:
    """The README's command lines of a script, without its name."""
    return [pytest.param(words[1:], id=" ".join(words[1:])[-60:]) for words in README if words[0] == script]


def test_every_readme_command_is_run_below() -> None:
    counted = [len(lines_of(script)) for script in ("rnn-data", "awdlm-train", "awdlm-finetune", "awdlm-pointer")]
    assert counted == [1, 7, 4, 4]
    assert sum(counted) == len(README)


@pytest.fixture(autouse=True)
def stand_ins(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny corpus under the name of every data set of the README, and an empty working directory."""
    for name in NAMES:
        shutil.copytree(corpus, tmp_path / "data" / name)
    monkeypatch.setenv("RNN_DATA", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def number_of_parameters(config: dict[str, Any], types: int = 31) -> int:
    """From the papers' equations: every layer's weights and biases, and one matrix for embedding and decoder."""
    sizes = [config["embedding_size"], *[config["hidden_size"]] * (config["num_layers"] - 1), config["embedding_size"]]
    count = types * sizes[0] + types
    for number, (inputs, units) in enumerate(pairwise(sizes)):
        if config["model"] == "QRNN":
            count += 3 * units * ((2 if number == 0 else 1) * inputs + 1)
        else:
            count += {"LSTM": 4, "GRU": 3}[config["model"]] * units * (inputs + units + 2)
    return count


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], int]]:
    """What a dry run prints: the configuration, and the number of parameters."""

    def run(main: click.Command, words: list[str]) -> tuple[dict[str, Any], int]:
        capsys.readouterr()
        main([*words, "--dry_run", "--device", "cpu"], standalone_mode=False)
        text = capsys.readouterr().out
        ((number, trainable),) = re.findall(r"^# parameters: ([\d,]+) \(([\d,]+) trainable\)$", text, re.MULTILINE)
        assert number == trainable
        return yaml.safe_load(text), int(number.replace(",", ""))

    return run


@pytest.mark.parametrize("words", lines_of("awdlm-train"))
def test_a_readme_command_that_trains(words: list[str], shown: Callable[..., tuple[dict[str, Any], int]]) -> None:
    config, parameters = shown(train, words)
    assert parameters == number_of_parameters(config)
    assert config["model"] == ("QRNN" if "QRNN" in words else "LSTM")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("words", ["--model GRU", "--model LSTM --nlayers 1", "--model QRNN --nlayers 1 --nhid 7"])
def test_number_of_parameters(words: str, shown: Callable[..., tuple[dict[str, Any], int]]) -> None:
    config, parameters = shown(train, words.split())
    assert parameters == number_of_parameters(config)


@pytest.mark.parametrize(("model", "last"), [("LSTM", 4 * 9 * (9 + 9 + 2)), ("QRNN", 3 * 9 * (9 + 1))])
def test_untied_model_has_two_matrices_and_a_wider_last_layer(
    model: str, last: int, shown: Callable[..., tuple[dict[str, Any], int]]
) -> None:
    sizes = ["--emsize", "5", "--nhid", "9", "--nlayers", "2", "--model", model]
    config, parameters = shown(train, [*sizes, "--tied"])
    assert config["tied"] is False
    first = 4 * 9 * (5 + 9 + 2) if model == "LSTM" else 3 * 9 * (2 * 5 + 1)
    assert parameters == 31 * 5 + first + last + 31 * 9 + 31


def write_checkpoint(words: list[str], sizes: list[str]) -> None:
    """What ``awdlm-train`` of some flags would leave, not trained."""
    options = train.resolve([*words, *sizes])
    vocabulary = Corpus.load(Path("..", "data", "penn")).vocabulary
    state = {
        "kind": "awdlm-train",
        "config": to_dict(options),
        "vocabulary": list(vocabulary.tokens),
        "model": build_model(options, len(vocabulary)).state_dict(),
    }
    assert options.save is not None
    checkpoint.save(options.save, state)


def training_before(words: list[str]) -> list[str]:
    """The README's training of the model that a later command reads, by the file's name and the kind of layers."""
    name, qrnn = words[words.index("--save") + 1], "QRNN" in words
    for script, *others in README:
        if script == "awdlm-train" and name in others and ("QRNN" in others) == qrnn:
            return others
    raise AssertionError(f"nothing makes {name}")


@pytest.mark.parametrize("words", lines_of("awdlm-finetune"))
def test_a_readme_command_that_finetunes(words: list[str], shown: Callable[..., tuple[dict[str, Any], int]]) -> None:
    before = training_before(words)
    write_checkpoint(before, [])
    trained, _ = shown(train, before)
    config, parameters = shown(finetune, words)
    assert parameters == number_of_parameters(trained)
    kept = ("data", "model", "embedding_size", "hidden_size", "num_layers", "tied", "weight_drop", "dropout")
    assert {name: config[name] for name in kept} == {name: trained[name] for name in kept}
    assert {path.name for path in Path.cwd().iterdir()} == {words[words.index("--save") + 1]}


@pytest.mark.parametrize("words", lines_of("awdlm-pointer"))
def test_a_readme_command_with_a_cache(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(training_before(words), ["--emsize", "16", "--nhid", "12"])
    pointer([*words, "--device", "cpu", "--threads", "1"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    save, window = (words[words.index(flag) + 1] for flag in ("--save", "--window"))
    assert re.fullmatch(rf"\w+ in \S*{save} on \S+, cache of {window} states", lines[0])
    # 31 types and a model that knows nothing: a perplexity near 31.
    perplexities = [float(number) for line in lines[1:] for number in re.findall(r"ppl ([\d.]+)", line)]
    assert perplexities == [pytest.approx(31, rel=0.1)] * 4


@pytest.mark.parametrize("words", lines_of("rnn-data"))
def test_the_readme_command_that_gets_data(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for each of the data sets; nothing is downloaded here."""
    asked: list[str] = []
    monkeypatch.setattr(fetch, "get", lambda dataset, *, origin, force: asked.append(dataset.name))
    data_command(words, standalone_mode=False)
    assert asked == words[1:]
    assert set(asked) == set(NAMES)


def test_a_dry_run_leaves_nothing_behind() -> None:
    train(["--dry_run", "--run_dir", "dry", "--save", "dry.pt"], standalone_mode=False)
    assert list(Path.cwd().iterdir()) == []


RATES = {"dropout": 0.11, "dropout_hidden": 0.12, "dropout_input": 0.13, "dropout_words": 0.14, "weight_drop": 0.15}


@pytest.mark.parametrize("model", ["LSTM", "GRU", "QRNN"])
def test_model_gets_every_option(model: Any) -> None:
    lm = build_model(TrainOptions(model=model, embedding_size=8, hidden_size=12, num_layers=3, **RATES), 7)
    inner = [layer.get_submodule("module") for layer in lm.layers]
    assert all(isinstance(layer, {"LSTM": LSTMLayer, "GRU": nn.GRU, "QRNN": QRNNLayer}[model]) for layer in inner)
    assert [(layer.input_size, layer.hidden_size) for layer in inner] == [(8, 12), (12, 12), (12, 8)]
    assert [layer.p for layer in lm.layers] == [0.15] * 3
    assert [layer.p for layer in lm.drop_outputs] == [0.12, 0.12, 0.11]
    assert (lm.drop_input.p, lm.dropout_words) == (0.13, 0.14)
    assert lm.decoder.weight is lm.embedding.weight
    assert lm.decoder.weight.shape == (7, 8)
    if model == "QRNN":
        assert [layer.window for layer in inner] == [2, 1, 1]


def test_config_takes_flags_and_fields(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("nhid: 7\nweight_drop: 0.25\nwhen: [3, 4]\ntied: false\n")
    options = train.resolve(["--config", str(tmp_path / "some.yaml"), "--nhid", "8"])
    assert (options.hidden_size, options.weight_drop, options.when, options.tied) == (8, 0.25, (3, 4), False)
