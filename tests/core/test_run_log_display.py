"""What a run shows: console, log file, progress bar, TensorBoard, and metrics that cannot be read."""

import io
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from rnncore.errors import UserError
from rnncore.metrics_file import read_metrics
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog


def test_console_and_log_file_say_the_same(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, unit="ppl", log_interval=1, tensorboard=False) as log:
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
    with RunLog(run, unit="ppl", log_interval=4, tensorboard=False) as log:
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
    assert len(read_metrics(run.metrics)) == 3


def test_a_loss_that_is_not_of_text_stands_for_itself(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, unit=None, log_interval=2, tensorboard=False) as log:
        log.epoch(1, 100)
        for _ in range(2):
            log.step(torch.tensor(0.00125), 25)
        log.evaluated("valid", 0.00123456, extra={"accuracy": 0.5})
    step, valid = read_metrics(run.metrics)
    assert (step["event"], step["loss"]) == ("step", pytest.approx(0.00125, rel=1e-7))
    assert valid == {"event": "valid", "epoch": 1, "step": 2, "loss": 0.00123456, "accuracy": 0.5}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1 | step 2 | loss 0.00125 | ")
    assert second == "epoch 1 | step 2 | valid loss 0.001235 | accuracy 0.5"


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl: No such file .* is .* a run directory\?"):
        read_metrics(file)
    for damage in ("{", "[1]", '{"loss": 1}', "\x80"):
        file.write_text(f'{{"event": "end"}}\n{damage}\n', encoding="latin-1")
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not a line of metrics"):
            read_metrics(file)
