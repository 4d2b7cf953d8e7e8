"""The cache of encoded corpora: keyed by content, checked, rebuilt, shared."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from rnncore import cache_folders, content_sums, corpus, corpus_cache
from rnncore.content_sums import content_sum
from rnncore.corpus import Corpus
from rnncore.corpus_cache import DamagedEntryError, open_entry, open_or_build
from rnncore.errors import UserError
from rnncore.vocabulary import Vocabulary

TEXTS = {"train": "the cat sat on the mat\n" * 50, "valid": "the dog\n", "test": "the end\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for split, text in TEXTS.items():
        (folder / f"{split}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.name != "sums")


def decoded(found: Corpus) -> dict[str, str]:
    return {split: " ".join(found.vocabulary.decode(getattr(found, split))) for split in TEXTS}


def expected() -> dict[str, str]:
    return {split: text.replace("\n", " <eos> ").rstrip() for split, text in TEXTS.items()}


def test_second_start_encodes_nothing(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Corpus.load(folder, cache_dir=cache)

    def never(*_: object) -> str:
        raise AssertionError("encoded again")

    monkeypatch.setattr(corpus, "encode_file", never)
    second = Corpus.load(folder, cache_dir=cache)
    assert second.vocabulary == first.vocabulary
    assert decoded(second) == expected()
    with pytest.raises(AssertionError, match="encoded again"):
        Corpus.load(folder, level="character", cache_dir=cache)
    with pytest.raises(AssertionError, match="encoded again"):
        Corpus.load(folder, order="frequency", cache_dir=cache)


def test_key_is_the_content_not_the_place(folder: Path, cache: Path, tmp_path: Path) -> None:
    Corpus.load(folder, cache_dir=cache)
    folder.rename(tmp_path / "elsewhere")
    Corpus.load(tmp_path / "elsewhere", cache_dir=cache)
    assert len(entries(cache)) == 1


def test_changed_text_is_seen_though_size_and_time_agree(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_sums, "SETTLED_SECONDS", -1.0)  # remember even a file just written
    Corpus.load(folder, cache_dir=cache)
    file = folder / "valid.txt"
    before = file.stat()
    time.sleep(0.05)
    file.write_text("the hog\n", "utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    found = Corpus.load(folder, cache_dir=cache)
    assert found.vocabulary.decode(found.valid) == ["the", "hog", "<eos>"]


def test_sum_is_remembered_only_for_a_settled_file(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "train.txt"
    first = content_sum(file, cache)
    assert not (cache / "sums").exists()
    monkeypatch.setattr(content_sums, "SETTLED_SECONDS", -1.0)
    assert content_sum(file, cache) == first

    def never(_: Path) -> Iterator[bytes]:
        raise AssertionError("read again")

    monkeypatch.setattr(content_sums, "read_blocks", never)
    assert content_sum(file, cache) == first
    (note,) = (cache / "sums").iterdir()
    note.write_text("[", "utf-8")
    with pytest.raises(AssertionError, match="read again"):
        content_sum(file, cache)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file and leave its size and time as they were."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(("train.npy", "valid.npy", "vocab.txt"), (flip, truncate, Path.unlink)),
        *product(("manifest.json",), (truncate, Path.unlink)),
    ],
)
def test_damaged_entry_is_told_and_built_again(
    name: str, damage: Callable[[Path], None], folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Corpus.load(folder, cache_dir=cache)
    (entry,) = entries(cache)
    good = {path.name: path.read_bytes() for path in entry.iterdir() if path.name != "manifest.json"}
    damage(entry / name)
    assert decoded(Corpus.load(folder, cache_dir=cache)) == expected()
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "damaged" in warning.getMessage()
    assert "\n" not in warning.getMessage()
    assert entries(cache) == [entry]
    assert {name: (entry / name).read_bytes() for name in good} == good
    open_entry(entry)


def test_ids_are_read_only_where_their_file_was_touched(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Corpus.load(folder, cache_dir=cache)
    read: list[str] = []
    crc32 = corpus_cache._crc32

    def counted(path: Path) -> int:
        read.append(path.name)
        return crc32(path)

    monkeypatch.setattr(corpus_cache, "_crc32", counted)
    Corpus.load(folder, cache_dir=cache)
    assert read == []
    (entry,) = entries(cache)
    os.utime(entry / "valid.npy")
    Corpus.load(folder, cache_dir=cache)
    assert read == ["valid.npy"]
    shutil.copytree(cache, tmp_path / "copy")
    assert decoded(Corpus.load(folder, cache_dir=tmp_path / "copy")) == expected()
    assert sorted(read) == ["test.npy", "train.npy", "valid.npy", "valid.npy", "vocab.txt"]
    assert caplog.records == []


def test_entry_holds_no_pickle(folder: Path, cache: Path) -> None:
    Corpus.load(folder, cache_dir=cache)
    (entry,) = entries(cache)
    assert sorted(path.name for path in entry.iterdir()) == [
        *("manifest.json", "test.npy", "train.npy", "valid.npy", "vocab.txt")
    ]
    assert np.load(entry / "train.npy", allow_pickle=False).dtype == np.int32
    assert json.loads((entry / "manifest.json").read_text())["format"] == 1
    assert Vocabulary.load(entry / "vocab.txt").tokens[:3] == ("the", "cat", "sat")


def test_two_builders_at_once_share_one_entry(cache: Path) -> None:
    both_building = threading.Barrier(2, timeout=20)
    written: list[Path] = []

    def write(partial: Path) -> None:
        both_building.wait()
        written.append(partial)
        for split in TEXTS:
            np.save(partial / f"{split}.npy", np.arange(3, dtype=np.int32))
        Vocabulary(["a", "b", "c"]).save(partial / "vocab.txt")

    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(open_or_build(cache, "key", write).ids["train"].tolist()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 1, 2]] * 2
    assert len(set(written)) == 2
    assert entries(cache) == [cache / "key"]


def test_processes_at_once(folder: Path, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rnncore.corpus import Corpus;"
        "c = Corpus.load(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]));"
        "print(len(c.vocabulary), int(c.train.sum()))"
    )
    command = [sys.executable, "-c", code, str(folder), str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=120)[0].strip() for process in processes}
    # the=0 cat=1 sat=2 on=3 mat=4 <eos>=5; dog, end: a line of train sums to 0+1+2+3+0+4+5.
    assert answers == {f"8 {15 * 50}"}
    assert len(entries(cache)) == 1


def test_damage_by_a_disk_that_lies_is_an_error_not_a_loop(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise DamagedEntryError("train.npy has another checksum")

    monkeypatch.setattr(corpus_cache, "_check_files", refuse)

    def write(partial: Path) -> None:
        for name in ("train.npy", "valid.npy", "test.npy", "vocab.txt"):
            (partial / name).write_bytes(b"x")

    with pytest.raises(UserError, match="damaged each time"):
        open_or_build(cache, "key", write)


def test_entry_that_is_not_there(cache: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_entry(cache / "none")


def test_unwritable_cache_falls_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_folders, "_temporary_folder", lambda: tmp_path / "temporary")
    (tmp_path / "file").write_text("a file is no folder")
    found = Corpus.load(folder, cache_dir=tmp_path / "file" / "cache")
    assert decoded(found) == expected()
    (warning,) = caplog.records
    assert str(tmp_path / "file" / "cache") in warning.getMessage()
    assert len(entries(tmp_path / "temporary")) == 1
    monkeypatch.setattr(cache_folders, "_temporary_folder", lambda: tmp_path / "file" / "temporary")
    with pytest.raises(UserError, match="RNNCORE_CACHE"):
        Corpus.load(folder, cache_dir=tmp_path / "file" / "cache")


def test_temporary_folder_is_removed_at_the_end(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file is no folder")
    code = (
        "import sys; from pathlib import Path; from rnncore.corpus import Corpus;"
        "print(Corpus.load(Path(sys.argv[1])).train.filename)"
    )
    environment = {**os.environ, "RNNCORE_CACHE": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    used = Path(done.stdout.strip())
    assert used.is_relative_to(tmp_path)
    assert not used.exists()
    assert "cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_default_cache_follows_the_environment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path / "named"))
    Corpus.load(folder)
    assert len(entries(tmp_path / "named" / "corpora")) == 1
    monkeypatch.delenv("RNNCORE_CACHE")
    assert cache_folders.cache_root().name == "rnncore"


def test_abandoned_builds_are_removed(folder: Path, cache: Path) -> None:
    for name in (".partial-old", ".partial-new"):
        (cache / name).mkdir(parents=True)
        (cache / name / "train.npy").write_bytes(b"x")
    os.utime(cache / ".partial-old", (0, 0))
    Corpus.load(folder, cache_dir=cache)
    assert not (cache / ".partial-old").exists()
    assert (cache / ".partial-new").exists()


def test_text_that_changes_while_it_is_read(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "content_sum", lambda path, cache: "0" * 64)
    with pytest.raises(UserError, match=r"train\.txt changed while it was being read"):
        Corpus.load(folder, cache_dir=cache)
    assert entries(cache) == []
