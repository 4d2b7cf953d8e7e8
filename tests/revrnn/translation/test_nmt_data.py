"""The corpora: number words by their rule, raw files from a folder or an archive, tokenised and preprocessed."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from revrnn.translation import data_command, raw_corpora
from revrnn.translation.encoded import load
from revrnn.translation.number_corpus import COUNTS, english, german
from revrnn.translation.parallel_text import read_lines
from revrnn.translation.raw_corpora import without_tags
from revrnn.translation.tokenization import tokenized
from rnncore.errors import UserError

Refusal = Callable[[click.Command, Sequence[str]], str]

NUMBERS = {
    0: ("zero", "null"),
    1: ("one", "eins"),
    21: ("twenty one", "ein und zwanzig"),
    30: ("thirty", "dreißig"),
    100: ("one hundred", "hundert"),
    101: ("one hundred and one", "hundert eins"),
    217: ("two hundred and seventeen", "zwei hundert siebzehn"),
    1000: ("one thousand", "tausend"),
    1001: ("one thousand and one", "tausend eins"),
    21_345: (
        "twenty one thousand three hundred and forty five",
        "ein und zwanzig tausend drei hundert fünf und vierzig",
    ),
    101_000: ("one hundred and one thousand", "hundert ein tausend"),
    999_999: (
        "nine hundred and ninety nine thousand nine hundred and ninety nine",
        "neun hundert neun und neunzig tausend neun hundert neun und neunzig",
    ),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_number_words(number: int) -> None:
    assert (english(number), german(number)) == NUMBERS[number]


def test_number_words_are_unique() -> None:
    chosen = range(0, 1_000_000, 97)
    assert len({english(number) for number in chosen}) == len({german(number) for number in chosen}) == len(chosen)


def test_toy_needs_no_download(
    sandbox: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_corpora, "download", None)
    data_command.main(["toy"], standalone_mode=False)
    assert "revrnn-nmt-train -data data/toy/toy.tok.low" in capsys.readouterr().out
    data = load(Path("data/toy/toy.tok.low"))
    assert len(data.pairs["train"]) == COUNTS["train"]
    assert {split: len(texts.source) for split, texts in data.texts.items()} == {"valid": 400, "test": 400}
    seen = set(Path("data/toy/train.en.tok").read_text().splitlines())
    assert not seen & set(data.texts["test"].source)


def test_tokenisation_is_that_of_moses() -> None:
    english_lines = ["A man's \"T-shirt\", isn't it?", "3,000 & more: <b>e.g.</b> Mr. Smith's."]
    assert list(tokenized(english_lines, "en")) == [
        "A man 's \" T @-@ shirt \" , isn 't it ?",
        "3,000 & more : < b > e.g. < / b > Mr. Smith 's .",
    ]
    assert list(tokenized(["Ein saftig-grünes Gras."], "de")) == ["Ein saftig @-@ grünes Gras ."]


TAGGED = "<url>http://x</url>\n<title>A talk</title>\n And a line . \n<speaker>S</speaker>\nAnother &amp; more\n"
XML = """<?xml version="1.0" encoding="UTF-8"?>
<mteval>
<srcset setid="x" srclang="english">
<doc docid="1" genre="lectures">
<title>Not this</title>
<seg id="1"> First one. </seg>
<seg id="2">R&amp;D, second.</seg>
</doc></srcset></mteval>
"""


def test_tags_of_iwslt_go() -> None:
    assert without_tags(TAGGED.splitlines()) == ["And a line .", "Another &amp; more"]
    assert without_tags(XML.splitlines()) == ["First one.", "R&D, second."]


def iwslt_files() -> dict[str, str]:
    files = {}
    for language in ("en", "de"):
        files[f"train.tags.en-de.{language}"] = TAGGED
        for split in ("tst2013", "tst2014"):
            files[f"IWSLT16.TED.{split}.en-de.{language}.xml"] = XML
    return files


def packed(files: dict[str, bytes], path: Path, folder: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", ["files", "archive", "archive in an archive"])
def test_iwslt_from_a_folder(form: str, tmp_path: Path) -> None:
    origin, output = tmp_path / "raw", tmp_path / "out"
    origin.mkdir()
    files = {name: text.encode() for name, text in iwslt_files().items()}
    if form == "files":
        for name, content in files.items():
            (origin / name).write_bytes(content)
    else:
        packed(files, origin / "en-de.tgz", "en-de")
    if form == "archive in an archive":
        packed({"en-de.tgz": (origin / "en-de.tgz").read_bytes()}, origin / "2016-01.tgz", "2016-01/texts/en/de")
        (origin / "en-de.tgz").unlink()
    data_command.main(["iwslt", "--from", str(origin), "--output", str(output)], standalone_mode=False)
    assert (output / "IWSLT16.TED.tst2014.en-de.en.tok").read_text() == "First one .\nR & D , second .\n"
    assert (output / "train.en-de.de.tok.low").read_text() == "and a line .\nanother & amp ; more\n"
    data = load(output / "en-de.tok.low")
    assert len(data.pairs["train"]) == 2
    assert data.texts["test"].target == ["first one .", "r & d , second ."]


@pytest.mark.shared
def test_multi30k_from_a_folder(shared: Path, tmp_path: Path) -> None:
    """The last lines of each file, which is compressed."""
    origin = tmp_path / "raw"
    origin.mkdir()
    for path in (shared / "data" / "multi30k").glob("*.gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[-40:]
        (origin / path.name).write_bytes(gzip.compress(b"".join(lines)))
    data_command.main(["multi30k", "--from", str(origin), "--output", str(tmp_path / "out")], standalone_mode=False)
    data = load(tmp_path / "out" / "multi30k.tok.low")
    assert len(data.pairs["train"]) == len(data.texts["test"].source) == 40
    assert all(line == line.lower() for line in data.texts["valid"].target)
    assert (tmp_path / "out" / "test2016.de.tok").read_text() != (tmp_path / "out" / "test2016.de.tok.low").read_text()


def test_what_is_not_there(tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--from nowhere is no directory" in refusal(data_command.main, ["iwslt", "--from", "nowhere"])
    (tmp_path / "empty").mkdir()
    line = refusal(data_command.main, ["multi30k", "--from", "empty"])
    assert "empty has no train.en, nor train.en.gz or an archive with it" in line
    (tmp_path / "empty" / "train.en").write_text("a\nb\n")
    (tmp_path / "empty" / "train.de").write_text("a\n")
    line = refusal(data_command.main, ["multi30k", "--from", "empty"])
    assert "train of multi30k has 2 English sentences and 1 German ones" in line


@pytest.mark.parametrize("how", ["no json", "another version", "cut off", "empty", "no arrays"])
def test_damaged_data_are_refused(how: str, prefix: Path, tmp_path: Path) -> None:
    for file in prefix.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    names, arrays = tmp_path / "numbers.json", tmp_path / "numbers.train.npz"
    if how == "no json":
        names.write_text("{")
    elif how == "another version":
        names.write_text(json.dumps({**json.loads(names.read_text()), "format": 9}))
    elif how in ("cut off", "empty"):
        arrays.write_bytes(arrays.read_bytes()[: 500 if how == "cut off" else 0])
    else:
        arrays.unlink()
    expected = {"another version": r"\(another version made them\); run", "no arrays": "there is no"}
    with pytest.raises(UserError, match=expected.get(how, r"numbers cannot be used \(.+\); run")):
        load(tmp_path / "numbers")


def test_a_damaged_text_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"a line\n" * 99)
    for damaged in (whole[:20], whole[:12] + b"\xff" * 9 + whole[21:], whole[:-8] + bytes(8)):
        (tmp_path / "text.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot read .*text\.gz: "):
            read_lines(tmp_path / "text.gz")
