"""Taking files out of archives that nobody vouches for."""

import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from rnncore.archives import extract, is_archive
from rnncore.errors import UserError


def test_a_file_is_found_by_its_path_or_in_any_one_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("one/train", "two/train", "two/test"):
            archive.writestr(name, name)
    (tmp_path / "out").mkdir()
    paths = extract(tmp_path / "a.zip", [("two/train",), ("none", "test")], tmp_path / "out")
    assert [path.read_text() for path in paths] == ["two/train", "two/test"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    with pytest.raises(UserError, match=r"a\.zip: holds no train, or more than one"):
        extract(tmp_path / "a.zip", [("train",)], tmp_path / "out")


def test_an_archive_is_known_by_its_content(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.txt", "w:xz"):
        pass
    (tmp_path / "data.zip").write_text("text")
    assert is_archive(tmp_path / "data.txt")
    assert not is_archive(tmp_path / "data.zip")


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        info = tarfile.TarInfo("toy.train")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    with pytest.raises(UserError, match=r"holds no toy\.train"):
        extract(tmp_path / "links.tar", [("toy.train",)], tmp_path)


def test_a_damaged_archive_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "none.zip").write_bytes(b"no archive")
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(50_000))
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        archive.add(tmp_path / "noise", "noise")
    (tmp_path / "half.tgz").write_bytes((tmp_path / "whole.tgz").read_bytes()[:30_000])
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive_zip:
        archive_zip.write(tmp_path / "noise", "noise")
    flipped = bytearray((tmp_path / "whole.zip").read_bytes())
    flipped[20_000] ^= 1
    (tmp_path / "flipped.zip").write_bytes(flipped)
    for name in ("none.zip", "half.tgz", "flipped.zip"):
        with pytest.raises(UserError, match=rf"{name}: damaged, or no zip or tar archive") as caught:
            extract(tmp_path / name, [("noise",)], tmp_path / "out")
        assert "\n" not in caught.value.message
