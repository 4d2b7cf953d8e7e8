"""The run log: the documented schema, exact means and medians, and a resumed run that writes the same lines."""

import io
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(tmp_path / "run", command="demo", config={})
    yield directory
    directory.close()


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


def test_a_loss_that_is_not_of_text_stands_for_itself(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet(run, log_interval=2, unit=None) as log:
        log.epoch(1, 100)
        for _ in range(2):
            log.step(torch.tensor(0.00125), 25)
        log.evaluated("valid", 0.00123456, extra={"accuracy": 0.5})
    step, valid = rows_of(run)
    assert (step["event"], step["loss"]) == ("step", pytest.approx(0.00125, rel=1e-7))
    assert valid == {"event": "valid", "epoch": 1, "step": 2, "loss": 0.00123456, "accuracy": 0.5}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1 | step 2 | loss 0.00125 | ")
    assert second == "epoch 1 | step 2 | valid loss 0.001235 | accuracy 0.5"


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


def test_console_and_log_file_say_the_same(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet(run, log_interval=1) as log:
        log.say("hello, Ärger")
        log.epoch(1, 100)
        log.step(torch.tensor(math.log(50.0)), 5, extra={"lr": 20.0})
        log.evaluated("valid", math.log(25.0))
        log.end()
    console = capsys.readouterr()
    assert console.err == ""
    head, text = run.log_file.read_text(encoding="utf-8").split("hello")
    assert console.out == "hello" + text
    assert head.startswith("$ ")
    assert torch.__version__ in head
    lines = console.out.splitlines()
    assert re.fullmatch(r"epoch 1 \| step 1 \| loss 3\.9120 \| ppl 50\.00 \| .* ms \| .* tokens/s \| lr 20", lines[1])
    assert lines[2] == "epoch 1 | step 1 | valid loss 3.2189 | valid ppl 25.000"
    assert re.fullmatch(rf"done in 0:00:00 \| peak memory \d+ MB \| {re.escape(str(run.path))}", lines[3])


def test_a_console_that_lacks_a_letter(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with quiet(run) as log:
        log.say("Ärger")
    assert raw.getvalue() == b"?rger\n"
    assert run.log_file.read_text(encoding="utf-8").endswith("Ärger\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    with RunLog(run, unit="ppl", log_interval=3, total_steps=8, tensorboard=False) as log:
        log.epoch(2, 10_000, done=2_000)
        log.step(torch.tensor(math.log(50.0)), 3_000)  # shows its loss at once: on the CPU that costs nothing
        log.step(torch.tensor(math.log(60.0)), 3_000)
        log.step(torch.tensor(math.log(70.0)), 2_000)
    shown = terminal.getvalue()
    assert re.search(r"epoch 2 20%.* 2\.00k/10\.0k ", shown)
    assert re.search(r"epoch 2 50%.* 5\.00k/10\.0k .*loss 3\.912 \| ppl 50\.0 \| \d+\.\d ms \| step 1/8\]", shown)
    assert re.search(r"epoch 2 100%.* 10\.0k/10\.0k .*loss 4\.\d+ \| ppl 58\.\d \| \d+\.\d ms \| step 3/8\]", shown)
    assert "ppl 60" not in shown  # not more often than a reader can follow


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


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_the_run_and_not_what_a_kill_undid(run: RunDirectory) -> None:
    with RunLog(run, unit="ppl", log_interval=1) as log:
        log.epoch(1, 10)
        log.step(torch.tensor(1.0), 5)
        log.evaluated("valid", math.log(2.0))
        state = log.state_dict()
        log.step(torch.tensor(7.0), 5)
    with RunLog(run, unit="ppl", log_interval=1) as log:
        log.load_state_dict(state)
        log.step(torch.tensor(2.0), 5)
        log.step(torch.tensor(3.0), 5)
    assert scalars(run.events, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert scalars(run.events, "valid/ppl") == [(1, 2.0)]


def test_without_tensorboard_one_warning(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with RunLog(run, unit="ppl", log_interval=1) as log:
        for _ in range(3):
            log.step(torch.tensor(1.0), 5)
    assert capsys.readouterr().out.count("warning: no TensorBoard events for this run: ") == 1
    assert len(rows_of(run)) == 3


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl: No such file .* is .* a run directory\?"):
        read_metrics(file)
    for damage in ("{", "[1]", '{"loss": 1}', "\x80"):
        file.write_text(f'{{"event": "end"}}\n{damage}\n', encoding="latin-1")
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not a line of metrics"):
            read_metrics(file)


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
