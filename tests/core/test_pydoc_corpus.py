"""The embedded corpus: size, splits, determinism; and the rules that make sentences of a text."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rnncore import pydoc_corpus
from rnncore.pydoc_text import documents, sentences

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The corpus as two processes with different hash seeds build it."""
    root = tmp_path_factory.mktemp("pydoc")
    code = (
        "import sys; from pathlib import Path; from rnncore import pydoc_corpus; pydoc_corpus.build(Path(sys.argv[1]))"
    )
    targets = [root / "first", root / "second"]
    processes = [
        subprocess.Popen([sys.executable, *option, "-c", code, str(target)], env={**os.environ, "PYTHONHASHSEED": seed})
        for target, seed, option in zip(targets, ("1", "2"), ((), ("-OO",)), strict=True)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return targets


@pytest.fixture(scope="module")
def lines(built: list[Path]) -> dict[str, list[str]]:
    return {split: (built[0] / f"{split}.txt").read_text("utf-8").splitlines() for split in SPLITS}


def test_same_for_every_process(built: list[Path]) -> None:
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in built)
    assert sorted(first) == ["test.txt", "train.txt", "valid.txt"]
    assert first == second


def test_size_and_shares(lines: dict[str, list[str]]) -> None:
    tokens = {split: sum(len(line.split()) + 1 for line in lines[split]) for split in SPLITS}
    total = sum(tokens.values())
    assert 350_000 < total < 650_000
    assert 0.75 < tokens["train"] / total < 0.9
    assert 0.05 < tokens["valid"] / total < 0.12
    assert 0.05 < tokens["test"] / total < 0.12


def test_no_line_stands_in_two_splits(lines: dict[str, list[str]]) -> None:
    distinct = [set(lines[split]) for split in SPLITS]
    assert len(set.union(*distinct)) == sum(map(len, distinct))


def test_words_of_all_splits_are_frequent_in_train(lines: dict[str, list[str]]) -> None:
    words = {split: Counter(word for line in lines[split] for word in line.split()) for split in SPLITS}
    assert 3000 < len(words["train"]) < 15_000
    # A sentence that train shares with nobody stays there, so the count is that of the final text.
    assert min(words["train"].values()) >= 3
    for split in ("valid", "test"):
        assert set(words[split]) <= set(words["train"])
    assert 0 < words["test"]["<unk>"] / words["test"].total() < 0.1
    for word in ("the", "returns", "N", ".", "'s"):
        assert words["train"][word] > 100
    assert not [word for word in words["train"] if word != "N" and word != word.lower()]


def test_documents_are_all_kinds_of_text() -> None:
    texts = dict(documents())
    assert "assert statement" in texts["topics.assert"]
    assert texts["textwrap"].startswith("Text wrapping and filling.")
    assert "Wrap a single paragraph of text" in texts["textwrap"]
    assert "concurrent.futures._base" in texts
    assert "Return the absolute value of the argument." in texts["builtins"]
    assert "Return a shallow copy of the list." in texts["builtins"]
    left_out = ("test", "tkinter", "idlelib", "lib2to3", "ensurepip", "pip", "numpy", "pydoc_data", "turtle")
    assert not [name for name in texts if name.split(".")[0] in left_out]


def test_docstrings_of_methods_nested_classes_and_coroutines_are_read(tmp_path: Path) -> None:
    from rnncore.pydoc_text import _docstrings

    source = tmp_path / "m.py"
    source.write_text(
        '"""Module."""\nclass A:\n    """Class."""\n    async def f(self):\n        """Coroutine.\n\n        More.\n'
        '        """\n    class B:\n        """Nested."""\ndef g():\n    return "\\d"\n'
    )
    assert [text for text in _docstrings(source) if text] == ["Module.", "Class.", "Coroutine.\n\nMore.", "Nested."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return the value.  It isn't copied.", ["return the value .", "it isn't copied ."]),
        (
            "One sentence over\n   two lines.\n\nAnother paragraph",
            ["one sentence over two lines .", "another paragraph"],
        ),
        ("The module's 3.11 files, 0x1F and 1,000.", ["the module 's N files , N and N ."]),
        ("Use os.path or __init__, e.g. re-use it.", ["use os . path or __init__ , e.g. re-use it ."]),
        ("Some title\n==========\n\n----", ["some title"]),
        (">>> print(f(x))\n... # more words\n'some output'", ["print ( f ( x ) )", "# more words", "' some output '"]),
        ("Word. 1 2 3.", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [" ".join(tokens) for tokens in sentences(text)] == expected


def test_path_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def tiny() -> Iterator[tuple[str, str]]:
        calls.append(1)
        for number in range(20):
            yield f"m{number}", "\n\n".join(f"word number {letter} of module {chr(97 + number)}" for letter in "xyz")

    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(pydoc_corpus, "documents", tiny)
    folder = pydoc_corpus.path()
    assert folder.is_relative_to(tmp_path)
    assert "{}.{}.{}".format(*sys.version_info[:3]) in folder.name
    assert len((folder / "train.txt").read_text().splitlines()) == 16 * 3
    assert pydoc_corpus.path() == folder
    assert calls == [1]
    (folder / "valid.txt").unlink()
    assert (pydoc_corpus.path() / "valid.txt").is_file()
    assert calls == [1, 1]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_faster_process_has_built_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be read already."""
    monkeypatch.setenv("RNNCORE_CACHE", str(tmp_path))

    def slow() -> Iterator[tuple[str, str]]:
        monkeypatch.setattr(pydoc_corpus, "documents", lambda: [("m", "two words")])
        (pydoc_corpus.path() / "mark").touch()
        yield "m", "two words"

    monkeypatch.setattr(pydoc_corpus, "documents", slow)
    assert (pydoc_corpus.path() / "mark").exists()
