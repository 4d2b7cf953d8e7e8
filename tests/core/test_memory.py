"""The meters of peak memory, against blocks of known size and a second source."""

import subprocess
import sys

import pytest
import torch
from rnncore import memory

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
MB = 2**20


# In a process of its own: in this one, other tests may have left free memory that a new block would use.
BLOCK = """
import torch
from rnncore import memory

can_reset = memory.reset_peak_rss()
before = memory.peak_rss_mb()
block = torch.ones(200 * 2**20, dtype=torch.uint8)
del block
held = memory.peak_rss_mb()
memory.reset_peak_rss()
print(int(can_reset), held - before, memory.peak_rss_mb() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resets the peak through /proc")
def test_peak_of_the_process_follows_a_block_of_known_size() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK], capture_output=True, text=True, check=True)
    can_reset, held, left = (float(word) for word in done.stdout.split())
    if not can_reset:
        pytest.skip("this system does not let a process reset its peak")
    assert 190 < held < 210
    assert left < 20


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_peak_agrees_with_getrusage() -> None:
    import resource

    unit = MB if sys.platform == "darwin" else 1024
    ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    assert 10 < memory.peak_rss_mb() < ever * 1.02 + 5  # resets lower the one and never the other


def test_other_devices_hold_nothing_on_a_gpu() -> None:
    memory.reset_peak_cuda(torch.device("cpu"))
    assert memory.peak_cuda_mb(torch.device("cpu")) == 0.0


@pytest.mark.cuda
@needs_gpu
def test_peak_of_a_gpu_follows_a_block_of_known_size() -> None:
    gpu = torch.device("cuda")
    memory.reset_peak_cuda(gpu)
    before = memory.peak_cuda_mb(gpu)
    block = torch.ones(64 * MB, dtype=torch.uint8, device=gpu)
    del block
    assert memory.peak_cuda_mb(gpu) - before == pytest.approx(64, abs=2)
