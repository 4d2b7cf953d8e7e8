"""Builds, caches and loads small C++ operators; every one of them has an eager path beside it.

A source file registers its operators with ``STABLE_TORCH_LIBRARY``. It is compiled once per source, torch version and
processor, with the system's compiler, and kept in the cache folder; those that will be wanted with it are compiled at
the same time. Without a compiler, or with ``RNNCORE_NATIVE=0`` in the environment, callers use their eager path.
"""

import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from rnncore.cache_folders import cache_root
from rnncore.device import usable_cores

logger = logging.getLogger("rnncore")

#: The core's own sources, and headers for those of all packages.
_SHARED = Path(__file__).with_name("kernels")

# Contraction to fused multiply-adds would make a native step differ from its eager oracle in the last bit.
_FLAGS = (
    "-O3",
    "-std=c++20",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    "-w",
)


@functools.cache
def load(source: Path) -> bool:
    """Makes the operators of a C++ source file callable as ``torch.ops.<library>.<operator>``.

    The first call for a source compiles it (five to fifteen seconds) unless an earlier process did, and at the same
    time the core's sources and those beside it. Two processes may build at once: each compiles under a temporary name
    and renames the result.

    Args:
        source: The ``.cpp`` file; headers of its own lie beside it, and it may include those of ``kernels/``.

    Returns:
        Whether the operators can be called. A failed build logs one warning.
    """
    if os.environ.get("RNNCORE_NATIVE", "1") == "0":
        return False
    try:
        library = _library(source)
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:  # not built yet, or damaged
            _build_with_others(source)
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).strip().splitlines()
        logger.warning(
            "no native kernels (%s): the slower eager ones are used; install a C++ compiler, or set RNNCORE_NATIVE=0",
            reason[-1] if reason else type(error).__name__,
        )
        return False
    return True


def _library(source: Path) -> Path:
    """Where the build of a source is kept."""
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    return cache_root() / "native" / f"{source.stem}-{_key(source)}{suffix}"


def _key(source: Path) -> str:
    """Names a build: what it is made from and for which processor (``-march=native``)."""
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    headers = {*source.parent.glob("*.h"), *_SHARED.glob("*.h")}
    texts = [path.read_text() for path in (source, *sorted(headers))]
    parts = (*texts, str(torch.__version__), platform.machine(), processor, " ".join(_flags()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _flags() -> tuple[str, ...]:
    """The compiler's for this processor: those of others do not know a preferred width of vectors."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return ("-mprefer-vector-width=512", *_FLAGS) if x86 else _FLAGS


def _build_with_others(source: Path) -> None:
    """Builds a source, and what else is not built yet of the core's and of those beside it; raises why it cannot."""
    others = {*source.parent.glob("*.cpp"), *_SHARED.glob("*.cpp")} - {source}
    missing = [source, *sorted(other for other in others if not _library(other).exists())]
    logger.info("compiling %s; this happens once", ", ".join(each.name for each in missing))
    with ThreadPoolExecutor(usable_cores()) as pool:
        builds = [pool.submit(_build, each) for each in missing]
    builds[0].result()  # why another cannot be built is told when it is wanted


def _build(source: Path) -> None:
    library, torch_root = _library(source), Path(torch.__file__).parent
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        target = Path(folder) / library.name
        command = [
            *(*shlex.split(os.environ.get("CXX", "c++")), *_flags()),
            *("-I", str(_SHARED), "-isystem", str(torch_root / "include")),
            *(str(source), "-o", str(target), f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-lc10"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or ["the compiler failed"]
            raise RuntimeError(errors[0])
        os.replace(target, library)
