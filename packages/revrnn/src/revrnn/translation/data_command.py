"""``revrnn-nmt-data``: gets a parallel corpus, tokenises it, and makes it ready for ``revrnn-nmt-train``."""

import tempfile
from pathlib import Path

import click
from rnncore.errors import UserError
from rnncore.plain_command import plain_command

from revrnn.translation.preprocess import PreprocessOptions, preprocess
from revrnn.translation.raw_corpora import CORPORA, LANGUAGES, gather, save_text
from revrnn.translation.tokenization import tokenized

#: What the preprocessed data are called, in the folder of the corpus.
PREFIXES = {"multi30k": "multi30k.tok.low", "iwslt": "en-de.tok.low", "toy": "toy.tok.low"}
FOLDERS = {"multi30k": "data/multi30k", "iwslt": "data/en-de", "toy": "data/toy"}


@plain_command("revrnn-nmt-data")
@click.argument("name", type=click.Choice(sorted(CORPORA)))
@click.option("--from", "origin", metavar="DIR", type=Path, help="Take the raw files from here; no network is needed.")
@click.option("--output", metavar="DIR", type=Path, help="Where the files go; data/multi30k, data/en-de or data/toy.")
def main(name: str, origin: Path | None, output: Path | None) -> None:
    """Get a corpus of English and German: multi30k (captions), iwslt (talks, 2016) or toy (number words).

    The text is tokenised as Moses does, with aggressive hyphens and no escaping, and made lower case; then vocabularies
    and ids are made of it. Prints what to give to revrnn-nmt-train as -data. toy needs no download.
    """
    folder = output or Path(FOLDERS[name])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".raw-") as work:
            _tokenize(name, origin, Path(work), folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    files = {split: names[0] for split, names in CORPORA[name].files.items()}
    paths = {
        f"{side}_{end}": folder / f"{files[split]}.{language}.tok.low"
        for side, split in (("train", "train"), ("valid", "val"), ("test", "test"))
        for end, language in zip(("source", "target"), LANGUAGES, strict=True)
    }
    preprocess(PreprocessOptions(**paths, save_data=str(folder / PREFIXES[name]), lower=True))  # type: ignore[arg-type]


def _tokenize(name: str, origin: Path | None, work: Path, folder: Path) -> None:
    corpus = CORPORA[name]
    for (split, language), lines in gather(name, origin, work).items():
        click.echo(f"{split}.{language}: {len(lines):,} sentences")
        text = list(tokenized(lines, language)) if corpus.tokenize else lines
        save_text(folder, corpus.files[split][0], language, text)
