"""Several processes with gloo: gradients of the whole batch, common answers, and one line when one of them fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rnncore.columns import share

InRanks = Callable[..., list[tuple[int, str]]]

#: Three processes, five columns; in float64. What the first process prints goes to the test.
WORK = """
import json, time
from pathlib import Path
import torch
from rnncore.distributed import CommonInterrupt, processes
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory

torch.manual_seed(rank)  # the weights differ before they are taken over
model = torch.nn.ModuleList(torch.nn.Linear(3, 2, dtype=torch.float64) for _ in range(3))
always, sometimes, never = model
found = {}
with processes() as ranks:
    ranks.take_over(model)
    generator = torch.Generator().manual_seed(5)
    whole = torch.rand(4, 5, 3, dtype=torch.float64, generator=generator)
    x = torch.stack([ranks.part(whole[..., k]) for k in range(3)], 2)
    output = always(x) * (sometimes(x) if rank == 1 else 1.0)
    loss = output.tanh().mean()
    loss.backward()
    found["loss"] = ranks.average(loss.detach(), model, x.shape[1] / 5).item()
    found["gradients"] = [None if each.grad is None else each.grad.tolist() for each in model.parameters()]
    found["weights"] = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    found["mean"] = ranks.mean(0.1 * (rank + 1), rank + 1)
    found["any"] = [ranks.any(rank == 2), ranks.any(False)]
    own = Interrupt()
    own.requested = rank == 1
    common = CommonInterrupt(own, ranks)
    found["interrupt"] = [bool(common), common.ask(), bool(common)]
    state = (x[-1], None)
    joined = ranks.joined_state(state, lambda count: (torch.zeros(count, 3), None))
    again = ranks.part_of_state(joined, lambda count: (torch.zeros(count, 3), None), 5)
    found["state"] = [joined[0].equal(whole[-1]), again[0].equal(x[-1])]
    run = ranks.shared(lambda: RunDirectory.create(Path("shared-run"), command="x", config={}))
    found["path"] = str(run.path)
    held = run.held
    with ranks.one_first():
        if rank == 0:
            time.sleep(0.3)
            Path("filled").touch()
        found["filled"] = Path("filled").exists()
    everything = ranks.gathered((held, found))
    if rank == 0:
        Path("found.json").write_text(json.dumps(everything))
"""

FAILING = """
import os, signal, sys, time
import torch
from rnncore.distributed import processes
from rnncore.errors import UserError

with processes() as ranks:
    for step in range(1000):
        if rank == 1 and step == 5:
            {deed}
        ranks.any(False)
"""


@pytest.fixture(autouse=True)
def folder(sandbox: Path) -> Path:
    """Where the processes run."""
    return sandbox


def test_three_processes_agree_with_one(in_ranks: InRanks) -> None:
    ended = in_ranks(WORK, size=3)
    assert ended == [(0, "")] * 3
    results = json.loads(Path("found.json").read_text())
    assert [held for held, _ in results] == [True, False, False]
    first = results[0][1]
    assert all(found == first for _, found in results)
    model = torch.nn.ModuleList(torch.nn.Linear(3, 2, dtype=torch.float64) for _ in range(3))
    model.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in first["weights"].items()})
    torch.manual_seed(0)
    drawn = torch.nn.Linear(3, 2, dtype=torch.float64)
    assert drawn.weight.tolist() == first["weights"]["0.weight"]
    whole = torch.rand(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    factor = torch.ones(4, 5, 2, dtype=torch.float64)
    columns = share(5, 1, 3)
    factor[:, columns] = 0
    output = model[0](whole) * (factor + (1 - factor) * model[1](whole))
    loss = output.tanh().mean()
    loss.backward()
    assert first["loss"] == pytest.approx(loss.item(), abs=1e-14)
    assert first["gradients"][4:] == [None, None]
    for ours, parameter in zip(first["gradients"][:4], list(model.parameters())[:4], strict=True):
        torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), parameter.grad, atol=1e-14, rtol=0)
    assert first["mean"] == pytest.approx(1.4 / 6, abs=1e-15)
    assert first["any"] == [True, False]
    assert first["interrupt"] == [False, True, True]
    assert first["state"] == [True, True]
    assert first["filled"]


@pytest.mark.parametrize(
    ("deed", "codes", "expected"),
    [
        ("raise UserError('the disk is full')", (2, 2), "Error: the disk is full"),
        ("torch.empty(2**50)", (2, 2), "Error: there is not enough memory: another 4.0 PiB"),
        ("1 / 0", (2, 1), "ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), signal.SIGKILL)", (2, -9), "Error: another process of this run has ended"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", (2, 2), "Error: told to end, by torchrun or because"),
        ("os._exit(3)", (2, 3), "Error: another process of this run has ended"),
    ],
)
def test_a_process_that_fails_ends_the_other(
    deed: str, codes: tuple[int, int], expected: str, in_ranks: InRanks
) -> None:
    ended = in_ranks(FAILING.format(deed=deed))
    assert tuple(code for code, _ in ended) == codes
    told = "".join(text for _, text in ended)
    (line,) = re.findall(r"^(?:\[rank1\]: )?(\w*Error:.*)", told, re.MULTILINE)  # torch marks a traceback's lines
    assert line.startswith(expected)
    assert ("Traceback" in told) == ("ZeroDivision" in line)


def test_processes_that_do_not_find_each_other_say_so(in_ranks: InRanks) -> None:
    lost = "import os\nos.environ['MASTER_PORT'] = 'none'\n" + FAILING.format(deed="pass")
    for code, told in in_ranks(lost + "\n", size=2):
        assert code == 1  # not a command: the error is raised to the caller
        assert "UserError: the processes do not find each other (" in told
