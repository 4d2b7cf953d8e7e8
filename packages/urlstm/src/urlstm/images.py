"""Pictures as sequences of pixels: MNIST, permuted MNIST, CIFAR-10, and the small digits of scikit-learn.

Shapes: N pictures, T pixels, C channels, B batch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rnncore.errors import UserError
from torch import Tensor

from urlstm.cifar import read_cifar
from urlstm.idx import read_idx
from urlstm.image_datasets import CIFAR10, CIFAR_TEST, CIFAR_TRAIN, MNIST, directory_of
from urlstm.random_streams import Purpose, stream

Kind = Literal["mnist", "p-mnist", "cifar-10", "digits"]
CLASSES = 10

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Pixels, uint8 ``[N, T, C]`` from 0 to ``white``, and labels, int64 ``[N]``."""

    pixels: Tensor
    labels: Tensor
    white: int = 255

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def batch(self, which: Tensor | slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Some pictures as sequences, float32 ``[T, B, C]`` from 0 to 1, and their labels ``[B]``."""
        pixels = self.pixels[which].to(device).transpose(0, 1).float() / self.white
        return pixels.contiguous(), self.labels[which].to(device)


@dataclass(frozen=True)
class PictureSplits:
    """What is trained on, what picks the best model, and what that is tested on."""

    train: Pictures
    valid: Pictures
    test: Pictures

    @property
    def steps(self) -> int:
        """T."""
        return int(self.train.pixels.shape[1])

    @property
    def channels(self) -> int:
        """C."""
        return int(self.train.pixels.shape[2])


def load_pictures(kind: Kind, folder: Path | None, seed: int) -> PictureSplits:
    """A data set in three parts; it is fetched where it is missing.

    The last tenth of the published training pictures is for validation. The digits, which are published as one set, are
    shuffled by the seed and split 8 : 1 : 1. Permuted MNIST has its pixels in one order, drawn from the seed, the same
    for every picture.

    Args:
        kind: Which data set.
        folder: Where its files lie; None for where data sets are installed.
        seed: Of the permutation, and of the split of the digits.

    Raises:
        UserError: The files are missing, damaged or not of this data set.
    """
    if kind == "digits":
        return _digits(seed)
    read = _cifar if kind == "cifar-10" else _mnist
    (pixels, labels), (test_pixels, test_labels) = read(folder)
    if kind == "p-mnist":
        order = stream(seed, Purpose.PERMUTATION).permutation(pixels.shape[1])
        pixels, test_pixels = pixels[:, order], test_pixels[:, order]
    kept = len(labels) - max(1, len(labels) // 10)
    return PictureSplits(
        _pictures(pixels[:kept], labels[:kept]),
        _pictures(pixels[kept:], labels[kept:]),
        _pictures(test_pixels, test_labels),
    )


def _pictures(pixels: _Pixels, labels: _Pixels, white: int = 255) -> Pictures:
    return Pictures(torch.from_numpy(np.array(pixels, order="C")), torch.from_numpy(labels.astype(np.int64)), white)


def _digits(seed: int) -> PictureSplits:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # a second to import, for this one data set

    digits = load_digits()
    order = stream(seed, Purpose.SPLIT).permutation(len(digits.target))
    pixels = digits.data.astype(np.uint8)[order, :, None]
    labels = digits.target.astype(np.uint8)[order]
    tenth = len(order) // 10
    first, second = len(order) - 2 * tenth, len(order) - tenth
    return PictureSplits(
        _pictures(pixels[:first], labels[:first], 16),
        _pictures(pixels[first:second], labels[first:second], 16),
        _pictures(pixels[second:], labels[second:], 16),
    )


def _mnist(folder: Path | None) -> tuple[tuple[_Pixels, _Pixels], tuple[_Pixels, _Pixels]]:
    place = directory_of(MNIST, folder)
    return _mnist_split(place, "train"), _mnist_split(place, "t10k")


def _mnist_split(place: Path, split: str) -> tuple[_Pixels, _Pixels]:
    images = read_idx(_file(place, f"{split}-images-idx3-ubyte"), 3)
    labels = read_idx(_file(place, f"{split}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{place}: {split} has {len(images)} pictures and {len(labels)} labels; get the files anew")
    if labels.max() >= CLASSES:
        raise UserError(f"{place}: {split} has the label {labels.max()}; MNIST has the labels 0 to 9")
    return images.reshape(len(images), -1, 1), labels


def _file(place: Path, name: str) -> Path:
    found = next((path for path in (place / f"{name}.gz", place / name) if path.is_file()), None)
    if found is None:
        raise UserError(f"{place} has no {name} (nor {name}.gz); give a directory with the four files of MNIST")
    return found


def _cifar(folder: Path | None) -> tuple[tuple[_Pixels, _Pixels], tuple[_Pixels, _Pixels]]:
    place = directory_of(CIFAR10, folder)
    missing = [name for name in (*CIFAR_TRAIN, CIFAR_TEST) if not (place / name).is_file()]
    if missing:
        raise UserError(f"{place} has no {missing[0]}; give a directory with the files of CIFAR-10's binary version")
    return read_cifar([place / name for name in CIFAR_TRAIN]), read_cifar([place / CIFAR_TEST])
