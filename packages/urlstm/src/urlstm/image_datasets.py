"""MNIST and CIFAR-10 as data sets that are fetched: their files, addresses and published sums."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rnncore import fetch
from rnncore.dataset_description import DataFile, Dataset, Download, RawFile
from rnncore.errors import UserError

MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)


def _copy_mnist(raw: Sequence[Path], destination: Path) -> None:
    for source, name in zip(raw, MNIST_FILES, strict=True):
        shutil.copyfile(source, destination / name)


def _copy_cifar(raw: Sequence[Path], destination: Path) -> None:
    for source, name in zip(raw, (*CIFAR_TRAIN, CIFAR_TEST), strict=True):
        shutil.copyfile(source, destination / name)


MNIST = Dataset(
    name="mnist",
    description="70,000 handwritten digits of 28 x 28 pixels",
    size_mb=12,
    files=tuple(DataFile(name=name) for name in MNIST_FILES),
    raw=tuple(RawFile(names=(name,), checksum=checksum) for name, checksum in MNIST_FILES.items()),
    sources=(
        tuple(
            Download(filename=name, mirrors=tuple(f"{url}/{name}" for url in _MNIST_MIRRORS), checksum=checksum)
            for name, checksum in MNIST_FILES.items()
        ),
    ),
    prepare=_copy_mnist,
)
CIFAR10 = Dataset(
    name="cifar-10",
    description="60,000 colour pictures of 32 x 32 pixels in ten classes, binary version",
    size_mb=185,
    files=tuple(DataFile(name=name) for name in (*CIFAR_TRAIN, CIFAR_TEST)),
    raw=tuple(RawFile(names=(name,)) for name in (*CIFAR_TRAIN, CIFAR_TEST)),
    sources=(
        (
            Download(
                filename="cifar-10-binary.tar.gz",
                mirrors=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
                members=tuple(f"cifar-10-batches-bin/{name}" for name in (*CIFAR_TRAIN, CIFAR_TEST)),
            ),
        ),
    ),
    prepare=_copy_cifar,
)


def directory_of(dataset: Dataset, given: Path | None) -> Path:
    """The directory with the files of a data set: the given one, or where it is installed, fetching it if need be.

    Raises:
        UserError: The given path is no directory; or there is no copy and it cannot be fetched.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"--data {given} is no directory; give the one that holds the files of {dataset.name}")
        return given
    return fetch.get(dataset, advice="give the directory of a copy with --data, or use --dataset_type digits")
