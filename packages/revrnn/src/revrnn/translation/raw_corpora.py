"""The raw files of the translation corpora: where they come from, what is in them.

A raw corpus is a folder with a file of each split and language, one sentence a line.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from rnncore.archives import extract, is_archive
from rnncore.dataset_description import Download
from rnncore.errors import UserError
from rnncore.mirrors import download

from revrnn.translation import number_corpus
from revrnn.translation.parallel_text import read_lines, write_lines

LANGUAGES = ("en", "de")
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_WMT16 = "http://www.quest.dcs.shef.ac.uk/wmt16_files_mmt"
_TED = "IWSLT16.TED.{}.en-de"


@dataclass(frozen=True, kw_only=True)
class RawCorpus:
    """A corpus by name.

    ``files``: of each split the names, without language, that its files may have; the first is what it is called in
    the folder that is made. ``downloads``: what is fetched. ``inner``: an archive within the downloaded one. ``clean``:
    makes sentences of a file's lines. ``tokenize``: whether the text needs it.
    """

    files: dict[str, tuple[str, ...]]
    downloads: tuple[Download, ...] = ()
    inner: str | None = None
    clean: Callable[[Sequence[str]], list[str]] = list
    tokenize: bool = True


def without_tags(lines: Sequence[str]) -> list[str]:
    """IWSLT's text: the segments of its XML, or the lines of its training files that are no tags.

    A line of a training file that has ``<url``, ``<keywords``, ``<talkid``, ``<description``, ``<reviewer``,
    ``<translator``, ``<title`` or ``<speaker`` in it is about the talk.
    """
    if any(line.lstrip().startswith(("<?xml", "<mteval")) for line in lines[:3]):
        return [unescape(found).strip() for found in re.findall(r"<seg[^>]*>(.*?)</seg>", "\n".join(lines), re.DOTALL)]
    about = re.compile("<(url|keywords|talkid|description|reviewer|translator|title|speaker)")
    return [line.strip() for line in lines if not about.search(line)]


CORPORA = {
    "multi30k": RawCorpus(
        files={"train": ("train",), "val": ("val",), "test": ("test2016", "test_2016_flickr")},
        downloads=tuple(
            Download(filename=f"{name}.{language}.gz", mirrors=(f"{_MULTI30K}/{name}.{language}.gz",))
            for name in ("train", "val", "test_2016_flickr")
            for language in LANGUAGES
        ),
    ),
    "iwslt": RawCorpus(
        files={
            "train": ("train.en-de", "train.tags.en-de"),
            "val": (_TED.format("tst2013"),),
            "test": (_TED.format("tst2014"),),
        },
        downloads=(
            Download(
                filename="2016-01.tgz",
                mirrors=(
                    "https://wit3.fbk.eu/archive/2016-01//texts/en/de/en-de.tgz",
                    "https://drive.usercontent.google.com/download?id=1l5y6Giag9aRPwGtuZHswh3w5v3qEz8D8&confirm=t",
                ),
            ),
        ),
        inner="en-de.tgz",
        clean=without_tags,
    ),
    "toy": RawCorpus(files={"train": ("train",), "val": ("val",), "test": ("test",)}, tokenize=False),
}


def gather(name: str, origin: Path | None, folder: Path) -> dict[tuple[str, str], list[str]]:
    """The clean sentences of a corpus, by split and language.

    Args:
        name: In `CORPORA`.
        origin: A folder with the raw files, plain, ``.gz`` or in their archive; else they are fetched.
        folder: For files on the way.

    Raises:
        UserError: A file is missing or damaged, nothing could be fetched, or the two languages' files of a split have
            different numbers of lines.
    """
    corpus = CORPORA[name]
    if name == "toy":
        number_corpus.write(folder)
        origin = folder
    elif origin is None:
        for item in corpus.downloads:
            download(item, folder)
        origin = folder
    elif not origin.is_dir():
        raise UserError(f"--from {origin} is no directory")
    sentences = {}
    for split, names in corpus.files.items():
        for language in LANGUAGES:
            path = _find(corpus, names, language, origin, folder)
            sentences[split, language] = corpus.clean(read_lines(path))
        first, second = (len(sentences[split, language]) for language in LANGUAGES)
        if first != second:
            raise UserError(f"{split} of {name} has {first:,} English sentences and {second:,} German ones")
    return sentences


def _find(corpus: RawCorpus, names: Sequence[str], language: str, origin: Path, folder: Path) -> Path:
    """The file of a split: in the folder itself, or taken out of an archive there."""
    wanted = [f"{name}.{language}{end}" for name in names for end in ("", ".gz", ".xml")]
    for place in (origin, *sorted(path for path in origin.rglob("*") if path.is_dir())):
        for candidate in wanted:
            if (place / candidate).is_file():
                return place / candidate
    for archive in sorted(path for path in origin.iterdir() if path.is_file() and is_archive(path)):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            try:
                inner = [archive]
                if corpus.inner is not None and archive.name != corpus.inner:
                    inner = _inner(archive, corpus.inner, Path(work))
                (found,) = extract(inner[0], [[name for name in wanted if not name.endswith(".gz")]], Path(work))
            except UserError:
                continue
            return Path(shutil.move(found, folder / found.name))
    raise UserError(f"{origin} has no {wanted[0]}, nor {wanted[0]}.gz or an archive with it")


def _inner(archive: Path, name: str, work: Path) -> list[Path]:
    try:
        return extract(archive, [[name]], work)
    except UserError:  # it is the inner one, under another name
        return [archive]


def save_text(folder: Path, name: str, language: str, lines: list[str]) -> None:
    """Writes ``name.language.tok`` and, in lower case, ``.tok.low``."""
    write_lines(folder / f"{name}.{language}.tok", lines)
    write_lines(folder / f"{name}.{language}.tok.low", [line.lower() for line in lines])
