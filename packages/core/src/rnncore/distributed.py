"""Training by several processes, each on its columns of the batch: one run, whose steps are those of one process.

``torchrun`` starts the processes. Each computes the loss of its columns of a window; their gradients are averaged, so
that all take the same step, and the first process writes the run. Without a launcher there is one process, nothing is
sent, and no step is another than it would be.

torch's DistributedDataParallel is not used. It sends gradients while others are still computed, but the gradients of a
window's recurrent weights, written by hand, are all there only at its end; and of a model some of whose parameters
have no gradient in some windows (an adaptive softmax) it searches the graph at each step, and warns when it finds none.

A process that fails ends the others: they notice its closed connections, or are told by SIGTERM. One of them says why.
"""

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rnncore import device, launcher
from rnncore.columns import InitialState, joined_state, part_of_state, share
from rnncore.errors import UserError
from rnncore.interrupts import Interrupt
from rnncore.out_of_memory import told_in_one_line
from rnncore.windows import moved

T = TypeVar("T")

#: How long a process waits for another that is neither gone nor answers; the first loads a corpus and saves meanwhile.
TIMEOUT = timedelta(minutes=10)
#: How long a process that fails waits for another to say why.
_TO_TELL = timedelta(seconds=5)
_LOST = "another process of this run has ended; --resume goes on from the last checkpoint"
_ENDED = "told to end, by torchrun or because another process has; --resume goes on from the last checkpoint"


class Ranks:
    """The processes of a run, as one of them sees them. Methods that talk to the others must be called by all.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        first: whether this is the one that writes.
    """

    def __init__(self, place: launcher.Place) -> None:
        """``place`` is this process's; where there are others, torch's process group must have been started."""
        self.rank, self._local_rank, self.size = place
        self.first = self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """Where this process computes, given what ``--device`` chooses: each has a GPU of its own.

        Raises:
            UserError: One GPU is chosen for several processes, or there are too few.
        """
        if self.size == 1 or chosen.type != "cuda":
            return chosen
        if ":" in str(chosen):
            raise UserError(f"--device {chosen} names one GPU for {self.size} processes; give --device cuda")
        count = torch.cuda.device_count()
        if self._local_rank >= count:
            raise UserError(f"more processes than GPUs ({count}); lower --nproc_per_node, or give --device cpu")
        own = torch.device("cuda", self._local_rank)
        torch.cuda.set_device(own)
        return own

    def seed(self, seed: int, step: int = 0) -> None:
        """Seed all generators for dropout's masks that no other process, and no other ``step``, draws.

        The first process goes on with the numbers that it has: they are those of one process.
        """
        if not self.first:
            device.seed_everything(int(np.random.SeedSequence([seed, self.rank, step]).generate_state(1)[0]))

    def columns_of(self, total: int) -> slice:
        """Which of ``total`` batch columns are this process's. Raises UserError where some process has none."""
        if total < self.size:
            raise UserError(f"a batch of {total} columns is too small for {self.size} processes; start fewer")
        return share(total, self.rank, self.size)

    def part(self, text: Tensor) -> Tensor:
        """This process's columns of a text ``[T, B]``."""
        return text if self.size == 1 else text[:, self.columns_of(text.shape[1])].contiguous()

    def take_over(self, model: nn.Module) -> None:
        """Give this process's model the first one's weights."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def average(self, loss: Tensor, model: nn.Module, weight: float) -> Tensor:
        """After a backward pass: the mean loss of the processes by their weights, and its gradients in the parameters.

        One message holds all. A parameter without gradient in every process, such as the weights of rare words that a
        window does not have, stays without.

        Args:
            loss: A scalar, of this process; its gradients are in ``model``.
            model: What is trained.
            weight: This process's share of the whole; all add up to 1.
        """
        if self.size == 1:
            return loss
        parameters = list(model.parameters())
        there = [parameter.grad is not None for parameter in parameters]
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        marks = loss.new_tensor(there)
        message = torch.cat([loss.reshape(1), marks, *(gradient.flatten() for gradient in gradients)]).mul_(weight)
        dist.all_reduce(message)
        mean, marks, *parts = torch.split(message, [1, len(marks), *(gradient.numel() for gradient in gradients)])
        if not all(there):
            there = (marks > 0).tolist()
        for parameter, part, used in zip(parameters, parts, there, strict=True):
            parameter.grad = part.view_as(parameter) if used else None
        return mean.reshape(())

    def mean(self, value: float, weight: float) -> float:
        """The mean of the processes' values by their weights, the same to the bit in each."""
        if self.size == 1:
            return value
        pairs = self.gathered((value, weight))
        return math.fsum(value * weight for value, weight in pairs) / math.fsum(weight for _, weight in pairs)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found)
        return bool(found)

    def gathered(self, value: T) -> list[T]:
        """The value of each process, in order."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def shared(self, make: Callable[[], T]) -> T:
        """What the first process makes, or a copy of it."""
        box: list[Any] = [make() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """The first process does what is in the block, for example fill a cache, before the others do."""
        if not self.first:
            self.any(False)
        yield
        if self.first:
            self.any(False)

    def joined_state(self, state: Any, initial_state: InitialState) -> Any:
        """The recurrent state of all columns; of several processes on the CPU."""
        if self.size == 1:
            return state
        return joined_state(self.gathered(moved(state, "cpu")), initial_state)

    def part_of_state(self, state: Any, initial_state: InitialState, batch_size: int) -> Any:
        """This process's columns of a state of ``batch_size``."""
        return state if self.size == 1 else part_of_state(state, initial_state, self.columns_of(batch_size))


class CommonInterrupt(Interrupt):
    """Whether any process was asked to stop. All learn it from the same `ask`, and so stop after the same step."""

    def __init__(self, own: Interrupt, ranks: Ranks) -> None:
        """``own`` is what this process was asked."""
        super().__init__()
        self._own, self._ranks = own, ranks

    def ask(self) -> bool:
        """Ask all processes; until the next time, the answer is what this is in a condition."""
        self.requested = self._ranks.any(bool(self._own))
        return self.requested


@contextmanager
def processes() -> Iterator[Ranks]:
    """The processes that a launcher has started with this one, for the block that is a command's work.

    Raises:
        UserError: The processes do not find each other.
        SystemExit: With status 2, where a process has failed with a UserError or is gone; the line is then printed.
    """
    place = launcher.place()
    if place.size == 1:
        yield Ranks(place)
        return
    store = _start()
    try:
        with _sigterm_raises(), told_in_one_line():
            yield Ranks(place)
    except Exception as error:
        _end(store, error)
        raise
    dist.destroy_process_group()


def _start() -> Any:
    """Start torch's process group; a store that all processes see."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes do not find each other ({reason}); start them with torchrun") from error
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)  # the store outlives processes that are started again
    return dist.PrefixStore(f"rnncore/{start}", store)  # type: ignore[attr-defined]


def _end(store: Any, error: Exception) -> None:
    """Say why this process ends, unless another has said why it does; return for an error that shows itself.

    torchrun ends the others as soon as one process has ended: so whoever has nothing to say ends last.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told, first = "told", True
    with contextlib.suppress(RuntimeError):  # the store may have gone with the process that held it
        first = store.add("failed", 1) == 1
    if _is_loss(error):
        error = UserError(_LOST)
    if first and isinstance(error, UserError):
        error.show()
    with contextlib.suppress(RuntimeError):
        if first:
            store.set(told, "")
        else:
            store.wait([told], _TO_TELL)
    if isinstance(error, UserError):
        raise SystemExit(error.exit_code)


def _is_loss(error: Exception) -> bool:
    """Whether an error says that another process is gone or silent; gloo has no class of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM, which torchrun sends where a process has ended, is a UserError."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise UserError(_ENDED)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
