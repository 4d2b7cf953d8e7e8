"""Masks are the same on a GPU and in every process of a run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from selfish.masking import Masking
from torch import nn


@pytest.mark.cuda
def test_masks_are_the_same_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = nn.Linear(700, 500)
        masking = Masking(model, density=0.3, decay_steps=10, seed=2)
        model.to(device)
        masking.apply()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            masking.evolve(optimizer)
        found.append(masking.masks["weight"].cpu())
    assert torch.equal(*found)


PROCESS = """
import sys, torch
from torch import nn
from selfish.masking import Masking
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(rank)  # other weights: the masks come from the first process all the same
model = nn.Linear(30, 20)
masking = Masking(model, density=0.3, decay_steps=10)
masking.evolve(torch.optim.SGD(model.parameters(), lr=0.1))
torch.save(masking.masks, sys.argv[3] + str(rank))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_have_the_same_masks(tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("there is no gloo")
    words = [str(tmp_path / "meeting"), str(tmp_path / "masks")]
    jobs = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), *words]) for rank in (0, 1)]
    assert [job.wait(60) for job in jobs] == [0, 0]
    masks = [torch.load(tmp_path / f"masks{rank}")["weight"] for rank in (0, 1)]
    assert torch.equal(*masks)
