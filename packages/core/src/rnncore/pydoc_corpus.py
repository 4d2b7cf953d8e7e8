"""The embedded corpus ``pydoc``: English text without a download, the same for one version of Python."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from rnncore.cache_folders import build_folder, cache_root, discard_folder, with_fallback
from rnncore.corpus_cache import SPLITS
from rnncore.pydoc_text import documents, sentences
from rnncore.vocabulary import UNKNOWN

FORMAT = 1
TRAIN_SHARE, VALID_SHARE = 0.8, 0.1
RAREST = 3

_Lines = list[list[str]]


def path() -> Path:
    """The folder of the corpus, built at the first call and kept in the cache, by version of Python and `FORMAT`.

    Raises:
        UserError: as `build`; or no folder can be written.
    """

    def use(root: Path) -> Path:
        folder = root / f"pydoc-{platform.python_version()}-{FORMAT}"
        return folder if _is_complete(folder) else build(folder)

    return with_fallback(cache_root(), use)


def build(target: Path) -> Path:
    """Write ``train.txt``, ``valid.txt`` and ``test.txt`` to the folder `target`, which appears complete; return it.

    A line is a sentence of `rnncore.pydoc_text`. A document goes to one split as a whole; about 80, 10 and 10 % of the
    tokens are in train, valid and test. A sentence that an earlier split has is left out of a later one. Words that
    stand in train fewer than three times are ``<unk>`` everywhere. A folder `target` that is not whole is replaced.

    Raises:
        UserError: this Python has no source files of its standard library.
        OSError: `target` cannot be written.
    """
    texts = {
        name: list(sentences(text))
        for name, text in tqdm(documents(), desc="reading docstrings", delay=1.0, leave=False, disable=None)
    }
    splits = _without_shared(_replace_rare(_without_shared(_split(texts))))

    def write(folder: Path) -> None:
        for name, lines in zip(SPLITS, splits, strict=True):
            text = "".join(" ".join(line) + "\n" for line in lines)
            (folder / f"{name}.txt").write_bytes(text.encode("utf-8"))

    if not _is_complete(target):  # else another process has been faster, and is reading it
        discard_folder(target)
    build_folder(target, write)
    return target


def _is_complete(folder: Path) -> bool:
    return all((folder / f"{name}.txt").is_file() for name in SPLITS)


def _split(texts: dict[str, _Lines]) -> list[_Lines]:
    """Deal the documents out in the order of a hash of their names, until each split has its share of tokens."""
    total = sum(_size(lines) for lines in texts.values())
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    dealt = 0
    for name in sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        share = dealt / total
        split = "train" if share < TRAIN_SHARE else "valid" if share < TRAIN_SHARE + VALID_SHARE else "test"
        parts[split].append(name)
        dealt += _size(texts[name])
    return [[line for name in sorted(parts[split]) for line in texts[name]] for split in SPLITS]


def _size(lines: Iterable[list[str]]) -> int:
    return sum(len(line) + 1 for line in lines)


def _without_shared(splits: list[_Lines]) -> list[_Lines]:
    """Leave out of each split the lines that an earlier one has."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for lines in splits:
        new = [line for line in lines if tuple(line) not in seen]
        seen.update(map(tuple, new))
        kept.append(new)
    return kept


def _replace_rare(splits: list[_Lines]) -> list[_Lines]:
    counts = Counter(word for line in splits[0] for word in line)
    return [[[word if counts[word] >= RAREST else UNKNOWN for word in line] for line in lines] for lines in splits]
