"""Peak memory of this process and of a GPU. One MB is 2**20 bytes here."""

import os
import re
import sys
from pathlib import Path

import torch

_MB = 2**20
#: Environment variables that bound how many products oneDNN, and torch's interface to it, keep prepared.
_PREPARED_PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def peak_rss_mb() -> float:
    """The most resident memory that this process ever held, in MB; NaN where the system does not tell (Windows).

    Linux's ``VmHWM`` is preferred to ``getrusage``: it can be reset, and it does not start at the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if match is not None:
            return int(match[1]) * 1024 / _MB
    if sys.platform == "win32":
        return float("nan")
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MB if sys.platform == "darwin" else peak * 1024 / _MB


def reset_peak_rss() -> bool:
    """Start a new measurement of :func:`peak_rss_mb` from the memory held now.

    Returns:
        False where the system does not allow it: the peak then stays that of the whole process.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def keep_freed_memory() -> bool:
    """Lets glibc keep freed blocks for the next step, instead of giving them back and clearing new pages each time.

    The tensors of one training step are as large as those of the one before; returning them to the system costs tens
    of milliseconds a step. Of the products that oneDNN prepares for each new shape, about 1 MB each, fewer are kept
    than the thousand that it would keep. To be called once, before the first large tensor.

    Returns:
        False where the C library is another.
    """
    for name in _PREPARED_PRODUCTS:
        os.environ.setdefault(name, "128")  # read at the first product
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold, most = -1, -3, 2**30
    return mallopt is not None and bool(mallopt(mmap_threshold, most)) and bool(mallopt(trim_threshold, most))


def peak_cuda_mb(device: torch.device) -> float:
    """The most memory that tensors held on a GPU since :func:`reset_peak_cuda`, in MB; 0 for another device."""
    return torch.cuda.max_memory_allocated(device) / _MB if device.type == "cuda" else 0.0


def reset_peak_cuda(device: torch.device) -> None:
    """Start a new measurement of :func:`peak_cuda_mb`; does nothing for another device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
