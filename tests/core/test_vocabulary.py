"""Vocabularies: ids, fallback, and the file that holds any string."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rnncore.errors import UserError
from rnncore.vocabulary import Vocabulary

AWKWARD = (
    *("", " ", "\n", "\r", "\t", "\x00", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\xa0", "\u2028", "\u2029", "\ufeff"),
    *(
        "\\",
        "\\\\",
        "\\n",
        "\\u0020",
        "a b",
        "<eos>",
        "<unk>",
        "é",
        "日本",
        "\U0001f600",
        "\U000e0001",
        "\ud800",
        "x\\",
    ),
)


def test_ids_are_places() -> None:
    vocabulary = Vocabulary(["the", "cat", "<eos>"])
    assert len(vocabulary) == 3
    assert vocabulary.tokens == ("the", "cat", "<eos>")
    assert [vocabulary.index(token) for token in vocabulary.tokens] == [0, 1, 2]
    assert "cat" in vocabulary
    assert "dog" not in vocabulary


def test_encode_and_decode_are_inverse() -> None:
    vocabulary = Vocabulary(["the", "cat", "<eos>"])
    ids = vocabulary.encode(["cat", "<eos>", "the", "the"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 2, 0, 0]
    for form in (ids, ids.tolist(), torch.from_numpy(ids), ids.astype(np.int32)):
        assert vocabulary.decode(form) == ["cat", "<eos>", "the", "the"]
    assert vocabulary.decode([]) == []
    assert vocabulary.encode([]).shape == (0,)


def test_unknown_token_is_unk_where_there_is_one() -> None:
    assert Vocabulary(["a", "<unk>"]).encode(["b", "a"]).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"'b' is not in the vocabulary"):
        Vocabulary(["a"]).index("b")


@pytest.mark.parametrize("wrong", [-1, 2])
def test_id_outside_is_an_error(wrong: int) -> None:
    with pytest.raises(UserError, match=f"the id {wrong} is outside"):
        Vocabulary(["a", "b"]).decode([0, wrong])


def test_token_twice_is_an_error() -> None:
    with pytest.raises(UserError, match="'b' twice"):
        Vocabulary(["a", "b", "c", "b"])


@pytest.mark.parametrize("tokens", [(), ("",), ("a",), AWKWARD, tuple(map(chr, range(0x300)))])
def test_file_round_trip(tokens: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    Vocabulary(tokens).save(file)
    assert Vocabulary.load(file).tokens == tokens
    lines = file.read_text("utf-8").splitlines()
    assert len(lines) == len(tokens)  # no token breaks its line, for any reader's idea of a line
    assert all(line == line.strip() for line in lines)


def test_ordinary_tokens_stand_as_they_are(tmp_path: Path) -> None:
    Vocabulary(["the", "<unk>", "日本", "n't"]).save(tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == "the\n<unk>\n日本\nn't\n".encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb", "cut off"),
        (b"a\n\xff\n", "invalid UTF-8 at byte 2"),
        (b"a\nb\\q\n", "no escape"),
        (b"a\nb\na\n", "'a' twice"),
        (b"a\n\\Uffffffff\n", "no escape"),
    ],
)
def test_bad_file_names_itself(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary.load(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt"):
        Vocabulary.load(tmp_path / "none.txt")
