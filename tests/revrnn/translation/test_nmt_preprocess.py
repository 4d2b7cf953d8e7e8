"""Vocabularies and ids: what is counted, what is left out, what is refused."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import pytest
from revrnn.translation.encoded import Pairs, load
from revrnn.translation.fields import epoch_batches, sorted_batches
from revrnn.translation.model import BEGIN, END, PADDING, UNKNOWN
from revrnn.translation.preprocess import main

Refusal = Callable[[click.Command, Sequence[str]], str]
SOURCE = ["a b c", "a b", "", "d " * 60, "a X"]
TARGET = ["u v", "u", "w", "u u", "v"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line for small files."""
    for name, lines in {"train.s": SOURCE, "train.t": TARGET, "valid.s": ["a q"], "valid.t": ["u"]}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    files = [
        (f"-{split}_{side}", str(tmp_path / f"{split}.{side[0]}"))
        for split in ("train", "valid")
        for side in ("src", "tgt")
    ]
    return [*(word for pair in files for word in pair), "-save_data", str(tmp_path / "out")]


def test_vocabulary_and_ids(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "-shuffle", "0"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "3 training pairs (1 with an empty line and 1 too long left out), 1 for validation" in out
    data = load(tmp_path / "out")
    assert data.vocabularies == (
        ["<unk>", "<blank>", "a", "b", "X", "c"],
        ["<unk>", "<blank>", "<s>", "</s>", "u", "v"],
    )
    assert [ids.tolist() for ids in data.pairs["train"].source] == [[2, 3, 5], [2, 3], [2, 4]]
    assert [ids.tolist() for ids in data.pairs["valid"].source] == [[2, UNKNOWN]]
    batch = data.pairs["train"].batch([0, 1])
    assert batch.source.t().tolist() == [[2, 3, 5], [2, 3, PADDING]]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.target.t().tolist() == [[BEGIN, 4, 5, END], [BEGIN, 4, END, PADDING]]


def test_byte_order_marks_and_line_ends_of_windows_are_no_words(words: list[str], tmp_path: Path) -> None:
    main([*words, "-shuffle", "0"], standalone_mode=False)
    plain = load(tmp_path / "out")
    for file in (tmp_path / f"{split}.{side}" for split in ("train", "valid") for side in "st"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    main([*words, "-shuffle", "0"], standalone_mode=False)
    marked = load(tmp_path / "out")
    assert marked.vocabularies == plain.vocabularies
    assert marked.texts == plain.texts


def test_options_of_the_vocabulary(words: list[str], tmp_path: Path) -> None:
    more = ["-lower", "-src_words_min_frequency", "2", "-tgt_vocab_size", "1", "-src_seq_length_trunc", "2"]
    main([*words, *more], standalone_mode=False)
    data = load(tmp_path / "out")
    assert data.lower
    assert data.vocabularies[0] == ["<unk>", "<blank>", "a", "b", "d"]
    assert data.vocabularies[1][4:] == ["u"]
    assert len(data.pairs["train"]) == 4
    main([*words, "-share_vocab"], standalone_mode=False)
    shared = load(tmp_path / "out").vocabularies
    assert shared[0] == shared[1]
    assert set(shared[0][4:]) == set("abcuvX")
    (tmp_path / "known").write_text("b\nzz\n")
    main([*words, "-src_vocab", str(tmp_path / "known")], standalone_mode=False)
    assert load(tmp_path / "out").vocabularies[0] == ["<unk>", "<blank>", "b", "zz"]


def test_order_is_random_and_repeatable(numbers: Path, tmp_path: Path, words: list[str]) -> None:
    orders = []
    for seed in ("1", "1", "2"):
        line = [*words, "-seed", seed]
        line[1], line[3] = str(numbers / "train.en"), str(numbers / "train.de")
        main(line, standalone_mode=False)
        orders.append([ids.tolist() for ids in load(tmp_path / "out").pairs["train"].source])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (("train.t", "u\nv\n"), "has 5 lines and"),
        (("valid.t", ""), "has 1 lines and"),
        (("train.s", "\n" * 5), "no training pair is left: 5 have an empty line, 0 are longer"),
        (("train.s", "d d d\n" * 5), "5 are longer than -src_seq_length 2 or -tgt_seq_length 50"),
        (("valid.s", "\n"), "have no pair without an empty line"),
    ],
)
def test_bad_files(spoil: tuple[str, str], expected: str, words: list[str], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / spoil[0]).write_text(spoil[1])
    assert expected in refusal(main, [*words, "-src_seq_length", "2"])
    assert not list(tmp_path.glob("out*"))


def test_a_test_text_without_a_pair(words: list[str], tmp_path: Path, refusal: Refusal) -> None:
    """It is told at once, not after the training."""
    for name, line in (("test.s", "\n"), ("test.t", "u\n")):
        (tmp_path / name).write_text(line)
    more = ["-test_src", str(tmp_path / "test.s"), "-test_tgt", str(tmp_path / "test.t")]
    assert "test.t have no pair without an empty line" in refusal(main, [*words, *more])
    assert not list(tmp_path.glob("out*"))


def test_bad_bytes_and_options(words: list[str], tmp_path: Path, refusal: Refusal) -> None:
    assert "-test_src and -test_tgt go together" in refusal(main, [*words, "-test_src", "x"])
    assert "-save_data . is a folder: say how the files in it begin" in refusal(main, [*words, "-save_data", "."])
    assert "leave -tgt_vocab out" in refusal(main, [*words, "-share_vocab", "-tgt_vocab", "x"])
    assert "-data_type img belongs to another system" in refusal(main, [*words, "-data_type", "img"])
    (tmp_path / "train.s").write_bytes(b"a\nb \xff\n")
    assert "train.s: line 2 is not UTF-8 text" in refusal(main, words)
    (tmp_path / "train.s").unlink()
    assert "cannot read" in refusal(main, words)


def test_batches_of_like_lengths() -> None:
    draw = np.random.default_rng(1)
    sentences = [np.ones(length) for length in draw.integers(1, 40, 1000)]
    pairs = Pairs(sentences, sentences)
    batches = epoch_batches(pairs, 16, seed=1, epoch=1)
    assert sorted(number for batch in batches for number in batch) == list(range(1000))
    assert Counter(map(len, batches)) == {16: 62, 8: 1}
    spread = [max(len(sentences[n]) for n in batch) - min(len(sentences[n]) for n in batch) for batch in batches]
    assert np.mean(spread) < 2
    firsts = [len(sentences[batch[0]]) for batch in batches]
    assert firsts != sorted(firsts)
    assert batches == epoch_batches(pairs, 16, seed=1, epoch=1)
    assert batches != epoch_batches(pairs, 16, seed=1, epoch=2)
    assert batches != epoch_batches(pairs, 16, seed=2, epoch=1)
    assert sorted_batches([3, 9, 1, 5], 3) == [[1, 3, 0], [2]]
