"""Device choice, threads, seeds and random states, mixed precision, the description of the machine."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rnncore import checkpoint, device
from rnncore.errors import UserError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int) -> list[int]:
    """So many GPUs; the numbers of those that become the current one are appended to what is returned."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(
    ("gpus", "name", "cuda", "expected"),
    [
        (0, "auto", None, "cpu"),
        (0, "auto", False, "cpu"),
        (2, "auto", None, "cuda"),
        (2, "auto", False, "cuda"),
        (2, "auto", True, "cuda"),
        (0, "cpu", True, "cpu"),
        (2, "cpu", True, "cpu"),
        (2, "cuda", None, "cuda"),
        (2, "cuda:1", False, "cuda:1"),
    ],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, cuda: bool | None, expected: str) -> None:
    current = pretend(monkeypatch, gpus=gpus)
    assert device.choose(name, cuda=cuda) == torch.device(expected)
    assert current == ([1] if name == "cuda:1" else [])


@pytest.mark.parametrize(
    ("gpus", "name", "cuda", "message"),
    [
        (0, "auto", True, r"--cuda asks for a GPU, but .+; use --device cpu"),
        (0, "cuda", None, r"--device cuda asks for a GPU, but .+; use --device cpu"),
        (0, "cuda:7", None, r"--device cuda:7 asks for a GPU, but .+; use --device cpu"),
        (2, "cuda:2", None, r"--device cuda:2 does not exist: this machine has cuda:0 to cuda:1"),
        (2, "gpu", None, r"--device takes auto, cpu, cuda or cuda:N, not 'gpu'"),
        (2, "cuda:x", None, r"--device takes auto, cpu, cuda or cuda:N, not 'cuda:x'"),
        (2, "", None, r"--device takes auto, cpu, cuda or cuda:N, not ''"),
    ],
)
def test_choice_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, cuda: bool | None, message: str
) -> None:
    current = pretend(monkeypatch, gpus=gpus)
    with pytest.raises(UserError, match=f"^{message}$"):
        device.choose(name, cuda=cuda)
    assert not current


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        device.set_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        device.set_threads(None)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    for number in (0, 10**8):
        with pytest.raises(UserError, match=f"--threads must be at least 1 and at most 4,096, not {number}"):
            device.set_threads(number)


def draw() -> list[float]:
    legacy = [np.random.standard_normal(), np.random.random()]  # noqa: NPY002
    return [random.random(), random.gauss(0, 1), *legacy, torch.rand(()).item(), torch.randn(()).item()]


def test_same_seed_same_draws() -> None:
    device.seed_everything(7)
    first = draw()
    device.seed_everything(7)
    assert draw() == first
    device.seed_everything(8)
    assert all(one != other for one, other in zip(draw(), first, strict=True))
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"--seed must lie between 0 and 4294967295, not {seed}"):
            device.seed_everything(seed)


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    device.seed_everything(7)
    draw()  # one Gaussian of a pair is left over in Python's and numpy's generators
    checkpoint.save(tmp_path / "last.pt", {"rng": checkpoint.rng_state(torch.device("cpu"))})
    expected = [draw() for _ in range(3)]
    device.seed_everything(1)
    checkpoint.restore_rng(checkpoint.load(tmp_path / "last.pt")["rng"])
    assert [draw() for _ in range(3)] == expected


def test_random_state_of_a_gpu_is_left_out_without_one() -> None:
    state = device.rng_state(torch.device("cpu"))
    device.restore_rng({**state, "cuda": torch.zeros(16, dtype=torch.uint8)}, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state["torch"])


@pytest.mark.cuda
@needs_gpu
def test_random_state_of_a_gpu(tmp_path: Path) -> None:
    gpu = torch.device("cuda")
    device.seed_everything(7)
    checkpoint.save(tmp_path / "last.pt", {"rng": device.rng_state(gpu)})
    expected = torch.rand(5, device=gpu)
    device.restore_rng(checkpoint.load(tmp_path / "last.pt", map_location="cuda")["rng"], gpu)
    assert torch.equal(torch.rand(5, device=gpu), expected)


def test_autocast() -> None:
    left = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    cpu = torch.device("cpu")
    with device.autocast(cpu, "bf16"):
        product = left @ left.T
    assert torch.equal(product, left.bfloat16() @ left.bfloat16().T)
    assert product.dtype == torch.bfloat16
    with device.autocast(cpu, None):
        assert (left @ left.T).dtype == torch.float32
    with pytest.raises(UserError, match="--amp takes bf16, not 'fp16'"):
        device.autocast(cpu, "fp16")


def test_resolution() -> None:
    x = torch.ones(1)
    assert device.resolution(x) == 2**-23
    assert device.resolution(x.double()) == 2**-52
    with device.autocast(x.device, "bf16"):
        assert device.resolution(x) == 2**-7


@pytest.mark.parametrize(
    ("supported", "allowed", "dtype", "expected"),
    [
        (True, True, torch.float32, 2**-10),
        (False, True, torch.float32, 2**-23),
        (True, False, torch.float32, 2**-23),
        (True, True, torch.float64, 2**-52),
    ],
)
def test_resolution_of_tf32(
    monkeypatch: pytest.MonkeyPatch, supported: bool, allowed: bool, dtype: torch.dtype, expected: float
) -> None:
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: supported)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), is_cuda=True, dtype=dtype)
    assert device.resolution(on_gpu) == expected


def test_torch_s_recurrent_layers_on_a_gpu_run_without_autocast() -> None:
    torch.set_autocast_enabled("cuda", True)
    try:
        with device.torch_rnn(torch.device("cuda")):
            assert not torch.is_autocast_enabled("cuda")
        with device.torch_rnn(torch.device("cpu")):
            assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_machine() -> None:
    machine = device.describe_machine()
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert int(machine["cores"]) >= 1
    assert str(machine["cpu"]).strip()
    assert ("gpu" in machine) == torch.cuda.is_available()
