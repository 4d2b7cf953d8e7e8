"""Values from configuration files and plain dictionaries: what wins, what is refused, round trips."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from rnncore.config_file import config_text
from rnncore.errors import UserError
from rnncore.flags import command, flag, from_dict, to_dict


@dataclass(frozen=True, kw_only=True)
class Options:
    """One field of every sort that a configuration file can state."""

    hidden_size: int = flag(1150, "--h_size", "--nhid", help="units per layer", minimum=1)
    unit: Literal["lstm", "gru", "revgru"] = flag("revgru", "--model", help="recurrent unit")
    learning_rate: float = flag(20.0, "--lr", help="learning rate", above=0.0)
    epochs: int = flag(40, "--epochs", help="passes over the data", minimum=1)
    interval: int = flag(200, "--log-interval", help="steps between lines", minimum=1)
    when: tuple[int, ...] = flag((-1,), "--when", nargs="+", help="epochs of decay", minimum=1)
    cutoffs: tuple[int, ...] = flag((10, 20), "--cutoffs", nargs="*", help="cluster bounds")
    betas: tuple[float, ...] | None = flag(None, "--betas", nargs="+", help="two numbers", minimum=0.0, below=1.0)
    use_reverse: bool = flag(False, "--use_reverse", help="train by reversing")
    tied: bool = flag(True, "--tied", inverts=True, help="share the embedding")
    forget_bias: float | None = flag(1.0, "--forget_bias", help="none: torch's own")
    growth: str = flag("random", "-growth", help="how connections grow")
    resume: str | None = flag(None, "--resume", optional_value="", help="go on")
    words: tuple[str, ...] = flag((), "-words", nargs="*", help="any text")
    folder: Path | None = flag(None, "--folder", help="where to write")
    others: tuple[Path, ...] = flag((), "--others", nargs="*", help="where to look")
    even: int = flag(2, "--even", help="even number", check=lambda n: "must be even" if n % 2 else None)
    step: float = flag(-0.2, "-s", help="negative means unset", minimum=0.0)


@command(Options, name="some-train")
def some_train(options: Options) -> None:
    """Train something."""


def resolve(line: str) -> Options:
    return some_train.resolve(shlex.split(line))


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "conf.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "line", "changed"),
    [
        ("lr: 1", "", {"learning_rate": 1.0}),
        ("lr: 1e-3", "", {"learning_rate": 0.001}),
        ("learning_rate: 1", "", {"learning_rate": 1.0}),
        ("log_interval: 3", "", {"interval": 3}),
        ("log-interval: 3", "", {"interval": 3}),
        ("--log-interval: 3", "", {"interval": 3}),
        ("nhid: 3\nmodel: gru", "", {"hidden_size": 3, "unit": "gru"}),
        ("when: [25, 35]", "", {"when": (25, 35)}),
        ("when: [-1]", "", {}),
        ("cutoffs: []", "", {"cutoffs": ()}),
        ("betas: [0, 0.5]", "", {"betas": (0.0, 0.5)}),
        ("betas: null", "", {}),
        ("forget_bias: null", "", {"forget_bias": None}),
        ("folder: a/b", "", {"folder": Path("a/b")}),
        ("tied: false", "", {"tied": False}),
        ("tied: no", "", {"tied": False}),
        ("use_reverse: true", "", {"use_reverse": True}),
        ("words: ['1', b c]", "", {"words": ("1", "b c")}),
        ("s: 3", "", {"step": 3.0}),
        ("s: -0.2", "", {}),
        ("", "", {}),
        ("lr: 1\nepochs: 3", "--lr 2", {"learning_rate": 2.0, "epochs": 3}),
        ("lr: 1", "--lr 20", {}),
        ("use_reverse: true", "--use_reverse=false", {}),
        ("tied: false", "--tied=true", {}),
        ("forget_bias: 3", "--forget_bias none", {"forget_bias": None}),
        ("when: [25, 35]", "--when -1", {}),
        ("cutoffs: [1]", "--cutoffs", {"cutoffs": ()}),
    ],
)
def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(
    config: Callable[[str], str], text: str, line: str, changed: dict[str, Any]
) -> None:
    expected = dataclasses.replace(Options(), **changed)
    assert resolve(f"--config {config(text)} {line}") == expected
    assert resolve(f"{line} --config={config(text)}") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr: 1", "unknown key 'lrr'; did you mean lr?"),
        ("learning_rte: 1", "unknown key 'learning_rte'; did you mean learning_rate?"),
        ("zzzz: 1", "unknown key 'zzzz'"),
        ("1: 2", "unknown key 1"),
        ("config: other.yaml", "unknown key 'config'"),
        ("epoch: 3", "unknown key 'epoch'; did you mean epochs?"),
        ("lr: 0", "lr must be above 0, not 0.0"),
        ("lr: .nan", "lr must be a finite number, not nan"),
        ("lr: -.inf", "lr must be a finite number, not -inf"),
        ("lr: '20'", "lr must be a number, not '20'"),
        ("lr: [20]", "lr must be a number, not [20]"),
        ("lr: {x: 1}", "lr must be a number, not {'x': 1}"),
        ("lr: true", "lr must be a number, not True"),
        ("lr:", "lr must be a number, not None"),
        ("lr: " + "9" * 400, "lr must be a number, not " + "9" * 57 + "..."),
        ("nhid: 1.0", "nhid must be a whole number, not 1.0"),
        ("nhid: true", "nhid must be a whole number, not True"),
        ("hidden-size: 0", "hidden-size must be at least 1, not 0"),
        ("even: 3", "even must be even, not 3"),
        ("model: foo", "model must be one of lstm, gru, revgru, not 'foo'"),
        ("model: [gru]", "model must be text, not ['gru']"),
        ("growth: 3", "growth must be text, not 3; put it in quotes"),
        ("when: 25", "when must be a list such as [1, 2], not 25"),
        ("when: []", "when needs at least one value"),
        ("when: [1, x]", "when must be a whole number, not 'x'"),
        ("use_reverse: 1", "use_reverse must be true or false, not 1"),
        ("use_reverse: maybe", "use_reverse must be true or false, not 'maybe'"),
        ("folder: 3", "folder must be a path, not 3"),
        ("folder: ''", "folder must be a path, not ''"),
        ("lr: 1\nlearning_rate: 2", "learning_rate is given twice, under two of its names"),
    ],
)
def test_mistakes_in_a_file_name_file_and_key(config: Callable[[str], str], text: str, message: str) -> None:
    path = config(text)
    with pytest.raises(UserError) as error:
        resolve(f"--config {path}")
    assert error.value.message == f"{path}: {message}"


def test_a_missing_or_broken_file_is_told(config: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: No such file or directory$"):
        resolve("--config absent.yaml")
    with pytest.raises(UserError, match=r"conf\.yaml, line 2: not valid YAML"):
        resolve(f"--config {config('lr: 1' + chr(10) + '  x: [')}")
    with pytest.raises(UserError, match=r"^--config needs a value$"):
        resolve("--config")


def test_to_dict_from_dict_and_config_file_are_a_round_trip(tmp_path: Path) -> None:
    options = resolve(
        "--lr 1e-6 --when 1 2 --betas .1 --folder a/b --growth 1e-3 --resume --tied "
        "--words off 010 '' --cutoffs --others a b/c"
    )
    plain = to_dict(options)
    assert list(plain) == [field.name for field in dataclasses.fields(Options)]
    assert (plain["when"], plain["folder"], plain["betas"], plain["tied"]) == ([1, 2], "a/b", [0.1], False)
    assert from_dict(Options, json.loads(json.dumps(plain))) == options
    (tmp_path / "config.yaml").write_text(config_text(plain))
    assert resolve(f"--config {tmp_path / 'config.yaml'}") == options
    assert from_dict(Options, to_dict(Options())) == Options()


def test_from_dict_holds_values_to_the_rules() -> None:
    assert from_dict(Options, {}) == Options()
    assert from_dict(Options, {"when": (3,)}).when == (3,)
    with pytest.raises(UserError, match=r"^last\.pt: unknown key 'hiden_size'; did you mean hidden_size\?$"):
        from_dict(Options, {"hiden_size": 3}, source="last.pt")
    with pytest.raises(UserError, match=r"^options: epochs must be at least 1, not 0$"):
        from_dict(Options, {"epochs": 0})


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The keys of a recurrent image classifier that was configured by a file alone."""

    dataset: Literal["mnist", "p-mnist", "cifar-10"] = flag("mnist", "--dataset_type", help="data")
    hidden_size: int = flag(1024, "--hidden_size_lstm", help="units", minimum=1)
    relu_size: int = flag(256, "--hidden_size_relu", help="units", minimum=1)
    forget_bias: float | None = flag(1.0, "--forget_bias", help="null: torch's own")
    epochs: int = flag(150, "--n_epochs", help="passes", minimum=1)
    save_model: bool = flag(True, "--save_model", help="keep the model")


@command(ImageOptions, name="images")
def images(options: ImageOptions) -> None:
    """Classify."""


def test_a_command_that_was_configured_by_a_file_alone(config: Callable[[str], str]) -> None:
    text = (
        "dataset_type: p-mnist\nhidden_size_lstm: 512  # units\nhidden_size_relu: 128\n"
        "forget_bias: null\nn_epochs: 3\nsave_model: false\n"
    )
    from_file = images.resolve(["--config", config(text)])
    assert from_file == ImageOptions(
        dataset="p-mnist", hidden_size=512, relu_size=128, forget_bias=None, epochs=3, save_model=False
    )
    words = "--dataset_type p-mnist --hidden_size_lstm 512 --hidden_size_relu 128 --forget_bias null --n_epochs 3"
    assert images.resolve([*words.split(), "--save_model=false"]) == from_file
