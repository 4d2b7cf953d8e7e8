"""``awdlm-pointer``: the losses of a tiny model with a continuous cache, against a loop over tokens in float64."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from awdlm.model import AWDModel
from awdlm.pointer import main
from rnncore import checkpoint, side_by_side
from torch import Tensor

Run = Callable[..., Path]
Refused = Callable[..., str]
ByHand = Callable[[Path, str, int], float]
Figures = dict[str, dict[str, float]]

MODELS = {
    "LSTM": ["--model", "LSTM"],
    "GRU": ["--model", "GRU", "--tied"],
    "QRNN": ["--model", "QRNN"],
    "characters": ["--model", "QRNN", "--level", "character"],
}
CACHE = ["--lambdasm", "0.2", "--theta", "0.8"]


@pytest.fixture(scope="module", params=MODELS)
def file(request: pytest.FixtureRequest, train: Run) -> Path:
    """A model that has learned a little."""
    return train(*MODELS[request.param], "--optimizer", "adam", "--lr", "0.05", "--epochs", "3") / "best.pt"


@pytest.fixture(scope="module")
def lstm(train: Run) -> Path:
    return train("--optimizer", "adam", "--lr", "0.03", "--epochs", "1") / "best.pt"


@pytest.fixture
def figures(tmp_path: Path) -> Callable[..., Figures]:
    """What ``--output`` holds after a command line."""

    def run(*words: object) -> Figures:
        output = tmp_path / "figures.json"
        texts = [str(word) for word in (*words, "--output", output, "--device", "cpu", "--threads", "1")]
        main(texts, standalone_mode=False)
        found: Figures = json.loads(output.read_text())
        return found

    return run


@pytest.fixture
def slow(
    corpus: Path,
    text_of: Callable[..., Tensor],
    build: Callable[[dict[str, Any]], Any],
    all_log_probabilities: Callable[[Any, Tensor], Tensor],
) -> Callable[..., float]:
    """The loss of a split, token by token from the equations, with theta 0.8 and a share of 0.2."""

    @torch.no_grad()
    def evaluate(file: Path, split: str, window: int, partial: bool) -> float:
        saved = checkpoint.load(file)
        model, text = build(saved), text_of(corpus, split, 1, saved)
        state, history, total = model.initial_state(1), [], 0.0
        for t in range(len(text) - 1):
            outputs = model(text[t : t + 1], state)
            state, hidden = outputs.state, outputs.dropped[-1]
            target = int(text[t + 1])
            probability = float(all_log_probabilities(model, hidden)[0, 0, target].exp())
            if len(history) > (0 if partial else window):
                votes = [(math.exp(0.8 * float(hidden[0, 0] @ key)), word) for key, word in history[-window:]]
                agreeing = sum(vote for vote, word in votes if word == target)
                probability = 0.8 * probability + 0.2 * agreeing / sum(vote for vote, _ in votes)
            total -= math.log(probability)
            history.append((hidden[0, 0], target))
        return total / (len(text) - 1)

    return evaluate


@pytest.mark.parametrize("partial", [False, True])
def test_losses_are_those_of_the_equations(
    partial: bool, file: Path, figures: Callable[..., Figures], slow: Callable[..., float], evaluated_by_hand: ByHand
) -> None:
    found = figures("--save", file, *CACHE, "--window", 30, *["--partial"] * partial)
    for split in ("valid", "test"):
        assert found[split]["model"] == pytest.approx(evaluated_by_hand(file, split, 1), rel=1e-5)
        assert found[split]["cached"] == pytest.approx(slow(file, split, 30, partial), rel=1e-5)
        assert abs(found[split]["cached"] - found[split]["model"]) > 1e-4
        assert found[split]["seconds"] > 0


@pytest.mark.parametrize("length", [1, 7, 64, 5000])
def test_bptt_does_not_change_the_result(length: int, file: Path, figures: Callable[..., Figures]) -> None:
    whole = figures("--save", file, *CACHE, "--window", 20)
    cut = figures("--save", file, *CACHE, "--window", 20, "--bptt", length)
    for split in ("valid", "test"):
        for loss in ("model", "cached"):
            assert cut[split][loss] == pytest.approx(whole[split][loss], rel=1e-6)


def test_pieces_side_by_side_do_not_change_the_result(
    file: Path, data: Path, figures: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("valid.txt", "test.txt"):
        (data / name).write_bytes((data / name).read_bytes() * 10)
    words = ["--save", file, "--data", data, *CACHE, "--window", 20, "--bptt", 20]
    whole = figures(*words)
    columns: list[int] = []
    forward = AWDModel.forward

    def counted(self: AWDModel, ids: Tensor, state: Any) -> Any:
        columns.append(ids.shape[1])
        return forward(self, ids, state)

    monkeypatch.setattr(AWDModel, "forward", counted)
    monkeypatch.setattr(side_by_side, "PIECES", 3)
    monkeypatch.setattr(side_by_side, "SHORTEST_PIECE", 40)
    cut = figures(*words)
    for split in ("valid", "test"):
        for loss in ("model", "cached"):
            assert cut[split][loss] == pytest.approx(whole[split][loss], rel=1e-6)
    assert columns.count(3) > columns.count(1)


def test_mixed_precision(file: Path, figures: Callable[..., Figures]) -> None:
    exact = figures("--save", file, *CACHE, "--window", 20)["test"]
    found = figures("--save", file, *CACHE, "--window", 20, "--amp", "bf16")["test"]
    for loss in ("model", "cached"):
        assert found[loss] == pytest.approx(exact[loss], rel=1e-2)
        assert found[loss] != exact[loss]


def test_a_cache_that_is_never_full_is_not_used(lstm: Path, figures: Callable[..., Figures]) -> None:
    found = figures("--save", lstm, "--window", 222)  # valid has 223 tokens: 222 positions
    assert found["valid"]["cached"] == found["valid"]["model"]
    assert figures("--save", lstm, "--window", 222, "--partial")["valid"]["cached"] != found["valid"]["model"]


def test_figures_are_printed(file: Path, figures: Callable[..., Figures], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    found = figures("--save", file, *CACHE, "--window", 30)
    config = checkpoint.load(file)["config"]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{config['model']} in {file} on {config['data']}, cache of 30 states"
    for line, (split, losses) in zip(lines, found.items(), strict=True):
        unit, *numbers = re.findall(rf"{split}: (ppl|bpc) ([\d.]+) without .* ([\d.]+) with it \| [\d.]+ ms", line)[0]
        as_shown = (lambda loss: loss / math.log(2)) if config["level"] == "character" else math.exp
        assert unit == ("bpc" if config["level"] == "character" else "ppl")
        expected = [as_shown(losses[name]) for name in ("model", "cached")]
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=6e-4)


def test_a_model_that_is_far_off(
    lstm: Path, figures: Callable[..., Figures], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.load(lstm)
    saved["model"]["decoder.bias"][0] = 1e4
    checkpoint.save(tmp_path / "far.pt", saved)
    assert figures("--save", tmp_path / "far.pt", "--window", 30)["test"]["model"] > 1000
    assert "test: ppl inf without the cache" in capsys.readouterr().out


def test_an_infinite_loss_is_null(lstm: Path, figures: Callable[..., Figures]) -> None:
    """One state that the cache holds cannot have been followed by every word: some target has probability 0."""
    found = figures("--save", lstm, "--lambdasm", "1", "--window", "1")
    assert all(losses["cached"] is None and losses["model"] > 0 for losses in found.values())


@pytest.mark.parametrize("place", ["run", "file", "newest", "finetuned"])
def test_the_model_is_found(
    place: str,
    lstm: Path,
    finetune: Run,
    figures: Callable[..., Figures],
    copy_files: Callable[[Path, Path], Path],
    evaluated_by_hand: ByHand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(lstm.parent, tmp_path / "runs" / "awdlm-train" / "one")
    file = run / "best.pt"
    if place == "finetuned":
        finetune("--save", str(file), "--max_steps", "2", "--run_dir", "finetuning")
        file = run / "best.finetuned.pt"
    words = {"run": ["--save", run], "newest": []}.get(place, ["--save", file])
    assert figures(*words)["test"]["model"] == pytest.approx(evaluated_by_hand(file, "test", 1), rel=1e-5)


def test_best_pt_of_this_folder_comes_before_the_newest_run(
    lstm: Path, figures: Callable[..., Figures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag's default names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.pt").write_bytes(lstm.read_bytes())
    assert figures()["test"]["model"] == figures("--save", lstm)["test"]["model"]


def test_other_data_of_the_same_vocabulary(lstm: Path, data: Path, figures: Callable[..., Figures]) -> None:
    before = figures("--save", lstm)
    (data / "test.txt").write_bytes((data / "valid.txt").read_bytes())
    found = figures("--save", lstm, "--data", data)
    assert found["test"]["model"] == found["valid"]["model"] == before["valid"]["model"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "QRNN"], "holds the model LSTM, not QRNN; use --model LSTM or another checkpoint"),
        (["--model", "RNN"], "--model must be one of LSTM, GRU, QRNN"),
        (["--save", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--data", "nowhere"], "'nowhere' is no directory and no data set"),
        (["--output", "nowhere/figures.json"], "cannot write --output nowhere/figures.json: there is no folder"),
        (["--lambdasm", "1.5"], "--lambdasm must be at least 0 and at most 1"),
        (["--theta", "-1"], "--theta must be at least 0"),
        (["--window", "0"], "--window must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated(words: list[str], expected: str, lstm: Path, refused: Refused) -> None:
    assert expected in refused("--save", str(lstm), "--device", "cpu", *words, command=main)


def test_data_of_another_vocabulary(lstm: Path, data: Path, refused: Refused) -> None:
    (data / "test.txt").write_text("ba de xyzzy\n")
    line = refused("--save", str(lstm), "--data", str(data), command=main)
    assert f"{data} has another vocabulary than the model; give the --data it was trained on" in line


def test_no_model(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(command=main)
    assert (
        line == "Error: there is no best.pt, and there is no run in runs/awdlm-train; name a checkpoint with --save\n"
    )
