"""Builds, caches and loads small C++ operators; every one of them has an eager path beside it.

A source file registers its operators with ``STABLE_TORCH_LIBRARY``. It is compiled once per source, torch version and
processor, with the system's compiler, and kept in the cache folder; those that will be wanted with it are compiled at
the same time. Without a compiler, or with ``RNNCORE_NATIVE=0`` in the environment, callers use their eager path.
"""

import errno
import functools
import hashlib
import logging
import os
import platform
import shlex
import signal
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


_OTHER_COMPILER = "name another C++ compiler in CXX"
#: What the loader says in a file system whose programs may not run.
_NO_PROGRAMS = "failed to map segment from shared object"
#: Causes that this process has warned of.
_told: set[str] = set()


class _CompilerError(RuntimeError):
    """The compiler is missing, or refuses a source; ``remedy`` is what helps."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@functools.cache
def load(source: Path) -> bool:
    """Makes the operators of a C++ source file callable as ``torch.ops.<library>.<operator>``.

    The first call for a source compiles it (five to fifteen seconds) unless an earlier process did, and at the same
    time the core's sources and those beside it. Two processes may build at once: each compiles under a temporary name
    and renames the result.

    Args:
        source: The ``.cpp`` file; headers of its own lie beside it, and it may include those of ``kernels/``.

    Returns:
        Whether the operators can be called. If not, one warning says why, once for the sources with the same cause.

    Raises:
        KeyboardInterrupt: Ctrl-C while it compiles; what has not begun is left out.
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
    except (OSError, RuntimeError) as error:
        _warn(error)
        return False
    return True


def _warn(error: OSError | RuntimeError) -> None:
    """Tells why there are no kernels, and what to do about it."""
    told = (error.__cause__ or error) if isinstance(error, OSError) else error  # torch hides what the loader says
    reason, remedy = (str(told).strip().splitlines() or [type(told).__name__])[-1], _OTHER_COMPILER
    if isinstance(error, _CompilerError):
        remedy = error.remedy
    elif isinstance(told, OSError) and (told.errno or _NO_PROGRAMS in reason):
        reason = f"{cache_root() / 'native'} cannot be used: {told.strerror or _NO_PROGRAMS}"
        remedy = "set RNNCORE_CACHE to another folder"
    cause = reason.rpartition("error:")[2]  # without the compiler's word of the place
    if cause not in _told:
        _told.add(cause)
        logger.warning(
            "no native kernels (%s): the slower eager ones are used; %s, or set RNNCORE_NATIVE=0", reason, remedy
        )


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

    def build(each: Path) -> None:
        try:
            _build(each)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    with ThreadPoolExecutor(usable_cores()) as pool:
        builds = [pool.submit(build, each) for each in missing]
    if any(isinstance(each.exception(), KeyboardInterrupt) for each in builds if not each.cancelled()):
        raise KeyboardInterrupt
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
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except OSError as error:
            raise _CompilerError(str(error), "install a C++ compiler") from error
        except subprocess.TimeoutExpired as error:
            raise _CompilerError("the compiler took ten minutes", _OTHER_COMPILER) from error
        if done.returncode == -signal.SIGINT:  # a terminal sends Ctrl-C to the compiler, too
            raise KeyboardInterrupt
        lines = done.stderr.splitlines()
        if full := [line for line in lines if os.strerror(errno.ENOSPC) in line]:
            raise _CompilerError(full[0], "make room on the disk")
        if done.returncode:
            errors = [line for line in lines if "error" in line] or ["the compiler failed"]
            raise _CompilerError(errors[0], _OTHER_COMPILER)
        os.replace(target, library)
