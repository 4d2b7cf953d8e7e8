"""What processes share out: columns, devices, random numbers; what a launcher says; who may write."""

import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import torch
from rnncore.columns import joined_state, part_of_state, share
from rnncore.device import seed_everything
from rnncore.distributed import CommonInterrupt, Ranks, processes
from rnncore.errors import UserError
from rnncore.flags import command
from rnncore.interrupts import Interrupt
from rnncore.launcher import Place, place
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import RunOptions

ALONE = Place(0, 0, 1)


class Pair(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


def initial_state(batch_size: int) -> list[Any]:
    """Batches in different dimensions, beside others of the sizes that batches have below."""
    return [Pair(torch.zeros(1, batch_size, 2), torch.zeros(2, batch_size, 2)), torch.zeros(batch_size, 2, 5), None]


def drawn(batch_size: int) -> list[Any]:
    pair, memory, _ = initial_state(batch_size)
    return [Pair(*(torch.rand_like(part) for part in pair)), torch.rand_like(memory), None]


@pytest.mark.parametrize(("total", "size"), [(5, 2), (7, 3), (3, 3), (64, 1), (32, 5)])
def test_each_column_is_one_process_s(total: int, size: int) -> None:
    shares = [share(total, rank, size) for rank in range(size)]
    assert [column for part in shares for column in range(total)[part]] == list(range(total))
    counts = [part.stop - part.start for part in shares]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("total", "size"), [(5, 2), (4, 2), (7, 3)])
def test_parts_of_a_state_make_it_whole(total: int, size: int) -> None:
    torch.manual_seed(total)
    state = drawn(total)
    parts = [part_of_state(state, initial_state, share(total, rank, size)) for rank in range(size)]
    columns = share(total, 1, size)
    assert parts[1][0].c.equal(state[0].c[:, columns])
    assert parts[1][1].equal(state[1][columns])
    whole = joined_state(parts, initial_state)
    assert isinstance(whole[0], Pair)
    assert all(ours.equal(theirs) for ours, theirs in zip(whole[0], state[0], strict=True))
    assert whole[1].equal(state[1])
    assert whole[2] is None


def test_a_batch_too_small_for_all_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 2 columns is too small for 3 processes; start fewer"):
        Ranks(Place(1, 1, 3)).part(torch.zeros(9, 2))


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [Ranks(Place(rank, rank % 2, 4)).device(cuda) for rank in (1, 2)] == chosen
    assert chosen == [torch.device("cuda:1"), torch.device("cuda:0")]
    assert Ranks(Place(3, 3, 4)).device(cpu) == cpu
    assert Ranks(ALONE).device(cuda) == cuda
    with pytest.raises(UserError, match=r"more processes than GPUs \(2\); lower --nproc_per_node"):
        Ranks(Place(2, 2, 4)).device(cuda)
    with pytest.raises(UserError, match="--device cuda:1 names one GPU for 4 processes; give --device cuda"):
        Ranks(Place(0, 0, 4)).device(torch.device("cuda:1"))


def test_processes_draw_other_numbers_each_time_the_same() -> None:
    def draws(rank: int, step: int) -> tuple[float, float]:
        seed_everything(7)
        Ranks(Place(rank, rank, 3)).seed(7, step)
        return float(torch.rand(())), random.random()

    found = {(rank, step): draws(rank, step) for rank in range(3) for step in (0, 5)}
    assert len({draw for draw, _ in found.values()}) == 5  # the first goes on as one process would
    assert all(draws(*which) == numbers for which, numbers in found.items())
    seed_everything(7)
    assert found[0, 0] == found[0, 5] == (float(torch.rand(())), random.random())


def test_one_process_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as ranks:
        assert not torch.distributed.is_initialized()
        model = torch.nn.Linear(2, 1)
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        before = model.weight.grad
        assert ranks.average(loss, model, 1.0) is loss
        assert model.weight.grad is before
        assert ranks.gathered(3) == [3]
        assert ranks.mean(0.1, 3) == 0.1
        own = Interrupt()
        interrupt = CommonInterrupt(own, ranks)
        assert not interrupt.ask()
        own.requested = True
        assert not interrupt
        assert interrupt.ask()
        assert interrupt


@pytest.mark.parametrize(
    "words", [("x", "0", "2"), ("2", "0", "2"), ("-1", "0", "2"), ("0", "-1", "2"), ("0", "0", "")]
)
def test_what_is_no_place_is_refused(words: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, word in zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), words, strict=True):
        monkeypatch.setenv(name, word)
    with pytest.raises(UserError, match=f"^RANK={words[0]} LOCAL_RANK={words[1]} WORLD_SIZE={words[2]} is no place"):
        place()


def test_a_place_needs_all_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert place() == Place(1, 0, 2)


def test_a_command_of_one_process_refuses_several(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[[click.Command, Sequence[str]], str]
) -> None:
    started = []

    @command(RunOptions, name="alone-train")
    def alone(options: RunOptions) -> None:
        started.append("alone")

    @command(RunOptions, name="parallel-train", parallel=True)
    def parallel(options: RunOptions) -> None:
        started.append("parallel")

    for name, word in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, word)
    assert refusal(alone, []) == "Error: alone-train runs as one process; start it without torchrun\n"
    parallel([], standalone_mode=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    alone([], standalone_mode=False)
    assert started == ["parallel", "alone"]


def test_a_directory_sent_to_another_process_is_not_held_there(
    tmp_path: Path, contents: Callable[[Path], dict[Path, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.create(tmp_path / "run", command="x", config={})
    before = contents(run.path)
    sent = pickle.loads(pickle.dumps(run))
    assert (run.held, sent.held, sent.path) == (True, False, run.path)
    capsys.readouterr()
    with RunLog(sent, unit="ppl", log_interval=1) as log:
        log.say("unheard")
        log.epoch(1, 10)
        log.step(torch.tensor(1.0), 10)
        log.evaluated("valid", 2.0)
        log.load_state_dict(log.state_dict())
        log.end()
    sent.close()
    assert log.global_step == 1
    assert contents(run.path) == before
    assert capsys.readouterr().out == ""
