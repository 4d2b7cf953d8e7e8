"""A text in three parts, as token ids."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rnncore.cache_folders import cache_root, with_fallback
from rnncore.content_sums import content_sum, file_state, remember_sum
from rnncore.corpus_cache import SPLITS, VOCABULARY, Entry, entry_key, open_or_build
from rnncore.encoding import CharacterEncoder, Encoder, WordEncoder, encode_file
from rnncore.errors import UserError
from rnncore.id_files import order_by_frequency
from rnncore.vocabulary import Vocabulary
from rnncore.windows import batchify

Level = Literal["word", "character"]
Order = Literal["appearance", "frequency"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """The token ids of a training, a validation and a test text, and the vocabulary that they share.

    Attributes:
        vocabulary: the tokens of all three texts.
        train, valid, test: ids, read-only int32 arrays of shape [tokens], mapped from the cache.
        level: what a token is, ``"word"`` or ``"character"``.
    """

    vocabulary: Vocabulary
    train: NDArray[np.int32]
    valid: NDArray[np.int32]
    test: NDArray[np.int32]
    level: Level

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        level: Level = "word",
        order: Order = "appearance",
        cache_dir: Path | None = None,
        progress: bool = True,
    ) -> "Corpus":
        """Encode ``train.txt``, ``valid.txt`` and ``test.txt`` of a folder, or open their encoding from the cache.

        At word level a token is a run of bytes between ASCII white space; at character level it is a Unicode character.
        Every line, an empty one too, ends with one ``<eos>``. A byte-order mark at the start of a file and the CR of a
        line end CR LF are dropped. (Files of characters separated by spaces, as ``pennchar``, are read at word level.)

        Args:
            directory: folder of the three files, in UTF-8.
            level: what a token is.
            order: ids by first appearance over train, valid, test; or by falling count in train, where equal counts
                (the tokens that train lacks among them) keep their order of appearance.
            cache_dir: folder of encoded corpora; by default ``corpora`` in `rnncore.cache_folders.cache_root`.
            progress: show a progress bar while encoding, where standard error is a terminal.

        Raises:
            UserError: a file is missing, unreadable, without text or not valid UTF-8; or `level` or `order` is unknown.
        """
        _check_choice("level", level, get_args(Level))
        _check_choice("order", order, get_args(Order))
        files = {split: _split_file(Path(directory), split) for split in SPLITS}

        def use(root: Path) -> Entry:
            sums = {split: content_sum(path, root) for split, path in files.items()}
            key = entry_key(sums, level=level, order=order)
            return open_or_build(root, key, lambda folder: _encode(files, sums, folder, root, level, order, progress))

        entry = with_fallback(cache_dir or cache_root() / "corpora", use)
        return cls(entry.vocabulary, entry.ids["train"], entry.ids["valid"], entry.ids["test"], level)

    def tensor(self, split: str) -> Tensor:
        """A copy of the ids of ``"train"``, ``"valid"`` or ``"test"``: int64 of shape [tokens].

        Raises:
            UserError: there is no such split.
        """
        _check_choice("split", split, SPLITS)
        ids: NDArray[np.int32] = getattr(self, split)
        return torch.from_numpy(np.array(ids, dtype=np.int64))

    def columns(self, split: str, count: int, device: torch.device | str | None = None) -> Tensor:
        """A split in ``count`` columns: int64 ``[tokens // count, count]`` (`rnncore.windows.batchify`).

        Raises:
            UserError: the split is too short for an input and its target in each column.
        """
        ids = self.tensor(split)
        if len(ids) < 2 * count:
            way_out = "use a smaller --batch_size" if split == "train" else "use a longer text"
            raise UserError(f"{split}.txt has {len(ids)} tokens, but {count} columns need {2 * count}; {way_out}")
        return batchify(ids, count, device)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{what} is {value!r}; choose one of {', '.join(choices)}")


def _split_file(directory: Path, split: str) -> Path:
    path = directory / f"{split}.txt"
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; name a folder that holds train.txt, valid.txt and test.txt")
    if not path.is_file():
        raise UserError(f"{directory} has no {path.name}; it must hold train.txt, valid.txt and test.txt")
    return path


def _encode(
    files: dict[str, Path], sums: dict[str, str], folder: Path, root: Path, level: Level, order: Order, progress: bool
) -> None:
    """Write the id files and the vocabulary of `files` to `folder`."""
    encoder: Encoder = WordEncoder() if level == "word" else CharacterEncoder()
    states = {split: file_state(path) for split, path in files.items()}
    targets = [folder / f"{split}.npy" for split in SPLITS]
    size = sum(state[0] for state in states.values())
    hide = None if progress else True
    with tqdm(total=size, desc="encoding", unit="B", unit_scale=True, delay=1.0, leave=False, disable=hide) as bar:
        for (split, path), target in zip(files.items(), targets, strict=True):
            if encode_file(path, encoder, target, bar.update) != sums[split]:
                raise UserError(f"{path} changed while it was being read; start again when it is complete")
    tokens = encoder.tokens()
    if order == "frequency":
        tokens = order_by_frequency(targets, tokens)
    Vocabulary(tokens).save(folder / VOCABULARY)
    for split, path in files.items():
        remember_sum(path, states[split], sums[split], root)
