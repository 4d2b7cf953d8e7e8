"""Text to ids, against a slow reading of the same rules."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from rnncore.corpus import Corpus, Level, Order
from rnncore.encoding import CharacterEncoder, WordEncoder, cut_pieces, read_blocks
from rnncore.errors import UserError

TEXTS = {
    "train": "the cat sat\n\n  on the\tmat \nthe end\n",
    "valid": "a dog sat on the cat\n",
    "test": "dog\n\nzebra the é日本 \U0001f600\n",
}


def write(folder: Path, texts: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in texts.items():
        (folder / f"{split}.txt").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return folder


def slow_tokens(text: str, level: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    if level == "word":
        return [token for line in lines for token in (*re.findall(r"[^ \t\r\x0b\x0c]+", line), "<eos>")]
    return [token for line in lines for token in (*line.removesuffix("\r"), "<eos>")]


def random_texts(seed: int) -> dict[str, str]:
    generator = np.random.default_rng(seed)
    pieces = ["a", "b", "cc", "é", "日本", "\U0001f600", "\xa0", "\x85", "\u2028", "\x1c", "'", "longer-word", "\x00"]
    gaps = [" ", "  ", "\t", "\n", "\n\n", "\r\n", " \n", "\x0b", "\x0c", "", "", ""]
    return {
        split: "".join(str(generator.choice(pieces)) + str(generator.choice(gaps)) for _ in range(400)) + "end\n"
        for split in ("train", "valid", "test")
    }


@pytest.mark.parametrize("level", ["word", "character"])
@pytest.mark.parametrize("order", ["appearance", "frequency"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_ids_are_those_of_the_slow_reading(level: Level, order: Order, seed: int | None, tmp_path: Path) -> None:
    texts = TEXTS if seed is None else random_texts(seed)
    corpus = Corpus.load(write(tmp_path / "c", texts), level=level, order=order, cache_dir=tmp_path / "cache")
    tokens = {split: slow_tokens(text, level) for split, text in texts.items()}
    types = list(dict.fromkeys(token for split in ("train", "valid", "test") for token in tokens[split]))
    if order == "frequency":
        counts = Counter(tokens["train"])
        types.sort(key=lambda token: -counts[token])  # a stable sort keeps ties in order of appearance
    assert list(corpus.vocabulary.tokens) == types
    for split in ("train", "valid", "test"):
        assert corpus.vocabulary.decode(getattr(corpus, split)) == tokens[split]
        assert corpus.vocabulary.encode(tokens[split]).tolist() == getattr(corpus, split).tolist()
    assert corpus.level == level


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 64, 10_000])
@pytest.mark.parametrize("encoder", [WordEncoder, CharacterEncoder])
def test_ids_do_not_depend_on_the_pieces(
    size: int, encoder: type[WordEncoder] | type[CharacterEncoder], tmp_path: Path
) -> None:
    file = tmp_path / "t.txt"
    text = random_texts(7)["train"].encode("utf-8")
    file.write_bytes(b"\xef\xbb\xbf" + text.removesuffix(b"\n"))
    whole, cut = encoder(), encoder()
    pieces = list(cut_pieces(read_blocks(file, size), file))
    assert b"".join(pieces) == text
    ids = np.concatenate([cut.encode(piece) for piece in pieces])
    assert ids.tolist() == whole.encode(text).tolist()
    assert cut.tokens() == whole.tokens()


def test_memory_stays_bounded_in_a_line_without_end(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(b"word " * 10_000)
    assert max(map(len, cut_pieces(read_blocks(file, 1000), file))) <= 1005


def test_line_ends_marks_and_white_space(tmp_path: Path) -> None:
    texts: dict[str, str | bytes] = {
        "train": b"\xef\xbb\xbfone two\r\n\r\nthree",
        "valid": "a\xa0b \ufeffx\n",
        "test": b"lone\rcr\n",
    }
    folder = write(tmp_path / "c", texts)
    words = Corpus.load(folder, cache_dir=tmp_path / "cache")
    assert words.vocabulary.decode(words.train) == ["one", "two", "<eos>", "<eos>", "three", "<eos>"]
    assert words.vocabulary.decode(words.valid) == ["a\xa0b", "\ufeffx", "<eos>"]
    assert words.vocabulary.decode(words.test) == ["lone", "cr", "<eos>"]
    characters = Corpus.load(folder, level="character", cache_dir=tmp_path / "cache")
    assert characters.vocabulary.decode(characters.train) == [*"one two", "<eos>", "<eos>", *"three", "<eos>"]
    assert characters.vocabulary.decode(characters.test) == [*"lone\rcr", "<eos>"]


def test_arrays_are_mapped_and_read_only_and_tensors_are_copies(tmp_path: Path) -> None:
    corpus = Corpus.load(write(tmp_path / "c", TEXTS), cache_dir=tmp_path / "cache")
    for split in ("train", "valid", "test"):
        ids = getattr(corpus, split)
        assert isinstance(ids, np.memmap)
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        with pytest.raises(ValueError, match="read-only"):
            ids[0] = 1
        tensor = corpus.tensor(split)
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == ids.tolist()
        tensor[0] = -1
        assert ids[0] >= 0
    with pytest.raises(UserError, match="'dev'"):
        corpus.tensor("dev")


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("valid", None, r"has no valid\.txt"),
        ("train", b"", r"train\.txt holds no text"),
        ("test", b" \n\n\t\r\n", r"test\.txt holds no text"),
        ("test", b"\xef\xbb\xbf", r"test\.txt holds no text"),
        ("train", b"fine\nalso \xc3\xa9\nbad \xe9 here\n", r"train\.txt, line 3: invalid UTF-8 .*0xe9"),
        ("valid", b"fine\ncut \xe6\x97", r"valid\.txt, line 2: invalid UTF-8"),
        ("test", "sixteen\n".encode("utf-16"), r"test\.txt, line 1: invalid UTF-8"),
        ("train", b"ok\n" * 500_000 + b"\xff\n", r"train\.txt, line 500001: invalid UTF-8"),
    ],
)
def test_bad_files(split: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", TEXTS)
    (folder / f"{split}.txt").unlink()
    if content is not None:
        (folder / f"{split}.txt").write_bytes(content)
    levels: tuple[Level, ...] = ("word", "character")
    for level in levels:
        with pytest.raises(UserError, match=message) as caught:
            Corpus.load(folder, level=level, cache_dir=tmp_path / "cache")
        assert "\n" not in caught.value.message
    assert [path for path in tmp_path.glob("cache/*") if path.name != "sums"] == []


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Corpus.load(tmp_path / "none")
    folder = write(tmp_path / "c", TEXTS)
    with pytest.raises(UserError, match="level is 'byte'"):
        Corpus.load(folder, level="byte")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="order is 'random'"):
        Corpus.load(folder, order="random")  # type: ignore[arg-type]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "types", "tokens"),
    [
        ("penn", 10_000, (929_589, 73_760, 82_430)),
        ("wikitext-2", 33_278, (2_088_628, 217_646, 245_569)),
    ],
)
def test_published_counts(name: str, types: int, tokens: tuple[int, ...], shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / name
    corpus = Corpus.load(folder, cache_dir=tmp_path)
    assert len(corpus.vocabulary) == types
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == tokens
    with (folder / "test.txt").open(encoding="utf-8") as file:
        expected = [token for line in file for token in (*line.split(), "<eos>")]
    assert corpus.vocabulary.decode(corpus.test) == expected
    by_frequency = Corpus.load(folder, order="frequency", cache_dir=tmp_path)
    counts = np.bincount(by_frequency.train, minlength=types)
    assert (np.diff(counts) <= 0).all()
    assert by_frequency.vocabulary.decode(by_frequency.test) == expected
