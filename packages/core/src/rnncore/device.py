"""Device choice, threads, seeds, random states, mixed precision, and a description of the machine."""

import contextlib
import os
import platform
import random
import re
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnncore.errors import UserError

#: With far more the system refuses some, and the process dies.
MOST_THREADS = 4096


def choose(device: str, *, cuda: bool | None = None) -> torch.device:
    """The device that ``--device`` and ``--cuda`` ask for; a GPU that is named by its number becomes the current one.

    Args:
        device: ``auto`` (a GPU when there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        cuda: the ``--cuda`` switch. True asks for a GPU, and matters only when ``device`` is ``auto``; False and None
            mean that it was not given.

    Raises:
        UserError: an unknown name, a GPU that is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if cuda:
            raise UserError(f"--cuda asks for a GPU, but {_why_no_gpu()}; use --device cpu")
        return torch.device("cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UserError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"--device {device} asks for a GPU, but {_why_no_gpu()}; use --device cpu")
    count = torch.cuda.device_count()
    if match[1] is not None and int(match[1]) >= count:
        raise UserError(f"--device {device} does not exist: this machine has cuda:0 to cuda:{count - 1}")
    if match[1] is not None:
        torch.cuda.set_device(int(match[1]))  # else what is asked of the current GPU would be asked of cuda:0
    return torch.device(device)


def set_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads; None leaves its choice. Raises UserError below 1, and above `MOST_THREADS`."""
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads must be at least 1 and at most {MOST_THREADS:,}, not {threads}")
    torch.set_num_threads(threads)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's global and torch's generators (all devices). Raises UserError outside 0 .. 2**32 - 1."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must lie between 0 and {2**32 - 1}, not {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (other libraries draw from the global generator)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's global and torch's generators, and of ``device`` when it is a GPU.

    Tensors and numbers only, so that a checkpoint can hold it.
    """
    version, words, gauss = random.getstate()
    numpy_name, numpy_words, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "name": str(numpy_name),
            "words": torch.from_numpy(np.asarray(numpy_words).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what :func:`rng_state` took.

    The state of a GPU goes to ``device`` (None: the current one), and is left out on a machine without one.
    """
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    words = numpy["words"].cpu().numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        (numpy["name"], words, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(state["torch"].cpu())
    on_gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
    if "cuda" in state and on_gpu:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device if device is not None else "cuda")


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[object]:
    """The context of ``--amp``: ``bf16`` computes products in bfloat16, None changes nothing. UserError otherwise."""
    if amp is None:
        return contextlib.nullcontext()
    if amp != "bf16":
        raise UserError(f"--amp takes bf16, not {amp!r}")
    return torch.autocast(device.type, dtype=torch.bfloat16)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast asks products to be computed in on a device; None outside autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def resolution(like: Tensor) -> float:
    """The eps of the products that tensors like this one are made of: of its type, or of autocast's.

    In float32 it is that of TF32, 2**-10, where cuDNN's layers compute in it: by default on every GPU that can.
    """
    dtype = autocast_dtype(like.device) or like.dtype
    if dtype == torch.float32 and like.is_cuda and torch.backends.cudnn.allow_tf32 and torch.cuda.is_tf32_supported():
        return 2.0**-10
    return torch.finfo(dtype).eps


def torch_rnn(device: torch.device) -> AbstractContextManager[object]:
    """The context of a call of torch's own recurrent layers, whose inputs are then of their weights' type.

    On a GPU autocast is off in it: there it has cuDNN compute them in float16, whatever type it was asked for (torch
    2.11), and without a scaled loss small gradients vanish in float16.
    """
    return torch.autocast(device.type, enabled=False) if device.type == "cuda" else contextlib.nullcontext()


def keeps_memory_of_shapes(device: torch.device, amp: str | None) -> bool:
    """Whether each new number of rows costs memory: in bfloat16 on a CPU, oneDNN keeps about a megabyte a product."""
    return amp is not None and device.type == "cpu"


def let_weights_lie_apart() -> None:
    """Silences, in this process, what cuDNN's layers say of weights that lie apart: they are copied at each call."""
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")


def usable_cores() -> int:
    """How many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def describe_machine() -> dict[str, str | int]:
    """What a measurement depends on: CPU, cores this process may use, torch's threads, versions, GPU (when there)."""
    machine: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _why_no_gpu() -> str:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return "this torch is built for the CPU only"
    return "torch finds none on this machine"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
