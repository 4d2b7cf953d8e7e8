"""The command lines of the original README, and what a dry run tells of them."""

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
from rnncore import checkpoint
from rnncore.corpus import Corpus
from rnncore.flags import to_dict
from selfish.models import COMMANDS, build_model
from selfish.options import MOS, ONLSTM, TRAIN

pytestmark = pytest.mark.usefixtures("sandbox")

Mains = dict[str, click.Command]

CONTRACT = Path(__file__).parents[2] / "contracts" / "commands.yaml"
README: list[list[str]] = [shlex.split(line) for line in yaml.safe_load(CONTRACT.read_text())["selfish"]]
TRAINING = [words for words in README if "--evaluate" not in words]
TYPES = 31


@pytest.fixture(autouse=True)
def stand_ins(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny corpus under the name of the README's data set, and an empty working directory."""
    shutil.copytree(corpus, tmp_path / "data" / "penn")
    monkeypatch.setenv("RNN_DATA", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def sizes_of(command: str, config: dict[str, Any]) -> tuple[int, int]:
    """From the papers' equations: numbers of weights in matrices, and in biases."""
    size, units, layers = config["embedding_size"], config["hidden_size"], config["num_layers"]
    if command == TRAIN:
        widths = [size] + [units] * layers
        blocks = {"RHN": 2 if config["couple"] else 3, "LSTM": 4}[config["model"]]
        depth = config["depth"] if config["model"] == "RHN" else 1
        decoder = 0 if config["tied"] else TYPES * units
    else:
        widths, blocks, depth, decoder = [size, *[units] * (layers - 1), size], 4, 1, 0
    matrices, biases = TYPES * size + decoder, TYPES
    for inputs, outputs in pairwise(widths):
        rows = blocks * outputs
        if command == ONLSTM:
            rows += 2 * outputs // config["chunk_size"]
        matrices += rows * (inputs + depth * outputs)
        biases += rows * (1 + depth)
    if command == MOS:
        matrices += config["n_experts"] * size * (1 + size)
        biases += config["n_experts"] * size
    return matrices, biases


@pytest.fixture
def shown(mains: Mains, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], str]]:
    """What a dry run prints: the configuration, and its comments."""

    def run(command: str, words: list[str]) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        mains[command]([*words, "--dry_run", "--device", "cpu"], standalone_mode=False)
        text = capsys.readouterr().out
        assert list(Path.cwd().iterdir()) == []
        return yaml.safe_load(text), "".join(f"{line[2:]}\n" for line in text.splitlines() if line.startswith("# "))

    return run


DEFAULTS = [[MOS], [MOS, "--sparse"], [TRAIN, "--model", "RHN", "--emsize", "20", "--nhid", "20"], [ONLSTM]]


@pytest.mark.parametrize("line", [*TRAINING, *DEFAULTS], ids=lambda line: " ".join(line)[:60])
def test_a_command_that_trains(line: list[str], shown: Callable[..., tuple[dict[str, Any], str]]) -> None:
    command, *words = line
    config, comments = shown(command, words)
    matrices, biases = sizes_of(command, config)
    assert f"parameters: {matrices + biases:,} ({matrices + biases:,} trainable)\n" in comments
    share = float(re.findall(r"\(([\d.]+)%\)$", comments, re.MULTILINE)[0]) / 100
    if not config["sparse"]:
        assert share == 1.0
        assert "density" not in comments
        return
    (density, living) = re.findall(r"^all +([\d.]+) +0 +0 +([\d,]+) +100.0%$", comments, re.MULTILINE)[0]
    assert float(density) == pytest.approx(config["density"], abs=1e-4)
    assert int(living.replace(",", "")) == pytest.approx(config["density"] * matrices, abs=30)
    assert share == pytest.approx(config["density"], abs=0.002)
    assert "gate" in comments


def test_the_readme_command_that_evaluates(mains: Mains, capsys: pytest.CaptureFixture[str]) -> None:
    """With a checkpoint of a small network, which describes itself."""
    ((command, *words),) = [line for line in README if "--evaluate" in line]
    words[words.index("--emsize") + 1] = words[words.index("--nhid") + 1] = "1500"
    options = mains[TRAIN].resolve(["--emsize", "16", "--nhid", "12"])  # type: ignore[attr-defined]
    vocabulary = Corpus.load(Path("..", "data", "penn")).vocabulary
    state = {
        "kind": TRAIN,
        "config": to_dict(options),
        "vocabulary": list(vocabulary.tokens),
        "model": build_model(options, len(vocabulary)).state_dict(),
    }
    checkpoint.save(Path("model_path"), state)
    words = [word for word in words if word != "--cuda"]
    mains[command]([*words, "--device", "cpu"], standalone_mode=False)
    perplexities = re.findall(r"^model_path \| (valid|test) .* ppl ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    # 31 types and a model that knows nothing: a perplexity near 31.
    assert [split for split, _ in perplexities] == ["valid", "test"]
    assert all(float(number) == pytest.approx(TYPES, rel=0.1) for _, number in perplexities)


@pytest.mark.parametrize("line", TRAINING, ids=lambda line: " ".join(line)[:60])
def test_a_readme_command_of_a_small_network_trains(
    line: list[str], mains: Mains, rows_of: Callable[..., list[dict[str, Any]]], assert_sparse: Callable[[Path], Any]
) -> None:
    command, *words = line
    small = ["--emsize", "20", "--nhid", "20", "--batch_size", "4", "--max_steps", "25", "--lr", "1", "--threads", "1"]
    words = [word for word in words if word != "--cuda"]
    mains[command]([*words, *small, "--device", "cpu", "--run_dir", "run"], standalone_mode=False)
    assert rows_of(Path("run"), "test")[-1]["step"] == 25
    assert_sparse(Path("run"))


def test_every_readme_command_is_run_above() -> None:
    assert [line[0] for line in README] == [TRAIN, TRAIN, ONLSTM, TRAIN]
    assert {line[0] for line in README} <= COMMANDS.keys()


def test_the_mixture_decodes_once_for_each_expert(shown: Callable[..., tuple[dict[str, Any], str]]) -> None:
    operations = []
    for experts in (1, 3):
        _, comments = shown(MOS, ["--n_experts", str(experts), "--emsize", "400"])
        operations.append(float(re.findall(r"inference ([\d.]+) M", comments)[0]))
    more = 2 * 2 * (TYPES * 400 + 400 * 400 + 400) / 1e6  # decoder, contexts and weights of two more experts
    assert operations[1] - operations[0] == pytest.approx(more, abs=0.011)
