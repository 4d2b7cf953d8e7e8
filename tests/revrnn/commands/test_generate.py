"""``revrnn-generate``: text from the checkpoint of a tiny run."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from revrnn.generate import main
from rnncore import checkpoint

Train = Callable[..., Path]
Refused = Callable[..., str]
Generate = Callable[..., str]


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    """A word-level model that knows its text's commonest pairs of words."""
    return train("--model", "gru", "--epochs", "3", "--dropout", "0", "--dropouti", "0", "--wdrop", "0")


@pytest.fixture(scope="module")
def characters(train: Train) -> Path:
    """A model of characters."""
    return train("--use_reverse", "--level", "character", "--max_steps", "30")


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Generate:
    """The text that a command line prints."""

    def write(*words: object) -> str:
        capsys.readouterr()
        main([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out.removesuffix("\n")

    return write


@pytest.mark.parametrize("level", ["run", "characters"])
def test_the_seed_decides_the_text(level: str, generate: Generate, request: pytest.FixtureRequest) -> None:
    words = "--run_dir", request.getfixturevalue(level), "--words", 60
    first = generate(*words, "--seed", 5)
    assert generate(*words, "--seed", 5) == first
    assert generate(*words, "--seed", 6) != first


def test_temperature_0_needs_no_seed(run: Path, generate: Generate) -> None:
    words = "--run_dir", run, "--words", 30, "--temperature", 0
    assert generate(*words, "--seed", 1) == generate(*words, "--seed", 2)


def test_text_has_the_asked_length_and_known_words(run: Path, generate: Generate) -> None:
    text = generate("--run_dir", run, "--words", 80, "--prompt", "ba")
    tokens = text.replace("\n", " <eos> ").split()
    assert 60 < len(tokens) <= 81  # line ends before and after the text are not shown
    assert set(tokens) <= set((run / "vocab.txt").read_text().split())


def test_likeliest_text_follows_the_corpus(run: Path, generate: Generate, corpus: Path) -> None:
    known = (corpus / "train.txt").read_text().replace("\n", " \n ").split(" ")
    pairs = set(itertools.pairwise(known))
    written = generate("--run_dir", run, "--words", 60, "--temperature", 0.1).replace("\n", " \n ").split(" ")
    found = [pair in pairs for pair in itertools.pairwise(written)]
    assert sum(found) / len(found) > 0.8


@pytest.mark.parametrize("prompt", ["ba de", "ba de\nga", "ba"])
def test_prompt_is_kept_and_read(prompt: str, run: Path, generate: Generate) -> None:
    words = "--run_dir", run, "--words", 8, "--temperature", 0
    text = generate(*words, "--prompt", prompt)
    assert text.startswith(prompt)
    assert len(text) > len(prompt)
    others = {generate(*words, "--prompt", other).removeprefix(other) for other in ("mo", "la ko", "gua")}
    assert others != {text.removeprefix(prompt)}


def test_prompt_of_characters_goes_on_within_the_word(characters: Path, generate: Generate) -> None:
    text = generate("--run_dir", characters, "--words", 40, "--prompt", "ba d\nku")
    assert text.startswith("ba d\nku")
    assert 7 < len(text) <= 47
    assert set(text) <= set("bdgklmaeouin \n")


def test_unknown_words_of_a_prompt(
    run: Path, generate: Generate, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused("--run_dir", str(run), "--prompt", "ba xyzzy", command=main)
    assert "'xyzzy' is not in the vocabulary" in line
    saved = checkpoint.load(run / "best.pt")
    saved["vocabulary"][saved["vocabulary"].index("mua")] = "<unk>"
    file = tmp_path / "unk.pt"
    checkpoint.save(file, saved)
    words = "--checkpoint", file, "--words", 200, "--temperature", 3
    text = generate(*words, "--prompt", "ba xyzzy")
    assert text.startswith("ba xyzzy")
    assert "<unk>" not in text
    assert "<unk>" in generate(*words, "--prompt", "ba xyzzy", "--unknown")


def test_filters_leave_only_the_likeliest(run: Path, generate: Generate) -> None:
    words = "--run_dir", run, "--words", 20
    likeliest = generate(*words, "--temperature", 0)
    assert generate(*words, "--top_k", 1) == likeliest
    assert generate(*words, "--top_p", 1e-9) == likeliest
    assert generate(*words, "--top_k", 20) != likeliest


def test_outf_holds_what_is_printed(run: Path, generate: Generate, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    text = generate("--run_dir", run, "--outf", file)
    assert file.read_text() == text + "\n"
    line = refused("--run_dir", str(run), "--outf", str(tmp_path / "none" / "x.txt"), command=main)
    assert "cannot write" in line


def test_newest_run_is_taken(
    generate: Generate, run: Path, sandbox: Path, copy_files: Callable[[Path, Path], Path]
) -> None:
    copy_files(run, sandbox / "runs" / "revrnn-train" / "one")
    assert generate("--words", 20) == generate("--words", 20, "--run_dir", run)


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_checkpoint_can_be_named(name: str, run: Path, generate: Generate) -> None:
    assert generate("--checkpoint", run / name, "--words", 5)
