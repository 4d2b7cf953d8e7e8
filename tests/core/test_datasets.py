"""Data sets by name: finding them, preparing them, checking them against published numbers."""

import functools
import logging
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
from rnncore.core_datasets import CORE, ENWIK8, PENN, PENNCHAR, PYDOC, WIKITEXT2
from rnncore.dataset_description import DataFile, Dataset
from rnncore.dataset_preparation import SPLIT_FILES, number_bytes, separate_characters
from rnncore.dataset_verification import record_sums, verify
from rnncore.datasets import data_directory, find, locate, loss_unit
from rnncore.errors import UserError


def write_splits(directory: Path, text: str = "a b\n", names: Sequence[str] = SPLIT_FILES) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text(text)
    return directory


def test_a_directory_with_the_three_files_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = write_splits(tmp_path / "corpus")
    assert locate(str(directory)) == directory
    assert locate(f"{directory}/") == directory


def test_a_directory_that_lacks_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    directory = write_splits(tmp_path / "corpus", names=("train.txt", "test.txt"))
    with pytest.raises(UserError, match=r"corpus has no valid\.txt") as caught:
        locate(str(directory))
    assert "\n" not in caught.value.message


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("a")
    with pytest.raises(UserError, match="is a file: give the directory"):
        locate(str(file))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("penn", "penn"),
        ("ptb", "penn"),
        ("wt2", "wikitext-2"),
        ("wt103", "wikitext-103"),
        ("data/penn", "penn"),
        ("data/penn/", "penn"),
        ("../data/penn/", "penn"),
        ("./penn/", "penn"),
        ("./data/penn", "penn"),
        ("./data/wikitext-2", "wikitext-2"),
        ("data/wikitext-103", "wikitext-103"),
        ("data/enwik8", "enwik8"),
        ("data/pennchar", "pennchar"),
    ],
)
def test_names_and_the_paths_of_the_original_readmes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: str, name: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    installed = write_splits(tmp_path / "all" / name)
    with caplog.at_level(logging.WARNING):
        assert locate(given, data_dir=tmp_path / "all") == installed
    assert (str(installed) in caplog.text) == ("/" in given)  # only a path that is not there is worth a word


def test_an_existing_path_wins_over_the_name_unless_it_holds_none_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    installed = write_splits(tmp_path / "all" / "penn")
    (tmp_path / "data" / "penn").mkdir(parents=True)
    assert locate("data/penn", data_dir=tmp_path / "all") == installed
    write_splits(tmp_path / "data" / "penn", names=("train.txt",))
    with pytest.raises(UserError, match=r"data/penn has no valid\.txt"):
        locate("data/penn", data_dir=tmp_path / "all")
    write_splits(tmp_path / "data" / "penn")
    assert locate("data/penn", data_dir=tmp_path / "all") == Path("data/penn")


def test_a_name_that_is_not_installed_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rnn-data get penn'.*--from") as caught:
        locate("ptb", data_dir=tmp_path)
    assert "\n" not in caught.value.message
    write_splits(tmp_path / "penn", names=("train.txt",))
    with pytest.raises(UserError, match=r"has no valid\.txt.*rnn-data get penn"):
        locate("penn", data_dir=tmp_path)


def test_what_is_made_from_data_at_hand_needs_no_copy(tmp_path: Path) -> None:
    for at_hand in (False, True):
        with pytest.raises(UserError, match="rnn-data get pennchar") as caught:
            locate("pennchar", data_dir=tmp_path)
        assert ("--from" in caught.value.message) != at_hand
        write_splits(tmp_path / "penn")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'data/pen'.*penn or ptb, pennchar, wikitext-2 or wt2") as caught:
        locate("data/pen", data_dir=tmp_path)
    assert "\n" not in caught.value.message
    with pytest.raises(UserError, match="pydoc"):
        find("nonsense")


def test_the_environment_names_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNN_DATA", str(tmp_path))
    assert data_directory() == tmp_path
    write_splits(tmp_path / "penn")
    assert locate("penn") == tmp_path / "penn"
    monkeypatch.delenv("RNN_DATA")
    assert data_directory().name == "rnncore"


def test_another_package_adds_its_own_data_sets(tmp_path: Path) -> None:
    pairs = Dataset(
        name="pairs", description="", size_mb=1, files=(DataFile(name="train.de"), DataFile(name="train.en"))
    )
    (tmp_path / "pairs").mkdir()
    for file in pairs.files:
        (tmp_path / "pairs" / file.name).write_text("x")
    assert locate("pairs", data_dir=tmp_path, known=(*CORE, pairs)) == tmp_path / "pairs"
    with pytest.raises(UserError, match="no data set"):
        locate("pairs", data_dir=tmp_path)


def test_the_embedded_corpus_needs_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("rnncore.pydoc_corpus")
    module.path = lambda: tmp_path / "built"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rnncore.pydoc_corpus", module)
    monkeypatch.setattr("rnncore.pydoc_corpus", module, raising=False)
    assert locate("pydoc", data_dir=tmp_path / "empty") == tmp_path / "built"
    assert PYDOC.sources == ()


def test_names_are_unambiguous() -> None:
    names = [name for dataset in CORE for name in (dataset.name, *dataset.aliases)]
    assert len(names) == len(set(names))


def test_every_source_gives_every_raw_file() -> None:
    for dataset in CORE:
        for source in dataset.sources:
            given = [Path(name).name for item in source for name in (item.members or (item.filename,))]
            assert given == [raw.names[0] for raw in dataset.raw]


def test_characters_are_separated_and_separated_ones_are_left(tmp_path: Path) -> None:
    raw = [tmp_path / f"raw.{split}" for split in SPLIT_FILES]
    for path in raw:
        path.write_text(" the N <unk> \n\n a b \n", encoding="utf-8")
    write_splits(tmp_path / "once")
    separate_characters(raw, tmp_path / "once")
    assert (tmp_path / "once" / "valid.txt").read_text() == "t h e _ N _ < u n k >\n\na _ b\n"
    write_splits(tmp_path / "twice")
    separate_characters([tmp_path / "once" / name for name in SPLIT_FILES], tmp_path / "twice")
    assert (tmp_path / "twice" / "valid.txt").read_bytes() == (tmp_path / "once" / "valid.txt").read_bytes()


def test_characters_must_be_utf8(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"bad\.txt: not UTF-8 text \(byte 3\)"):
        separate_characters([bad] * 3, tmp_path)


def test_numbered_bytes_can_be_read_back(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5 + b"end\n"
    (tmp_path / "enwik8").write_bytes(content)
    number_bytes([tmp_path / "enwik8"], tmp_path, held_out=300)
    read = {}
    for name in SPLIT_FILES:
        lines = (tmp_path / name).read_text().split("\n")
        read[name] = b"\n".join(bytes(int(word) for word in line.split()) for line in lines)
    assert read == {"train.txt": content[:-600], "valid.txt": content[-600:-300], "test.txt": content[-300:]}
    with pytest.raises(UserError, match="too few"):
        number_bytes([tmp_path / "enwik8"], tmp_path, held_out=len(content) // 2)


def test_numbered_bytes_count_one_token_per_byte(tmp_path: Path) -> None:
    (tmp_path / "enwik8").write_bytes(b"ab\n" * 100)
    number_bytes([tmp_path / "enwik8"], tmp_path, held_out=50)
    dataset = Dataset(
        name="bytes",
        description="",
        size_mb=1,
        files=tuple(DataFile(name=name, tokens=size) for name, size in zip(SPLIT_FILES, (200, 50, 50), strict=True)),
        types=3,
        prepare=functools.partial(number_bytes, held_out=50),
    )
    assert all(finding.ok for finding in verify(dataset, tmp_path))


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    words = Dataset(
        name="words",
        description="",
        size_mb=1,
        files=tuple(DataFile(name=name, tokens=6) for name in SPLIT_FILES),
        types=5,
    )
    write_splits(tmp_path, "a b\nc d\n")
    assert [finding.ok for finding in verify(words, tmp_path)] == [True] * 3
    (tmp_path / "valid.txt").write_text("a b\nc\n")
    assert [finding.ok for finding in verify(words, tmp_path)][:3] == [True, False, True]
    assert "5 tokens where 6 are expected" in verify(words, tmp_path)[1].message
    (tmp_path / "valid.txt").write_text("a b\nc e\n")  # the count is right, the words are not
    assert verify(words, tmp_path)[-1].message == "6 distinct tokens where 5 are expected"

    write_splits(tmp_path, "a b\nc d\n")
    record_sums(tmp_path, SPLIT_FILES)
    (tmp_path / "test.txt").write_text("a b\nd c\n")  # only the recorded sum can tell
    assert [finding.ok for finding in verify(words, tmp_path)] == [True, True, False]
    (tmp_path / "train.txt").unlink()
    assert verify(words, tmp_path)[0].message == "missing"


@pytest.mark.shared
@pytest.mark.parametrize("dataset", [PENN, WIKITEXT2], ids=lambda dataset: dataset.name)
def test_the_reference_corpora_pass(shared: Path, dataset: Dataset) -> None:
    findings = verify(dataset, shared / "data" / dataset.name)
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 3


@pytest.mark.shared
def test_penn_has_the_published_counts_beside_its_sums(shared: Path) -> None:
    """The sums alone would not notice a wrong count in the description."""
    files = tuple(DataFile(name=file.name, tokens=file.tokens) for file in PENN.files)
    counted = Dataset(name="penn", description="", size_mb=6, files=files, types=PENN.types)
    assert all(finding.ok for finding in verify(counted, shared / "data" / "penn"))


@pytest.mark.shared
def test_penn_by_characters_has_the_published_numbers(shared: Path, tmp_path: Path) -> None:
    """Mikolov et al. (2012): 5017k, 393k and 442k characters, an alphabet of 50."""
    separate_characters([shared / "data" / "penn" / name for name in SPLIT_FILES], tmp_path)
    assert [finding for finding in verify(PENNCHAR, tmp_path) if not finding.ok] == []
    assert [file.tokens // 1000 for file in PENNCHAR.files if file.tokens] == [5017, 393, 442]


def test_enwik8_is_split_90_5_5() -> None:
    assert [file.tokens for file in ENWIK8.files] == [90_000_000, 5_000_000, 5_000_000]


@pytest.mark.parametrize(
    ("level", "data", "unit"),
    [
        ("word", "penn", "ppl"),
        ("word", "pennchar", "bpc"),
        ("word", "data/enwik8/", "bpc"),
        ("character", "penn", "bpc"),
        ("word", "somewhere/else", "ppl"),
    ],
)
def test_losses_of_characters_are_told_in_bits(level: str, data: str, unit: str) -> None:
    assert loss_unit(level, data) == unit
