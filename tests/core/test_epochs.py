"""The epoch loop and a run around it, with a model that counts."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint
from rnncore.epochs import Asked, finished, learning_rate, out_of_steps, train_epoch
from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.interrupts import Interrupt
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_options import RunOptions
from rnncore.run_state import Stateful, restore, save_last
from rnncore.training_run import draw_curves, load_best, ready, reopened, under_way
from rnncore.vocabulary import Vocabulary
from torch import Tensor, nn

ROWS, COLUMNS = 21, 2
TEXT = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    batch_size: int = flag(COLUMNS, "--batch_size", help="columns", section="Run")
    checkpoint_interval: int = flag(3, "--checkpoint_interval", help="steps", section="Run")


@dataclass(kw_only=True)
class Training:
    options: Options
    run: RunDirectory
    log: RunLog
    model: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    command: str = "count"
    vocabulary: Vocabulary | None = None
    epoch: int = 1
    row: int = 0
    best: float = float("inf")
    state: Any = None
    seen: list[tuple[list[int], list[int]]] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)

    def parts(self) -> dict[str, Stateful]:
        return {"optimizer": self.optimizer}

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        self.seen.append((inputs[:, 0].tolist(), targets[:, 0].tolist()))
        return torch.tensor(1.0), {}

    def save(self) -> None:
        self.saved.append(self.log.global_step)
        save_last(self)

    def train(self, interrupt: Asked | None = None, length: Callable[[int], int] = lambda left: min(4, left)) -> bool:
        return train_epoch(self, TEXT, interrupt or Interrupt(), self.step, length, self.save)


def asked() -> Interrupt:
    interrupt = Interrupt()
    interrupt.requested = True
    return interrupt


Begin = Callable[..., Training]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    with ExitStack() as stack:

        def make(**options: Any) -> Training:
            run = RunDirectory.create(tmp_path / "run", command="count", config={})
            log = stack.enter_context(RunLog(run, unit=None, log_interval=100))
            return Training(options=Options(**options), run=run, log=log)

        yield make


def test_an_epoch_is_all_windows_in_order(begin: Begin) -> None:
    training = begin()
    assert training.train()
    starts = [(start, min(start + 4, ROWS - 1)) for start in range(0, ROWS - 1, 4)]
    assert training.seen == [(TEXT[a:b, 0].tolist(), TEXT[a + 1 : b + 1, 0].tolist()) for a, b in starts]
    assert training.row == ROWS - 1
    assert training.saved == [3]  # every --checkpoint_interval steps
    assert training.model.training


def test_a_step_that_is_refused_tells_its_number(begin: Begin) -> None:
    training = begin()
    steps = iter([training.step, training.step])

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        if (known := next(steps, None)) is None:
            raise UserError("too much")
        return known(inputs, targets)

    with pytest.raises(UserError, match=r"stopped at step 3: too much$"):
        train_epoch(training, TEXT, Interrupt(), step, lambda left: 4)


def test_a_text_that_became_shorter_is_refused(begin: Begin) -> None:
    training = begin()
    training.row = ROWS
    with pytest.raises(
        UserError, match=r"^this run stopped at row 21 of its text, which now has 20: give it the old one$"
    ):
        training.train()


def test_max_steps_stops_inside_an_epoch_and_saves(begin: Begin) -> None:
    training = begin(max_steps=2)
    assert not training.train()
    assert (training.row, training.saved) == (8, [2])
    assert out_of_steps(training)
    assert not finished(training, 1)  # it has not been evaluated
    assert not training.train()  # and does not go on
    assert len(training.seen) == 2
    training.row = 0
    assert finished(training, 9)


def test_an_interrupt_stops_after_the_step_and_saves(begin: Begin) -> None:
    training = begin()
    assert not training.train(interrupt=asked())
    assert (training.row, training.saved, len(training.seen)) == (4, [1], 1)


def test_it_goes_on_from_a_checkpoint(begin: Begin) -> None:
    training = begin()
    training.train(interrupt=asked())
    again = Training(options=training.options, run=training.run, log=training.log)
    restore(again, checkpoint.load(training.run.last))
    assert again.train()
    whole = [row for inputs, _ in training.seen + again.seen for row in inputs]
    assert whole == TEXT[:-1, 0].tolist()


def test_finished_after_the_epochs(begin: Begin) -> None:
    training = begin()
    assert not finished(training, 1)
    training.epoch = 2
    assert finished(training, 1)


def test_learning_rate(begin: Begin) -> None:
    assert learning_rate(begin().optimizer) == 0.5


def test_a_run_from_beginning_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, ended = Options(run_dir=tmp_path / "run"), []
    found, resumed = reopened(options, "count", set())
    assert (found, resumed) == (options, None)
    assert ready(options, seed=3) == torch.device("cpu")
    assert torch.initial_seed() == 3

    def make(run: RunDirectory, log: RunLog) -> Training:
        return Training(options=options, run=run, log=log)

    def finish(training: Training) -> None:
        ended.append(training.epoch)
        training.log.evaluated("test", 0.5)
        training.log.end()

    with under_way(options, "count", make, resumed=None, title="counting", finish=finish, log_interval=9) as (
        training,
        interrupt,
    ):
        assert training.train(interrupt)
        training.epoch = 2
    assert ended == [2]
    assert f"counting, run directory {options.run_dir}\n" in capsys.readouterr().out
    assert draw_curves(training.run).is_file()


def test_ctrl_c_says_how_to_go_on_and_resume_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    options = Options(run_dir=run)

    def make(directory: RunDirectory, log: RunLog) -> Training:
        return Training(options=options, run=directory, log=log)

    def never(training: Training) -> None:
        raise AssertionError("an interrupted run has no end")

    def interrupted() -> None:
        with under_way(options, "count", make, resumed=None, title="counting", finish=never, log_interval=9) as (
            training,
            interrupt,
        ):
            signal.raise_signal(signal.SIGINT)
            assert not training.train(interrupt)

    with pytest.raises(SystemExit) as stopped:
        interrupted()
    assert stopped.value.code == 130
    assert capsys.readouterr().out.endswith(f"stopped; to go on: count --resume {run}\n")
    options, resumed = reopened(Options(resume=str(run)), "count", set())
    assert resumed is not None
    with under_way(
        options, "count", make, resumed=resumed, title="counting", finish=lambda training: None, log_interval=9
    ) as (training, _):
        assert (training.epoch, training.row) == (1, 4)
    assert "resumed at epoch 1, step 1" in capsys.readouterr().out


def test_load_best(begin: Begin) -> None:
    training = begin()
    load_best(training)  # there is none
    before = training.model.weight.detach().clone()
    checkpoint.save(training.run.best, {"kind": "count", "model": training.model.state_dict()})
    with torch.no_grad():
        training.model.weight.zero_()
    load_best(training)
    assert torch.equal(training.model.weight, before)
