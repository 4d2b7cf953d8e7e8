"""``awdlm-generate``: text from the checkpoint of a tiny run."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from awdlm.generate import main
from rnncore import checkpoint

Run = Callable[..., Path]
Refused = Callable[..., str]
Generate = Callable[..., str]


@pytest.fixture(scope="module", params=["LSTM", "GRU", "QRNN"])
def file(request: pytest.FixtureRequest, train: Run, plain: list[str]) -> Path:
    """A word-level model that knows its text's commonest pairs of words."""
    words = ["--model", request.param, *plain, "--nlayers", "1", "--lr", "5", "--epochs", "7"]
    return train(*words) / "best.pt"


@pytest.fixture(scope="module")
def lstm(train: Run, plain: list[str]) -> Path:
    return train(*plain, "--nlayers", "1", "--lr", "5", "--epochs", "7") / "best.pt"


@pytest.fixture(scope="module")
def characters(train: Run) -> Path:
    """A model of characters."""
    return train("--model", "QRNN", "--level", "character", "--max_steps", "30") / "best.pt"


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Generate:
    """The text that a command line prints."""

    def write(*words: object) -> str:
        capsys.readouterr()
        main([str(word) for word in (*words, "--device", "cpu")], standalone_mode=False)
        return capsys.readouterr().out.removesuffix("\n")

    return write


@pytest.mark.parametrize("level", ["lstm", "characters"])
def test_the_seed_decides_the_text(level: str, generate: Generate, request: pytest.FixtureRequest) -> None:
    words = "--checkpoint", request.getfixturevalue(level), "--words", 60
    first = generate(*words, "--seed", 5)
    assert generate(*words, "--seed", 5) == first
    assert generate(*words, "--seed", 6) != first


def test_temperature_0_needs_no_seed(lstm: Path, generate: Generate) -> None:
    words = "--checkpoint", lstm, "--words", 30, "--temperature", 0
    assert generate(*words, "--seed", 1) == generate(*words, "--seed", 2)


def test_text_has_the_asked_length_and_known_words(lstm: Path, generate: Generate) -> None:
    text = generate("--checkpoint", lstm, "--words", 80, "--prompt", "ba")
    tokens = text.replace("\n", " <eos> ").split()
    assert 60 < len(tokens) <= 81  # line ends before and after the text are not shown
    assert set(tokens) <= set((lstm.parent / "vocab.txt").read_text().split())


def test_likeliest_text_follows_the_corpus(file: Path, generate: Generate, corpus: Path) -> None:
    """As it could not if the states went undecoded, or the state were not carried."""
    known = (corpus / "train.txt").read_text().replace("\n", " \n ").split(" ")
    pairs = set(itertools.pairwise(known))
    written = generate("--checkpoint", file, "--words", 60, "--temperature", 0.1).replace("\n", " \n ").split(" ")
    found = [pair in pairs for pair in itertools.pairwise(written)]
    assert sum(found) / len(found) > 0.8


@pytest.mark.parametrize("prompt", ["ba de", "ba de\nga", "ba"])
def test_prompt_is_kept_and_read(prompt: str, lstm: Path, generate: Generate) -> None:
    words = "--checkpoint", lstm, "--words", 8, "--temperature", 0
    text = generate(*words, "--prompt", prompt)
    assert text.startswith(prompt)
    assert len(text) > len(prompt)
    others = {generate(*words, "--prompt", other).removeprefix(other) for other in ("mo", "la ko", "gua")}
    assert others != {text.removeprefix(prompt)}


def test_prompt_of_characters_goes_on_within_the_word(characters: Path, generate: Generate) -> None:
    text = generate("--checkpoint", characters, "--words", 40, "--prompt", "ba d\nku")
    assert text.startswith("ba d\nku")
    assert 7 < len(text) <= 47
    assert set(text) <= set("bdgklmaeouin \n")


def test_unknown_words_of_a_prompt(lstm: Path, generate: Generate, refused: Refused, tmp_path: Path) -> None:
    line = refused("--checkpoint", str(lstm), "--prompt", "ba xyzzy", command=main)
    assert "'xyzzy' is not in the vocabulary" in line
    saved = checkpoint.load(lstm)
    saved["vocabulary"][saved["vocabulary"].index("mua")] = "<unk>"
    checkpoint.save(tmp_path / "unk.pt", saved)
    words = "--checkpoint", tmp_path / "unk.pt", "--words", 200, "--temperature", 3
    text = generate(*words, "--prompt", "ba xyzzy")
    assert text.startswith("ba xyzzy")
    assert "<unk>" not in text
    assert "<unk>" in generate(*words, "--prompt", "ba xyzzy", "--unknown")


def test_filters_leave_only_the_likeliest(lstm: Path, generate: Generate) -> None:
    words = "--checkpoint", lstm, "--words", 20
    likeliest = generate(*words, "--temperature", 0)
    assert generate(*words, "--top_k", 1) == likeliest
    assert generate(*words, "--top_p", 1e-9) == likeliest
    assert generate(*words, "--top_k", 20) != likeliest


def test_text_goes_to_a_file(lstm: Path, generate: Generate, refused: Refused, sandbox: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    text = generate("--checkpoint", lstm, "--words", 30, "--outf", file)
    assert file.read_text() == text + "\n"
    assert (sandbox / "generated.txt").read_text() == generate("--checkpoint", lstm, "--words", 20) + "\n"
    line = refused("--checkpoint", str(lstm), "--outf", str(tmp_path / "none" / "x.txt"), command=main)
    assert "cannot write" in line


def test_flags_of_the_original_that_are_not_needed(lstm: Path, generate: Generate) -> None:
    words = "--checkpoint", lstm, "--words", 20
    assert generate(*words, "--data", "nowhere", "--model", "QRNN", "--log-interval", 7) == generate(*words)


@pytest.mark.parametrize("place", ["run", "newest", "best.pt", "last.pt", "finetuned", "model.pt"])
def test_the_model_is_found(
    place: str,
    lstm: Path,
    finetune: Run,
    generate: Generate,
    copy_files: Callable[[Path, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copy_files(lstm.parent, tmp_path / "runs" / "awdlm-train" / "one")
    saved = checkpoint.load(run / "last.pt")
    saved["model"]["decoder.bias"][3] += 9  # another model than the best
    checkpoint.save(run / "last.pt", saved)
    if place == "model.pt":  # the flag's default
        (tmp_path / "model.pt").write_bytes((run / "last.pt").read_bytes())
    if place == "finetuned":
        finetune("--save", str(run / "best.pt"), "--epochs", "1", "--lr", "3", "--run_dir", "finetuning")
    found = {"run": run, "best.pt": run / "best.pt", "last.pt": run / "last.pt"}
    words = ["--checkpoint", run / "best.finetuned.pt"] if place == "finetuned" else []
    words = ["--checkpoint", found[place]] if place in found else words
    same = generate("--checkpoint", run / "best.pt", "--words", 40) == generate(*words, "--words", 40)
    assert same == (place in ("run", "newest", "best.pt"))
