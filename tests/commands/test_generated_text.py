"""What the generating commands write from the checkpoint of a tiny run."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from rnncore import checkpoint

Generate = Callable[..., str]
Refusal = Callable[[click.Command, Sequence[str]], str]

GENERATORS = {"awdlm-train": "awdlm-generate", "revrnn-train": "revrnn-generate"}
AWD = "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0 --alpha 0 --beta 0 --nlayers 1 --lr 5 --epochs 7"
#: Runs that know their text's commonest pairs of words.
LEARNT = {
    "LSTM": ("awdlm-train", AWD),
    "GRU": ("awdlm-train", f"{AWD} --model GRU"),
    "QRNN": ("awdlm-train", f"{AWD} --model QRNN"),
    "gru": ("revrnn-train", "--model gru --epochs 3 --dropout 0 --dropouti 0 --wdrop 0"),
}
CHARACTERS = {
    "awdlm-train": "--model QRNN --level character --max_steps 30",
    "revrnn-train": "--use_reverse --level character --max_steps 30",
}


class Model:
    """A run and the command that writes by it."""

    def __init__(self, command: Any, words: str, main: click.Command, write: Callable[..., str]) -> None:
        self.name, self.main, self._write = command.name, main, write
        self.run = command.run(*words.split())
        self.file = self.run / "best.pt"

    def text(self, *words: object, file: Path | None = None) -> str:
        return self._write(self.main, "--checkpoint", file or self.file, *words)


@pytest.fixture(scope="module")
def write(sandbox: Path) -> Callable[..., str]:
    """``write(main, *words)``: the text that a command line writes."""

    def run(main: click.Command, *words: object) -> str:
        main([*map(str, words), "--outf", "written.txt"], standalone_mode=False)
        return Path("written.txt").read_text(encoding="utf-8").removesuffix("\n")

    return run


@pytest.fixture(scope="module")
def make_model(
    make_command: Callable[[str], Any],
    command_named: Callable[[str], click.Command],
    write: Callable[..., str],
) -> Callable[[str, str], Model]:
    return lambda name, words: Model(make_command(name), words, command_named(GENERATORS[name]), write)


@pytest.fixture(scope="module", params=LEARNT)
def learnt(request: pytest.FixtureRequest, make_model: Callable[[str, str], Model]) -> Model:
    return make_model(*LEARNT[request.param])


@pytest.fixture(scope="module", params=GENERATORS)
def characters(request: pytest.FixtureRequest, make_model: Callable[[str, str], Model]) -> Model:
    return make_model(request.param, CHARACTERS[request.param])


def test_a_run_stands_for_its_best_model(characters: Model) -> None:
    assert characters.text("--words", 20, file=characters.run) == characters.text("--words", 20)


def test_the_seed_decides_the_text(learnt: Model) -> None:
    first = learnt.text("--words", 60, "--seed", 5)
    assert learnt.text("--words", 60, "--seed", 5) == first
    assert learnt.text("--words", 60, "--seed", 6) != first
    words = "--words", 30, "--temperature", 0
    assert learnt.text(*words, "--seed", 1) == learnt.text(*words, "--seed", 2)


def test_the_seed_decides_the_characters(characters: Model) -> None:
    first = characters.text("--words", 60, "--seed", 5)
    assert characters.text("--words", 60, "--seed", 5) == first
    assert characters.text("--words", 60, "--seed", 6) != first


def test_text_has_the_asked_length_and_known_words(learnt: Model) -> None:
    tokens = learnt.text("--words", 80, "--prompt", "ba").replace("\n", " <eos> ").split()
    assert 60 < len(tokens) <= 81  # line ends before and after the text are not shown
    assert set(tokens) <= set((learnt.run / "vocab.txt").read_text().split())


def test_likeliest_text_follows_the_corpus(learnt: Model, corpus: Path) -> None:
    """As it could not if the states went undecoded, or the state were not carried."""
    known = set(itertools.pairwise((corpus / "train.txt").read_text().replace("\n", " \n ").split(" ")))
    written = learnt.text("--words", 60, "--temperature", 0.1).replace("\n", " \n ").split(" ")
    found = [pair in known for pair in itertools.pairwise(written)]
    assert sum(found) / len(found) > 0.8


@pytest.mark.parametrize("prompt", ["ba de", "ba de\nga", "ba"])
def test_prompt_is_kept_and_read(prompt: str, learnt: Model) -> None:
    words = "--words", 8, "--temperature", 0
    text = learnt.text(*words, "--prompt", prompt)
    assert text.startswith(prompt)
    assert len(text) > len(prompt)
    others = {learnt.text(*words, "--prompt", other).removeprefix(other) for other in ("mo", "la ko", "gua")}
    assert others != {text.removeprefix(prompt)}


def test_prompt_of_characters_goes_on_within_the_word(characters: Model) -> None:
    text = characters.text("--words", 40, "--prompt", "ba d\nku")
    assert text.startswith("ba d\nku")
    assert 7 < len(text) <= 47
    assert set(text) <= set("bdgklmaeouin \n")


def test_unknown_words_of_a_prompt(learnt: Model, refusal: Refusal, tmp_path: Path) -> None:
    line = refusal(learnt.main, ["--checkpoint", str(learnt.file), "--prompt", "ba xyzzy"])
    assert "'xyzzy' is not in the vocabulary" in line
    saved = checkpoint.load(learnt.file)
    saved["vocabulary"][saved["vocabulary"].index("mua")] = "<unk>"
    checkpoint.save(tmp_path / "unk.pt", saved)
    words = "--words", 200, "--temperature", 3, "--prompt", "ba xyzzy"
    text = learnt.text(*words, file=tmp_path / "unk.pt")
    assert text.startswith("ba xyzzy")
    assert "<unk>" not in text
    assert "<unk>" in learnt.text(*words, "--unknown", file=tmp_path / "unk.pt")


def test_filters_leave_only_the_likeliest(learnt: Model) -> None:
    likeliest = learnt.text("--words", 20, "--temperature", 0)
    assert learnt.text("--words", 20, "--top_k", 1) == likeliest
    assert learnt.text("--words", 20, "--top_p", 1e-9) == likeliest
    assert learnt.text("--words", 20, "--top_k", 20) != likeliest


def test_what_is_printed_goes_to_a_file(
    learnt: Model, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "text.txt"
    learnt.main(["--checkpoint", str(learnt.file), "--outf", str(file)], standalone_mode=False)
    assert file.read_text() == capsys.readouterr().out
    assert file.read_text().count(" ") > 20
    words = ["--checkpoint", str(learnt.file), "--outf", str(tmp_path / "none" / "x.txt")]
    assert "cannot write" in refusal(learnt.main, words)


@pytest.mark.parametrize("place", ["newest", "run", "best.pt", "last.pt"])
def test_the_model_is_found(
    place: str,
    learnt: Model,
    write: Callable[..., str],
    copy_files: Callable[[Path, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(learnt.run, tmp_path / "runs" / learnt.name / "one")
    saved = checkpoint.load(run / "last.pt")
    name = next(name for name in saved["model"] if saved["model"][name].shape == (31,))
    saved["model"][name][3] += 9  # another model than the best
    checkpoint.save(run / "last.pt", saved)
    directory = "--run_dir" if learnt.name == "revrnn-train" else "--checkpoint"
    words = {"newest": [], "run": [directory, run]}.get(place, ["--checkpoint", run / place])
    same = write(learnt.main, *words, "--words", 40) == learnt.text("--words", 40)
    assert same == (place != "last.pt")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--checkpoint nowhere.pt", "there is no checkpoint nowhere.pt"),
        ("", "there is no run"),
        ("--temperature -1", "--temperature must be at least 0"),
        ("--temperature nan", "--temperature must be a finite number"),
        ("--top_k 0", "--top_k must be at least 1"),
        ("--top_p 0", "--top_p must be above 0"),
        ("--words 0", "--words must be at least 1"),
        (f"--seed {2**70}", "--seed must be at least 0 and at most"),
        ("--device gpu", "--device must be"),
    ],
)
@pytest.mark.parametrize(
    "name", ["awdlm-generate", "revrnn-generate", "selfish-generate", "rmc-generate", "rmc-generate-rnn"]
)
def test_text_that_cannot_be_written(
    name: str,
    words: str,
    expected: str,
    command_named: Callable[[str], click.Command],
    refusal: Refusal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(name.partition("-")[0])
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(command_named(name), words.split())
