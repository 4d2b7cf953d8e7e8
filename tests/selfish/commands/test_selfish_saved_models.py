"""What trained models are used for: text, syntactic distances, exports."""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from selfish.distances import main as distances_main
from selfish.export_command import main as export_main
from selfish.generate import main as generate_main
from selfish.onlstm_cell import onlstm_cell
from selfish.options import MOS, ONLSTM, TRAIN
from selfish.saved_model import find

Run = Callable[..., Path]
Words = Callable[[str], list[str]]

LEARNT = ["--sparse", "--density", "0.6", "--nlayers", "1", "--optimizer", "adam", "--adam_lr", "0.05", "--epochs", "5"]


@pytest.fixture(scope="module", params=[TRAIN, ONLSTM, MOS])
def run(request: pytest.FixtureRequest, train: Run, plain: Words) -> Path:
    """A model that knows its text's commonest pairs of words."""
    return train(request.param, *plain(request.param), *LEARNT)


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The text that a command line prints."""

    def write(*words: object) -> str:
        capsys.readouterr()
        generate_main([str(word) for word in (*words, "--device", "cpu")], standalone_mode=False)
        return capsys.readouterr().out.removesuffix("\n")

    return write


def test_text_has_the_pairs_of_the_corpus(
    run: Path, generate: Callable[..., str], corpus: Path, tokens_of: Callable[[Path, str], list[str]]
) -> None:
    text = generate("--checkpoint", run, "--words", 150, "--outf", "text.txt")
    assert Path("text.txt").read_text() == text + "\n"
    known = set(itertools.pairwise(tokens_of(corpus, "train")))
    pairs = list(itertools.pairwise(text.split()))
    assert sum(pair in known for pair in pairs) > 0.6 * len(pairs)  # by chance 0.35


def test_the_newest_run_and_an_export_write_the_same_text(
    run: Path, generate: Callable[..., str], sandbox: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    export_main([str(run), "--repeats", "1"], standalone_mode=False)
    words = ["--words", 40, "--seed", 5]
    text = generate("--checkpoint", run / "best.pt", *words)
    assert generate("--checkpoint", run / "best.sparse.pt", *words) == text
    assert generate("--checkpoint", run / "best.pt", *words[:2], "--seed", 6) != text
    command = checkpoint.load(run / "best.pt")["kind"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / command).mkdir(parents=True)
    (tmp_path / "runs" / command / "copy").symlink_to(run, target_is_directory=True)
    assert generate(*words) == text


def test_the_newest_run_is_that_which_trained_last(
    train: Run, copy_files: Callable[[Path, Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = train(TRAIN, "--max_steps", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / ONLSTM / "not_begun").mkdir(parents=True)
    older, newer = (copy_files(run, tmp_path / "runs" / command / "one") for command in (TRAIN, MOS))
    for file in older.iterdir():
        os.utime(file, (1, 1))
    (older / "best.sparse.pt").touch()  # an export is no training
    assert find(None, flag="--checkpoint").resolve() == newer / "best.pt"


def test_no_run_to_write_text_with(refusal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name a checkpoint with --checkpoint" in refusal(generate_main, [])


def test_a_model_that_is_far_off(
    train: Run, arguments: Callable[[str], list[str]], mains: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = train(TRAIN, "--max_steps", "1") / "best.pt"
    saved = checkpoint.load(file)
    saved["model"]["decoder.bias"][0] = 1e4
    checkpoint.save(file, saved)
    mains[TRAIN]([*arguments(TRAIN), "--evaluate", str(file)], standalone_mode=False)
    assert "test ppl inf" in capsys.readouterr().out


def test_an_export_is_smaller_and_tells_so(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(ONLSTM, "--sparse", "--density", "0.2", "--emsize", "60", "--nhid", "60", "--max_steps", "1")
    capsys.readouterr()
    export_main([str(run), "small.pt", "--repeats", "2"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "written: small.pt" in out
    assert re.search(r"^file [\d.]+ MB, dense", out, re.MULTILINE)
    assert Path("small.pt").stat().st_size < 0.7 * (run / "best.pt").stat().st_size


@torch.no_grad()
def distances_by_hand(saved: dict[str, Any], words: list[str], layer: int, gate: int) -> list[float]:
    """The cells in a loop."""
    weights, chosen = saved["model"], []
    drop = 1 - saved["config"]["weight_drop"]  # drop-connect in evaluation
    sizes = [weights[f"layers.{number}.weight_hh_l0"].shape[1] for number in range(3)]
    state = [(torch.zeros(1, size), torch.zeros(1, size)) for size in sizes]
    for word in ["<eos>", *words]:
        x = weights["encoder.weight"][saved["vocabulary"].index(word)][None]
        for number in range(3):
            ih, hh, bias_ih, bias_hh = (
                weights[f"layers.{number}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, c, *found = onlstm_cell(x, state[number], ih, drop * hh, bias_ih, bias_hh)
            state[number], x = (h, c), h
            if number == layer - 1:
                chosen.append(float(found[gate]))
    return chosen[1:]


@pytest.mark.parametrize(("words", "layer", "gate"), [([], 2, 0), (["--layer", "3", "--gate", "input"], 3, 1)])
def test_syntactic_distances(
    words: list[str], layer: int, gate: int, train: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(ONLSTM, "--nlayers", "3", "--max_steps", "5")
    text = "ba de dua min ga ba"
    capsys.readouterr()
    distances_main([str(run), "--text", text, "--output", "tree.png", *words], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    told = [float(line.split()[1]) for line in lines[1 : len(text.split())]]
    expected = distances_by_hand(checkpoint.load(run / "best.pt"), text.split(), layer, gate)
    assert told == pytest.approx(expected[1:], abs=1e-4)
    assert re.sub("[()]", "", lines[-2]) == text
    assert Path("tree.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", "ba", "--layer", "4"], "--layer 4 is not there"),
        (["--text", ""], "--text has no words"),
        (["--text", "xyzzy"], "xyzzy"),
        (["--text", "ba de", "--output", "tree.txt"], "give a name that ends in .png, .pdf or .svg"),
    ],
)
def test_distances_that_cannot_be_told(words: list[str], expected: str, train: Run, refusal: Any) -> None:
    run = train(ONLSTM, "--nlayers", "3", "--max_steps", "1")
    assert expected in refusal(distances_main, [str(run), *words])
