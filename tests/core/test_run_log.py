"""The run log: the documented schema, exact means and medians, and a resumed run that writes the same lines."""

import io
import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore import checkpoint, step_meter
from rnncore.errors import UserError
from rnncore.metrics_file import read_metrics
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TIMES = ("ms", "tokens_per_s", "seconds", "peak_rss_mb")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def quiet(run: RunDirectory, *, log_interval: int = 4, unit: Any = "ppl") -> RunLog:
    return RunLog(run, unit=unit, log_interval=log_interval, tensorboard=False)


def strict(line: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    row: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return row


def rows_of(run: RunDirectory) -> list[dict[str, Any]]:
    text = run.metrics.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [strict(line) for line in text.splitlines()]


def documented() -> dict[str, dict[str, str]]:
    """Event to key to type, read from the tables of docs/metrics.md."""
    parts = re.split(r"^## `(\w+)`$", SCHEMA.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = zip(parts[1::2], parts[2::2], strict=True)
    return {event: dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", body, flags=re.MULTILINE)) for event, body in tables}


@pytest.mark.parametrize(("unit", "other"), [("ppl", "bpc"), ("bpc", "ppl")])
def test_lines_follow_the_documented_schema(run: RunDirectory, unit: str, other: str) -> None:
    with quiet(run, log_interval=2, unit=unit) as log:
        log.epoch(1, 100)
        for _ in range(4):
            log.step(torch.tensor(2.0), 25)
        log.evaluated("valid", 1.5)
        log.evaluated("test", 1.25)
        log.end()
    schema = documented()
    assert set(schema) == {"step", "valid", "test", "end"}
    rows = rows_of(run)
    assert [row["event"] for row in rows] == ["step", "step", "valid", "test", "end"]
    for row in rows:
        event = row.pop("event")
        assert set(row) == set(schema[event]) - {other, "peak_cuda_mb"}
        for key, value in row.items():
            assert type(value) is int if schema[event][key] == "integer" else type(value) in (int, float)
    assert rows[2] == {"epoch": 1, "step": 4, "loss": 1.5, unit: math.exp(1.5) if unit == "ppl" else 1.5 / math.log(2)}
    assert rows == [{k: v for k, v in row.items() if k != "event"} for row in read_metrics(run.metrics)]


class Clock:
    """A clock that moves only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def passes(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


def test_losses_are_means_over_tokens_and_times_leave_evaluation_out(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    losses = torch.rand(8, generator=generator)
    tokens = [70, 35, 5, 140, 70, 70, 1, 9]
    milliseconds = [10.0, 30.0, 20.0, 80.0, 50.0, 40.0, 60.0, 1000.0]
    with quiet(run) as log:
        for index in range(8):
            if index in (0, 3):
                clock.passes(7000)  # between epochs
                log.epoch(index + 1, 10)
            clock.passes(milliseconds[index] / 2)
            with log.outside_step():
                clock.passes(5000)
            clock.passes(milliseconds[index] / 2)
            log.step(losses[index], tokens[index])
        with log.outside_step():
            clock.passes(5000)
        log.end()
    first, second, end = rows_of(run)
    for row, part in ((first, slice(0, 4)), (second, slice(4, 8))):
        weights = torch.tensor(tokens[part], dtype=torch.float64)
        mean = (losses[part].double() * weights).sum() / weights.sum()
        assert row["loss"] == pytest.approx(mean.item(), rel=1e-15)
        assert row["ms"] == pytest.approx(statistics.median(milliseconds[part]), abs=1e-3)
        assert row["tokens_per_s"] == pytest.approx(sum(tokens[part]) / sum(milliseconds[part]) * 1000, abs=0.06)
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (4, 4, 4, 8)
    assert end["seconds"] == pytest.approx((sum(milliseconds) + 2 * 7000 + 9 * 5000) / 1000)


def test_more_steps_than_stay_on_the_device(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_meter, "_ON_DEVICE", 3)
    with quiet(run, log_interval=10) as log:
        for number in range(20):
            log.step(torch.tensor(float(number)), 5)
    assert [row["loss"] for row in rows_of(run)] == [4.5, 14.5]


def test_the_value_of_a_reused_loss_is_kept(run: RunDirectory) -> None:
    static = torch.zeros(())
    with quiet(run, log_interval=2) as log:
        for value in (1.0, 3.0):
            static.fill_(value)  # as the replay of a captured step does
            log.step(static, 5)
        static.fill_(100.0)
    assert rows_of(run)[0]["loss"] == 2.0


class Killed(Exception):
    pass


def train(run: RunDirectory, *, resume: bool, save_at: int = 0, die_at: int = 0) -> None:
    """A run of 3 epochs of 7 steps that logs every 4, so that lines, epochs and checkpoints do not fall together."""
    generator = torch.Generator().manual_seed(5)
    losses = (torch.rand(21, generator=generator) / 3).tolist()
    lengths = torch.randint(5, 90, (21,), generator=generator).tolist()
    with quiet(run) as log:
        if resume:
            log.load_state_dict(checkpoint.load(run.last, kind="demo")["log"])
        for index in range(log.global_step, 21):
            if index % 7 == 0:
                log.epoch(index // 7 + 1, 100)
            log.step(torch.tensor(losses[index]), lengths[index], extra={"lr": 20 / (index + 1)})
            if log.global_step % 7 == 0:
                log.evaluated("valid", losses[index] / 3)
            if log.global_step == save_at:
                checkpoint.save(run.last, {"kind": "demo", "log": log.state_dict()})
            if log.global_step == die_at:
                raise Killed
        log.evaluated("test", 0.1)
        log.end()


@pytest.mark.parametrize("save_at", [1, 4, 6, 7, 8, 14, 21])
@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_a_resumed_run_writes_the_same_lines(tmp_path: Path, save_at: int, ahead: int) -> None:
    undisturbed = RunDirectory.create(tmp_path / "undisturbed", command="demo", config={})
    train(undisturbed, resume=False)
    run = RunDirectory.create(tmp_path / "killed", command="demo", config={})
    if save_at + ahead <= 21:
        with pytest.raises(Killed):
            train(run, resume=False, save_at=save_at, die_at=save_at + ahead)
    else:
        train(run, resume=False, save_at=save_at)  # also a complete run can be resumed
    with run.metrics.open("a") as file:
        file.write('{"event": "step", "epo')
    run.close()
    train(RunDirectory.reopen(tmp_path / "killed"), resume=True)
    expected, resumed = rows_of(undisturbed), rows_of(run)
    for row in (*expected, *resumed):
        for name in TIMES:
            row.pop(name, None)
    assert resumed == expected
    assert len(expected) == 5 + 3 + 2


def test_seconds_go_on_after_resume(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with quiet(run) as log:
        clock.passes(3000)
        state = log.state_dict()
        clock.passes(50_000)  # lost by the kill
    with quiet(run) as log:
        log.load_state_dict(state)
        clock.passes(2000)
        log.end()
    assert rows_of(run)[-1]["seconds"] == 5.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("told_by", ["step", "state_dict", "evaluated"])
def test_a_loss_that_is_not_finite_stops_the_run(run: RunDirectory, bad: float, told_by: str) -> None:
    checkpoint.save(run.last, {})
    line = rf"^the loss is {bad} at step 6; a smaller learning rate .* may help; .*last\.pt is from before it$"
    with quiet(run) as log:
        for _ in range(5):
            log.step(torch.tensor(1.0), 5)
        log.step(torch.tensor(bad), 5)
        log.step(torch.tensor(math.nan), 5)
        tell: dict[str, Callable[[], object]] = {
            "step": lambda: log.step(torch.tensor(1.0), 5),
            "state_dict": log.state_dict,
            "evaluated": lambda: log.evaluated("valid", 1.0),
        }
        with pytest.raises(UserError, match=line):
            tell[told_by]()
    assert [row["step"] for row in rows_of(run)] == [4]


def test_a_validation_loss_that_is_not_finite_stops_the_run(run: RunDirectory) -> None:
    with quiet(run) as log:
        log.step(torch.tensor(1.0), 5)
        with pytest.raises(UserError, match=r"^the valid loss is nan after step 1; a smaller learning rate \S+"):
            log.evaluated("valid", math.nan)
    assert run.metrics.read_bytes() == b""


def test_a_perplexity_that_overflows_is_null(run: RunDirectory) -> None:
    with quiet(run) as log:
        log.evaluated("valid", 800.0)
    assert rows_of(run) == [{"event": "valid", "epoch": 0, "step": 0, "loss": 800.0, "ppl": None}]


def test_extra_numbers(run: RunDirectory) -> None:
    with quiet(run, log_interval=2) as log:
        due = [log.due]
        log.step(torch.tensor(1.0), 5, extra={"lr": 20.0})
        due.append(log.due)
        log.step(torch.tensor(1.0), 5, extra={"lr": 10.0, "actual_ratio": torch.tensor(3.5)})
        log.evaluated("test", 1.0, extra={"bleu": 30.25})
        for taken in ("loss", "event", "ppl"):
            with pytest.raises(ValueError, match=f"taken: {taken}"):
                log.evaluated("valid", 1.0, extra={taken: 1.0})
    assert due == [False, True]
    step, test = rows_of(run)
    assert (step["lr"], step["actual_ratio"]) == (10.0, 3.5)
    assert test["bleu"] == 30.25


def test_log_interval_below_one(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="--log_interval must be at least 1, not 0"):
        quiet(run, log_interval=0)


def test_an_error_closes_the_files_and_is_noted(run: RunDirectory) -> None:
    log = quiet(run)

    def interrupted() -> None:
        with log:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert run.log_file.read_text(encoding="utf-8").splitlines()[-1].startswith("stopped: KeyboardInterrupt")
    with pytest.raises(ValueError, match="closed file"):
        log.evaluated("valid", 1.0)


def test_a_full_disk_is_one_line(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    log = quiet(run)
    log._metrics.close()
    monkeypatch.setattr(log._metrics, "_file", Full())
    with pytest.raises(UserError, match=r"^cannot write .*metrics\.jsonl: no space left$"), log:
        log.evaluated("valid", 1.0)


@pytest.mark.cuda
@needs_gpu
def test_steps_on_a_gpu_wait_for_nothing_and_are_timed_there(run: RunDirectory) -> None:
    gpu = torch.device("cuda")
    losses = torch.arange(40.0, device=gpu)
    with quiet(run, log_interval=20) as log:
        for number in range(40):
            if not log.due:
                torch.cuda.set_sync_debug_mode("error")
            torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]  # cycles: about ten milliseconds
            log.step(losses[number], 5)
            torch.cuda.set_sync_debug_mode("default")
        log.end()
    first, second, end = rows_of(run)
    assert (first["loss"], second["loss"]) == (9.5, 29.5)
    assert 5 < second["ms"] < 40  # the host alone needs a fraction of a millisecond
    assert end["peak_cuda_mb"] > 0
