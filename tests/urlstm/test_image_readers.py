"""IDX and CIFAR-10 files: round trips with files written here, and every way in which a file can be wrong."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rnncore import fetch
from rnncore.errors import UserError
from urlstm import image_datasets
from urlstm.cifar import read_cifar
from urlstm.idx import read_idx
from urlstm.image_datasets import CIFAR10, MNIST, MNIST_FILES
from urlstm.images import load_pictures

RANDOM = np.random.default_rng(3)


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(7,), (5, 3, 4)])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    content = idx_bytes(array)
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    found = read_idx(tmp_path / "file", len(shape))
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


IMAGES = idx_bytes(RANDOM.integers(0, 256, (5, 3, 4), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is no IDX file of bytes"),
        (b"\x00\x00", "is no IDX file of bytes"),
        (b"PK" + IMAGES[2:], "is no IDX file of bytes"),
        (IMAGES[:2] + b"\x0d" + IMAGES[3:], "is no IDX file of bytes"),
        (idx_bytes(np.zeros(60)), "holds an array of 1 dimensions where 3 are expected"),
        (IMAGES[:4], "is cut off: 12 bytes are missing"),
        (IMAGES[:9], "is cut off"),
        (IMAGES[:-1], "is cut off: 1 bytes are missing"),
        (IMAGES[:16], "is cut off: 60 bytes are missing"),
        (IMAGES + b"xy", "has 2 bytes more than its header says"),
        (gzip.compress(IMAGES)[:-12], "is damaged or cut off"),
        (gzip.compress(IMAGES)[:-6] + bytes(6), "cannot read"),
    ],
)
def test_idx_file_that_is_wrong(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_idx(tmp_path / "file", 3)
    assert str(tmp_path / "file") in error.value.message
    assert expected in error.value.message
    assert "\n" not in error.value.message


def test_idx_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        read_idx(tmp_path / "file", 3)


def cifar_record(label: int, red: int, green: int, blue: int) -> bytes:
    """A picture whose first pixel has these colours, its second one more of each, and so on, modulo 256."""
    return bytes([label, *((colour + pixel) % 256 for colour in (red, green, blue) for pixel in range(1024))])


def test_cifar_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(cifar_record(3, 0, 50, 200) + cifar_record(9, 7, 8, 9))
    (tmp_path / "b").write_bytes(cifar_record(0, 1, 2, 3))
    pixels, labels = read_cifar([tmp_path / "a", tmp_path / "b"])
    assert labels.tolist() == [3, 9, 0]
    assert pixels.shape == (3, 1024, 3)
    for picture, colours in zip(pixels, [(0, 50, 200), (7, 8, 9), (1, 2, 3)], strict=True):
        for pixel in (0, 1, 700, 1023):
            assert picture[pixel].tolist() == [(colour + pixel) % 256 for colour in colours]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is cut off or not of CIFAR-10's binary version"),
        (cifar_record(3, 0, 0, 0)[:-1], "is cut off or not of CIFAR-10's binary version"),
        (cifar_record(3, 0, 0, 0) * 2 + b"\x00", "is cut off or not of CIFAR-10's binary version"),
        (cifar_record(10, 0, 0, 0), "holds the label 10; CIFAR-10 has the labels 0 to 9"),
    ],
)
def test_cifar_file_that_is_wrong(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_cifar([tmp_path / "file"])
    assert f"{tmp_path / 'file'} {expected}" in error.value.message


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder like MNIST's, of 30 and 10 pictures of 3 x 4 pixels; the labels are gzipped, the images are not."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for split, count in (("train", 30), ("t10k", 10)):
        images = RANDOM.integers(0, 256, (count, 3, 4), dtype=np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = gzip.compress(idx_bytes(np.arange(count) % 10))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(labels)
    return folder


def test_mnist_is_read_pixel_by_pixel(mnist: Path) -> None:
    data = load_pictures("mnist", mnist, seed=1)
    assert (len(data.train), len(data.valid), len(data.test), data.steps, data.channels) == (27, 3, 10, 12, 1)
    train = read_idx(mnist / "train-images-idx3-ubyte", 3)
    pixels, labels = data.valid.batch(torch.tensor([2, 0]), torch.device("cpu"))
    assert labels.tolist() == [9, 7]
    expected = np.stack([train[29].ravel(), train[27].ravel()], axis=1) / np.float32(255)
    assert np.allclose(pixels.squeeze(2).numpy(), expected, rtol=1e-6, atol=0)


def test_permuted_mnist_has_one_order_for_all_pictures(mnist: Path) -> None:
    plain, first, again, other = (
        load_pictures(kind, mnist, seed)  # type: ignore[arg-type]
        for kind, seed in (("mnist", 1), ("p-mnist", 1), ("p-mnist", 1), ("p-mnist", 2))
    )
    distinct = plain.train.pixels[:, :, 0].t().tolist()  # one column of values for each pixel
    order = [distinct.index(column) for column in first.train.pixels[:, :, 0].t().tolist()]
    assert sorted(order) == list(range(12)) != order
    for permuted, original in ((first.valid, plain.valid), (first.test, plain.test)):
        assert torch.equal(permuted.pixels, original.pixels[:, order])
        assert torch.equal(permuted.labels, original.labels)
    assert torch.equal(again.train.pixels, first.train.pixels)
    assert not torch.equal(other.train.pixels, first.train.pixels)


def test_digits_are_split_by_the_seed() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    whole = sorted(zip(load_digits().data.tolist(), load_digits().target.tolist(), strict=True))
    splits = {}
    for seed in (1, 2):
        data = load_pictures("digits", None, seed)
        assert (len(data.train), len(data.valid), len(data.test)) == (1439, 179, 179)
        parts = (data.train, data.valid, data.test)
        found = [
            pair for part in parts for pair in zip(part.pixels.squeeze(2).tolist(), part.labels.tolist(), strict=True)
        ]
        assert sorted(found) == whole
        assert float(data.train.batch(slice(0, 1000), torch.device("cpu"))[0].max()) == 1.0
        splits[seed] = found
    assert splits[1] != splits[2]


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "train-images-idx3-ubyte").unlink(), "has no train-images-idx3-ubyte"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), "has no t10k-labels-idx1-ubyte"),
        (
            lambda folder: (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(29))),
            "train has 30 pictures and 29 labels",
        ),
        (
            lambda folder: (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.full(30, 10))),
            "train has the label 10",
        ),
    ],
)
def test_mnist_folder_that_is_wrong(spoil: Spoil, expected: str, mnist: Path) -> None:
    spoil(mnist)
    with pytest.raises(UserError, match=expected):
        load_pictures("mnist", mnist, seed=1)


def test_cifar_folder(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar_record(number, number, 0, 0) * 4)
    with pytest.raises(UserError, match=r"has no test_batch\.bin"):
        load_pictures("cifar-10", tmp_path, seed=1)
    (tmp_path / "test_batch.bin").write_bytes(cifar_record(8, 0, 0, 0))
    data = load_pictures("cifar-10", tmp_path, seed=1)
    assert data.train.labels.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 2
    assert data.valid.labels.tolist() == [5, 5]
    assert data.test.labels.tolist() == [8]
    assert (data.steps, data.channels) == (1024, 3)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data .*nowhere is no directory"):
        load_pictures("mnist", tmp_path / "nowhere", seed=1)


def test_data_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **more: object) -> Path:
        raise UserError("no network")

    monkeypatch.setenv("RNN_DATA", str(tmp_path))
    monkeypatch.setattr(fetch, "download", refuse)
    with pytest.raises(UserError, match="mnist: no network; give the directory of a copy with --data"):
        load_pictures("mnist", None, seed=1)


def test_data_sets_are_installed_from_copies(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the descriptions say of raw and installed files fits together."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in MNIST_FILES:
        source = next(path for path in (mnist / name, mnist / name.removesuffix(".gz")) if path.is_file())
        (raw / name).write_bytes(source.read_bytes())
    for name in (*image_datasets.CIFAR_TRAIN, image_datasets.CIFAR_TEST):
        (raw / name).write_bytes(cifar_record(1, 0, 0, 0))
    monkeypatch.setenv("RNN_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match="its checksum is not the published one"):
        fetch.get(MNIST, origin=raw)
    fetch.get(MNIST, origin=raw, force=True)
    fetch.get(CIFAR10, origin=raw)
    assert len(load_pictures("mnist", None, seed=1).train) == 27
    assert len(load_pictures("cifar-10", None, seed=1).test) == 1


@pytest.mark.shared
def test_the_test_images_of_mnist(shared: Path) -> None:
    images = read_idx(shared / "data" / "mnist" / "t10k-images-idx3-ubyte.gz", 3)
    labels = read_idx(shared / "data" / "mnist" / "t10k-labels-idx1-ubyte.gz", 1)
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.max() == 255
    assert not images[:, 0].any()  # the digits are centred
    assert float(images.mean() / 255) == pytest.approx(0.1325, abs=5e-4)  # the published mean of the test pictures
