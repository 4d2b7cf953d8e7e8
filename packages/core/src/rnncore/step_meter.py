"""Loss, tokens and time of the training steps since the last report, without waiting for the device in between."""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# So many losses stay on the device before they are fetched, which waits for it.
_ON_DEVICE = 1024

# A moment: host seconds, and on a GPU an event in its stream, because the host runs ahead of it.
_Mark = tuple[float, "torch.cuda.Event | None"]


@dataclass(frozen=True, kw_only=True)
class StepSummary:
    """What a report says of its steps.

    Attributes:
        loss: mean loss over tokens, in nats per token.
        ms: median milliseconds of one step.
        tokens_per_s: tokens over the time of the steps.
    """

    loss: float
    ms: float
    tokens_per_s: float


class StepMeter:
    """Collects steps until :meth:`summary`. The clock runs between :meth:`start` and :meth:`stop` or :meth:`add`."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._tokens: list[int] = []
        self._timed_tokens = 0
        self._milliseconds: list[float] = []
        self._on_device: Tensor | None = None
        self._waiting = 0
        self._started: _Mark | None = None
        self._intervals: list[tuple[_Mark, _Mark]] = []
        self._steps: list[list[tuple[_Mark, _Mark]]] = []

    def start(self) -> None:
        """Let the clock run."""
        self._started = self._mark()

    def stop(self) -> None:
        """Stop the clock; what ran so far counts for the step under way."""
        if self._started is not None:
            self._intervals.append((self._started, self._mark()))
            self._started = None

    @property
    def running(self) -> bool:
        """Whether the clock runs."""
        return self._started is not None

    def add(self, loss: Tensor, tokens: int) -> None:
        """End a step and stop the clock.

        Args:
            loss: scalar on any device, mean nats per token; its value is copied.
            tokens: how many tokens it is the mean of.
        """
        self.stop()
        if self._on_device is None or self._on_device.device != loss.device:
            self._fetch()
            self._on_device = torch.zeros(_ON_DEVICE, dtype=torch.float64, device=loss.device)
        self._on_device[self._waiting].copy_(loss.detach())
        self._waiting += 1
        self._tokens.append(tokens)
        self._timed_tokens += tokens
        self._steps.append(self._intervals)
        self._intervals = []
        if self._waiting == _ON_DEVICE:
            self._fetch()

    def losses(self) -> list[float]:
        """The loss of every step since the last summary, in order; waits for the device."""
        self._fetch()
        return self._losses

    def summary(self) -> StepSummary:
        """Sum up the steps since the last summary (one at least) and begin anew."""
        losses = self.losses()
        weighted = math.fsum(loss * tokens for loss, tokens in zip(losses, self._tokens, strict=True))
        seconds = max(math.fsum(self._milliseconds) / 1000, 1e-9)
        result = StepSummary(
            loss=weighted / sum(self._tokens),
            ms=statistics.median(self._milliseconds),
            tokens_per_s=self._timed_tokens / seconds,
        )
        self._losses, self._tokens, self._timed_tokens, self._milliseconds = [], [], 0, []
        return result

    @property
    def device(self) -> torch.device | None:
        """Where the last loss was; None before the first."""
        return None if self._on_device is None else self._on_device.device

    @property
    def last_ms(self) -> float:
        """Host milliseconds of the last step; on a GPU the time to start it. NaN when it was summed up already."""
        if not self._steps:
            return math.nan
        return math.fsum((end[0] - start[0]) * 1000 for start, end in self._steps[-1])

    def state_dict(self) -> dict[str, Any]:
        """Losses (float64 [n]) and tokens since the last summary; times are not kept."""
        return {"losses": torch.tensor(self.losses(), dtype=torch.float64), "tokens": list(self._tokens)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self._losses = state["losses"].tolist()
        self._tokens = list(state["tokens"])

    def _fetch(self) -> None:
        if self._on_device is not None and self._waiting:
            self._losses += self._on_device[: self._waiting].tolist()
        self._waiting = 0
        self._milliseconds += [math.fsum(_milliseconds(*interval) for interval in step) for step in self._steps]
        self._steps = []

    def _mark(self) -> _Mark:
        device = self.device
        if device is None or device.type != "cuda":
            return time.perf_counter(), None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return time.perf_counter(), event


def _milliseconds(start: _Mark, end: _Mark) -> float:
    if start[1] is None or end[1] is None:
        return (end[0] - start[0]) * 1000
    end[1].synchronize()
    return float(start[1].elapsed_time(end[1]))
