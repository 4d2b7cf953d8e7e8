"""Installing data sets from a user's own copies."""

import functools
import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rnncore.core_datasets import ENWIK8, PENN, PENNCHAR, WIKITEXT2
from rnncore.dataset_description import DataFile, Dataset, Download, RawFile
from rnncore.dataset_preparation import SPLIT_FILES, number_bytes
from rnncore.errors import UserError
from rnncore.fetch import get

TEXTS = {"toy.train": b"a b c\n" * 500, "toy.valid": b"b c\n", "toy.test": b"c a\n"}
NOWHERE = ("http://127.0.0.1:9/closed",)
ARCHIVE = Download(filename="toy-v1.zip", mirrors=NOWHERE, members=tuple(f"toy/{name}" for name in TEXTS))
TOY = Dataset(
    name="toy",
    description="three small files",
    size_mb=1,
    files=tuple(DataFile(name=name, tokens=tokens) for name, tokens in zip(SPLIT_FILES, (2000, 3, 3), strict=True)),
    types=4,
    raw=tuple(RawFile(names=(name, split)) for name, split in zip(TEXTS, SPLIT_FILES, strict=True)),
    sources=((ARCHIVE,),),
)


def write_raw(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    return folder


def archived(tmp_path: Path, folder: str, name: str, kind: str = "zip") -> Path:
    """An archive in tmp_path that holds the raw files in the given folder."""
    write_raw(tmp_path / "packing" / name / folder)
    return Path(shutil.make_archive(str(tmp_path / name), kind, tmp_path / "packing" / name))


def assert_installed(data_dir: Path) -> None:
    for name, content in zip(SPLIT_FILES, TEXTS.values(), strict=True):
        assert (data_dir / "toy" / name).read_bytes() == content
    assert sorted(path.name for path in (data_dir / "toy").iterdir()) == ["SHA256SUMS", *sorted(SPLIT_FILES)]
    assert [path.name for path in data_dir.iterdir()] == ["toy"]


@pytest.mark.parametrize("layout", ["raw names", "final names", "unpacked archive"])
def test_a_directory_under_any_of_its_names(tmp_path: Path, layout: str) -> None:
    origin = tmp_path / "mine"
    write_raw(origin / "toy" if layout == "unpacked archive" else origin)
    if layout == "final names":
        for name, raw in zip(SPLIT_FILES, TEXTS, strict=True):
            (origin / raw).rename(origin / name)
    get(TOY, data_dir=tmp_path / "data", origin=origin)
    assert_installed(tmp_path / "data")


def test_the_published_archive_itself_or_its_directory(tmp_path: Path) -> None:
    archive = archived(tmp_path, "toy", "toy-v1")
    checked = replace(TOY, sources=((replace(ARCHIVE, checksum=hashlib.sha256(archive.read_bytes()).hexdigest()),),))
    for number, origin in enumerate((archive, archive.parent)):
        get(checked, data_dir=tmp_path / f"data{number}", origin=origin)
        assert_installed(tmp_path / f"data{number}")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
def test_an_archive_of_the_users_own(tmp_path: Path, kind: str) -> None:
    get(TOY, data_dir=tmp_path / "data", origin=archived(tmp_path, "some/backup", "own", kind))
    assert_installed(tmp_path / "data")


def test_copies_that_are_wrong_need_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive, data_dir = archived(tmp_path, "toy", "toy-v1"), tmp_path / "data"
    files = (DataFile(name="train.txt", tokens=1999), *TOY.files[1:])
    other = replace(TOY, files=files, sources=((replace(ARCHIVE, checksum="0" * 64),),))
    with pytest.raises(UserError, match=r"toy-v1\.zip: its checksum is not the published one \(--force"):
        get(other, data_dir=data_dir, origin=archive)
    renamed = archive.rename(tmp_path / "mine.zip")  # an archive of the user's own is judged by what is in it
    with pytest.raises(UserError, match=r"not the data of toy: train\.txt: 2,000 tokens where 1,999.*\(--force"):
        get(other, data_dir=data_dir, origin=renamed)
    assert list(data_dir.iterdir()) == []
    get(other, data_dir=data_dir, origin=renamed, force=True)
    assert_installed(data_dir)
    assert "2,000 tokens where 1,999" in caplog.text


def test_copies_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("a")
    for origin, message in (
        ("empty", r"does not hold toy: looked for toy\.train or train\.txt, .*, toy-v1\.zip$"),
        ("nowhere", r"nowhere: no such file or directory"),
        ("text", r"text is no archive: give the directory"),
    ):
        with pytest.raises(UserError, match=message):
            get(TOY, data_dir=tmp_path / "data", origin=tmp_path / origin)
    assert list((tmp_path / "data").iterdir()) == []


def test_enwik8_from_its_archive_its_raw_file_and_prepared_files(tmp_path: Path) -> None:
    content = b"some bytes\n" * 20
    sizes = (len(content) - 100, 50, 50)
    dataset = replace(
        ENWIK8,
        files=tuple(DataFile(name=name, tokens=size) for name, size in zip(SPLIT_FILES, sizes, strict=True)),
        types=len(set(content)),
        raw=(RawFile(names=("enwik8",), checksum=hashlib.sha256(content).hexdigest()),),
        prepare=functools.partial(number_bytes, held_out=50),
    )
    (tmp_path / "enwik8").write_bytes(content)
    (tmp_path / "packing").mkdir()
    (tmp_path / "packing" / "enwik8").write_bytes(content)
    shutil.make_archive(str(tmp_path / "own"), "zip", tmp_path / "packing")
    first = get(dataset, data_dir=tmp_path / "first", origin=tmp_path / "enwik8")
    second = get(dataset, data_dir=tmp_path / "second", origin=tmp_path / "own.zip")
    third = get(dataset, data_dir=tmp_path / "third", origin=first)
    train = (first / "train.txt").read_bytes()
    assert train.startswith(b"115 111 109 101 32 98 121 116 101 115 \n115 ")
    assert train == (second / "train.txt").read_bytes() == (third / "train.txt").read_bytes()
    (tmp_path / "enwik8").write_bytes(content[::-1])
    with pytest.raises(UserError, match="enwik8: its checksum is not the published one"):
        get(dataset, data_dir=tmp_path / "fourth", origin=tmp_path / "enwik8")


def test_the_workspace_of_a_killed_call_is_swept_away_after_a_day(tmp_path: Path) -> None:
    origin = write_raw(tmp_path / "mine")
    data_dir = tmp_path / "data"
    old, young = data_dir / ".toy-old.partial", data_dir / ".toy-young.partial"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
        (leftover / "half").write_text("x")
    os.utime(old, times=(time.time() - 2 * 86400,) * 2)
    get(TOY, data_dir=data_dir, origin=origin)
    assert not old.exists()
    assert young.exists()


def test_several_calls_at_once_install_one_whole_data_set(tmp_path: Path) -> None:
    origin = write_raw(tmp_path / "mine")
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(get, TOY, data_dir=tmp_path / "data", origin=origin) for _ in range(24)]
        assert {result.result() for result in results} == {tmp_path / "data" / "toy"}
    assert_installed(tmp_path / "data")


@pytest.mark.shared
def test_the_reference_corpora_can_be_installed(shared: Path, tmp_path: Path) -> None:
    for dataset in (PENN, WIKITEXT2):
        get(dataset, data_dir=tmp_path, origin=shared / "data" / dataset.name)
        assert (tmp_path / dataset.name / "train.txt").read_bytes() == (
            shared / "data" / dataset.name / "train.txt"
        ).read_bytes()
    get(replace(PENNCHAR, sources=()), data_dir=tmp_path)  # made from the installed words
    assert (tmp_path / "pennchar" / "train.txt").read_text().startswith("a e r _ b a n k n o t e _ b")
