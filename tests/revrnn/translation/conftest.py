"""Number words to translate, and runs of the commands on them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from revrnn.translation.number_corpus import english, german
from revrnn.translation.preprocess import PreprocessOptions, preprocess
from revrnn.translation.train import main

REV = "-encoder_model Rev -decoder_model Rev -encoder_rnn_type {0} -decoder_rnn_type {0}"
REV += " -context_type slice_emb -slice_dim 5"


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train``, ``valid`` and ``test`` of number words, ``.en`` and ``.de``; not to be changed."""
    folder = tmp_path_factory.mktemp("numbers")
    for split, chosen in {"train": range(0, 999, 4), "valid": range(1, 999, 37), "test": range(2, 999, 61)}.items():
        for language, spell in (("en", english), ("de", german)):
            (folder / f"{split}.{language}").write_text("".join(spell(each) + "\n" for each in chosen))
    return folder


@pytest.fixture(scope="session")
def prefix(numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those numbers, preprocessed."""
    path = tmp_path_factory.mktemp("preprocessed") / "numbers"
    preprocess(options_of(numbers, path))
    return path


def options_of(folder: Path, prefix: Path) -> PreprocessOptions:
    files = {
        f"{split}_{side}": folder / f"{split}.{language}"
        for split in ("train", "valid", "test")
        for side, language in (("source", "en"), ("target", "de"))
    }
    return PreprocessOptions(save_data=str(prefix), **files)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def arguments(sandbox: Path, prefix: Path, tiny_words: Callable[..., list[str]]) -> list[str]:
    """The numbers and small sizes, for ``revrnn-nmt-train``."""
    return tiny_words("revrnn-nmt-train", numbers=prefix)


@pytest.fixture(scope="session")
def reversible() -> Callable[[str], list[str]]:
    """``reversible("revgru")``: the flags of a reversible model."""
    return lambda cell: REV.format(cell).split()


@pytest.fixture(scope="module")
def train(arguments: list[str], runner: Callable[..., Callable[..., Path]]) -> Callable[..., Path]:
    """Runs of ``revrnn-nmt-train`` at small sizes."""
    return runner(main, arguments)


@pytest.fixture
def refused(arguments: list[str], refusal: Callable[[click.Command, Sequence[str]], str]) -> Callable[..., str]:
    """``refused(*words)`` runs ``revrnn-nmt-train`` at small sizes, to end with one line of error, which it returns."""
    return lambda *words: refusal(main, [*arguments, *words])
