"""Preprocessed data on disk: sentences as ids in flat arrays, vocabularies and held-out texts; and batches of them.

``PREFIX.train.npz`` and so on hold ``source``, ``source_ends``, ``target``, ``target_ends``: ids one after the other,
and where each sentence ends. ``PREFIX.json`` holds the vocabularies and, for BLEU, the texts of validation and test.
Nothing is pickled.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rnncore.atomic_file import cannot_write, replace_file
from rnncore.errors import UserError

from revrnn.translation.model import BEGIN, END, PADDING, UNKNOWN, Batch

FORMAT = 1


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs as ids; a target has no begin and end yet."""

    source: list["np.ndarray[Any, Any]"]
    target: list["np.ndarray[Any, Any]"]

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The pairs of these numbers, padded."""
        source, lengths = padded([self.source[number] for number in numbers])
        ends = [np.concatenate([[BEGIN], self.target[number], [END]]) for number in numbers]
        return Batch(source, lengths, padded(ends)[0])


@dataclass(frozen=True)
class Texts:
    """The sentences of a held-out split, tokenised, as they were read."""

    source: list[str]
    target: list[str]


def pairs_of(texts: Texts, vocabularies: tuple[list[str], list[str]]) -> Pairs:
    """The ids of texts; pairs with an empty side are left out."""
    both = zip(texts.source, texts.target, strict=True)
    there = [(source.split(), target.split()) for source, target in both if source.strip() and target.strip()]
    source, target = ([pair[side] for pair in there] for side in (0, 1))
    return Pairs(ids(source, vocabularies[0]), ids(target, vocabularies[1]))


def ids(sentences: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> list["np.ndarray[Any, Any]"]:
    """The ids of each sentence's words; a word that the vocabulary has not is `UNKNOWN`."""
    table = {word: number for number, word in enumerate(vocabulary)}
    return [np.array([table.get(word, UNKNOWN) for word in words], dtype=np.int64) for words in sentences]


@dataclass(frozen=True)
class TranslationData:
    """All that was preprocessed under a prefix; ``vocabularies`` are (source, target), in order of ids."""

    vocabularies: tuple[list[str], list[str]]
    pairs: dict[str, Pairs]
    texts: dict[str, Texts]
    lower: bool


def padded(sentences: Sequence["np.ndarray[Any, Any]"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[T, B]``, and lengths ``[B]``."""
    lengths = [len(sentence) for sentence in sentences]
    table = np.full((len(sentences), max(lengths)), PADDING, dtype=np.int64)
    for row, sentence in zip(table, sentences, strict=True):
        row[: len(sentence)] = sentence
    return torch.from_numpy(table).t().contiguous(), torch.tensor(lengths)


def save(prefix: Path, data: TranslationData) -> None:
    """Writes the files of a prefix, that with the vocabularies last. Raises UserError when the disk refuses."""
    content = {
        "format": FORMAT,
        "lower": data.lower,
        "source": data.vocabularies[0],
        "target": data.vocabularies[1],
        "texts": {split: {"source": each.source, "target": each.target} for split, each in data.texts.items()},
    }
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        for split, pairs in data.pairs.items():
            arrays = {**_flat("source", pairs.source), **_flat("target", pairs.target)}
            replace_file(_file(prefix, f".{split}.npz"), partial(_write_arrays, arrays))
        text = json.dumps(content, ensure_ascii=False)
        replace_file(_file(prefix, ".json"), lambda file: file.write(text.encode()))
    except OSError as error:
        raise cannot_write(prefix, error) from error


def load(prefix: Path) -> TranslationData:
    """Reads the files of a prefix. Raises UserError where one is missing or damaged."""
    try:
        content = json.loads(_file(prefix, ".json").read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError("another version made them")
        pairs = {split: _read(_file(prefix, f".{split}.npz")) for split in ("train", "valid")}
        texts = {split: Texts(each["source"], each["target"]) for split, each in content["texts"].items()}
        vocabularies = content["source"], content["target"]
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {error.filename}: -data takes what -save_data of revrnn-nmt-preprocess was, or what "
            "revrnn-nmt-data printed"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"the data of {prefix} cannot be used ({error}); run revrnn-nmt-preprocess again") from None
    return TranslationData(vocabularies, pairs, texts, bool(content["lower"]))


def _write_arrays(arrays: Mapping[str, "np.ndarray[Any, Any]"], file: IO[bytes]) -> None:
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its options


def _file(prefix: Path, end: str) -> Path:
    return prefix.with_name(prefix.name + end)


def _flat(name: str, sentences: list["np.ndarray[Any, Any]"]) -> dict[str, "np.ndarray[Any, Any]"]:
    ends = np.cumsum([len(sentence) for sentence in sentences])
    return {name: np.concatenate(sentences).astype(np.int32), f"{name}_ends": ends}


def _read(path: Path) -> Pairs:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        source, target = (np.split(arrays[name], arrays[f"{name}_ends"][:-1]) for name in ("source", "target"))
    return Pairs(source, target)
