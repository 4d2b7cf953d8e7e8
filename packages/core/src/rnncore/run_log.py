"""What a training run tells: console and ``log.txt``, ``metrics.jsonl``, TensorBoard, a progress bar.

The schema of ``metrics.jsonl`` is docs/metrics.md.
"""

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor

from rnncore.atomic_file import cannot_write
from rnncore.device import describe_machine
from rnncore.errors import UserError
from rnncore.event_files import EventFiles
from rnncore.loss_units import Unit, converted
from rnncore.memory import peak_cuda_mb, peak_rss_mb
from rnncore.metrics_file import MetricsFile
from rnncore.progress_bar import ProgressBar, print_above
from rnncore.run_directory import RunDirectory
from rnncore.step_meter import StepMeter

_RESERVED = {"event", "epoch", "step", "loss", "ms", "tokens_per_s", "ppl", "bpc"}


class RunLog:
    """The log of one run; a context manager, which closes its files and bar however the block ends.

    Call :meth:`epoch` at each epoch's start, :meth:`step` after each optimizer step, :meth:`outside_step` around
    evaluations and checkpoints, :meth:`end` once. On ``--resume``, :meth:`load_state_dict` comes first. The log of a
    directory that this process does not hold only counts: it writes, prints and shows nothing.

    Attributes:
        epoch_number: the epoch under way, from 1; 0 before the first.
        global_step: optimizer steps done in the whole run.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        unit: Unit | None,
        log_interval: int,
        total_steps: int | None = None,
        tensorboard: bool = True,
    ) -> None:
        """Open the files of ``run``.

        Args:
            run: where the files go.
            unit: how a loss is shown beside nats: perplexity, or bits per character. None where it is no loss of text
                and stands for itself.
            log_interval: steps from one ``step`` line to the next.
            total_steps: the last step of the run where that is known (``--max_steps``); the bar shows it.
            tensorboard: also write event files.

        Raises:
            UserError: ``log_interval`` is below 1; a file cannot be written.
        """
        if log_interval < 1:
            raise UserError(f"--log_interval must be at least 1, not {log_interval}")
        self.epoch_number = 0
        self.global_step = 0
        self._run = run
        self._unit = unit
        self._log_interval = log_interval
        self._total_steps = total_steps
        self._meter = StepMeter()
        self._started = time.perf_counter()
        self._bar = ProgressBar()
        self._events = EventFiles(run.events) if tensorboard and run.held else None
        self._metrics = MetricsFile(run.metrics if run.held else Path(os.devnull))
        self._note(f"$ {shlex.join(sys.argv)}")
        self._note(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
        self._meter.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._metrics.close()
        if self._events is not None:
            self._events.close()
        if error is not None:
            with contextlib.suppress(UserError):  # the first error is the one to show
                self._note(f"stopped: {type(error).__name__} {error}")

    def say(self, text: str) -> None:
        """Print to the console, above the progress bar, and to ``log.txt``."""
        if self._run.held:
            self._note(text)
            print_above(text)

    def epoch(self, number: int, total_tokens: int, *, done: int = 0) -> None:
        """Begin an epoch, or go on with one ``done`` tokens into it; on a terminal a progress bar starts."""
        self.epoch_number = number
        if self._run.held:
            self._bar.start(f"epoch {number}", total=total_tokens, done=done)
        self._meter.start()

    @property
    def due(self) -> bool:
        """Whether the next :meth:`step` writes a line: only then are its ``extra`` numbers read."""
        return (self.global_step + 1) % self._log_interval == 0

    def step(self, loss: Tensor, tokens: int, *, extra: Mapping[str, float | Tensor] | None = None) -> None:
        """Count one optimizer step; every ``log_interval`` steps write a ``step`` line.

        Args:
            loss: scalar on any device, mean nats per token of this step (or what the command's loss is). It is copied
                on the device; nothing waits for the device except when a line is written.
            tokens: how many tokens the step trained on.
            extra: further numbers of this step, for example ``lr``.

        Raises:
            UserError: a loss since the last line was not finite; the line names the first such step.
        """
        due = self.due
        self._meter.add(loss, tokens)
        self.global_step += 1
        self._bar.advance(tokens)
        if due:
            self._write_step(extra or {})
        elif self._bar.wants_text and loss.device.type == "cpu":  # on a GPU, reading the loss would wait for it
            self._show(loss.item(), self._meter.last_ms)
        self._meter.start()

    def evaluated(
        self, event: Literal["valid", "test"], loss: float, *, extra: Mapping[str, float] | None = None
    ) -> None:
        """Write a ``valid`` or ``test`` line.

        Args:
            event: which split was evaluated.
            loss: mean nats per token.
            extra: further numbers, for example ``bleu``.

        Raises:
            UserError: the loss is not finite. Evaluate before saving, and the last checkpoint stays a good one.
        """
        self._stop_unless_finite()
        if not math.isfinite(loss):
            raise UserError(f"the {event} loss is {loss} after step {self.global_step}{self._advice()}")
        more = _checked(extra or {})
        if self._unit is None:
            self._record(event, {"loss": loss, **more})
            self.say(f"{self._place()} | {event} loss {loss:.4g}{_listed(more)}")
            return
        shown = converted(loss, self._unit)
        self._record(event, {"loss": loss, self._unit: shown, **more})
        self.say(f"{self._place()} | {event} loss {loss:.4f} | {event} {self._unit} {shown:.3f}{_listed(more)}")

    @contextlib.contextmanager
    def outside_step(self) -> Iterator[None]:
        """Whatever runs in this block (evaluation, checkpoints) does not count as time of a step."""
        running = self._meter.running
        self._meter.stop()
        try:
            yield
        finally:
            if running:
                self._meter.start()

    def end(self) -> None:
        """Write the ``end`` line: seconds of the whole run, over resumes, and peak memory of this process."""
        self._bar.close()
        seconds = self._seconds()
        numbers = {"seconds": round(seconds, 3), "peak_rss_mb": round(peak_rss_mb(), 1)}
        text = f"done in {timedelta(seconds=round(seconds))} | peak memory {numbers['peak_rss_mb']:.0f} MB"
        device = self._meter.device
        if device is not None and device.type == "cuda":
            numbers["peak_cuda_mb"] = round(peak_cuda_mb(device), 1)
            text += f", on the GPU {numbers['peak_cuda_mb']:.0f} MB"
        self._metrics.write("end", numbers)
        self.say(f"{text} | {self._run.path}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs so that a resumed run writes the same lines to the bit, times apart.

        Raises:
            UserError: a loss since the last line was not finite, so that no damaged model is saved.
        """
        self._stop_unless_finite()
        return {
            "epoch": self.epoch_number,
            "global_step": self.global_step,
            "seconds": self._seconds(),
            "lines": self._metrics.lines,
            "meter": self._meter.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: lines of ``metrics.jsonl`` that were written after it are dropped."""
        self.epoch_number = state["epoch"]
        self.global_step = state["global_step"]
        self._started = time.perf_counter() - state["seconds"]
        self._metrics.keep(state["lines"])
        self._meter.load_state_dict(state["meter"])
        self.say(f"resumed at epoch {self.epoch_number}, step {self.global_step}")

    def _write_step(self, extra: Mapping[str, float | Tensor]) -> None:
        self._stop_unless_finite()
        summary = self._meter.summary()
        more = _checked({name: float(value) for name, value in extra.items()})
        times = {"ms": round(summary.ms, 3), "tokens_per_s": round(summary.tokens_per_s, 1)}
        self._record("step", {"loss": summary.loss, **times, **more})
        speed = f"{summary.ms:.1f} ms | {summary.tokens_per_s:,.0f} tokens/s"
        shown = f"loss {summary.loss:.4g}"
        if self._unit is not None:
            shown = f"loss {summary.loss:.4f} | {self._unit} {converted(summary.loss, self._unit):.2f}"
        self.say(f"{self._place()} | {shown} | {speed}{_listed(more)}")
        self._show(summary.loss, summary.ms)

    def _record(self, event: Literal["step", "valid", "test"], numbers: dict[str, float]) -> None:
        self._metrics.write(event, {"epoch": self.epoch_number, "step": self.global_step, **numbers})
        if self._events is not None:
            warning = self._events.write("train" if event == "step" else event, self.global_step, numbers)
            if warning is not None:
                self.say(warning)

    def _stop_unless_finite(self) -> None:
        losses = self._meter.losses()
        bad = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            step = self.global_step - len(losses) + bad + 1
            raise UserError(f"the loss is {losses[bad]} at step {step}{self._advice()}")

    def _advice(self) -> str:
        kept = f"; {self._run.last} is from before it" if self._run.last.exists() else ""
        return f"; a smaller learning rate or stronger clipping may help{kept}"

    def _show(self, loss: float, milliseconds: float) -> None:
        step = "" if self._total_steps is None else f" | step {self.global_step}/{self._total_steps}"
        shown = f"loss {loss:.3g}"
        if self._unit is not None:
            shown = f"loss {loss:.3f} | {self._unit} {converted(loss, self._unit):.1f}"
        self._bar.text(f"{shown} | {milliseconds:.1f} ms{step}")

    def _place(self) -> str:
        return f"epoch {self.epoch_number} | step {self.global_step}"

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _note(self, text: str) -> None:
        if not self._run.held:
            return
        # Opened for each line: nothing is left in a buffer when the process is killed.
        try:
            with open(self._run.log_file, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise cannot_write(self._run.log_file, error) from error


def _checked(numbers: Mapping[str, float]) -> dict[str, float]:
    """Refuse names that the schema gives a meaning."""
    taken = _RESERVED & numbers.keys()
    if taken:
        raise ValueError(f"these names of extra numbers are taken: {', '.join(sorted(taken))}")
    return dict(numbers)


def _listed(numbers: dict[str, float]) -> str:
    return "".join(f" | {name} {value:.5g}" for name, value in numbers.items())
