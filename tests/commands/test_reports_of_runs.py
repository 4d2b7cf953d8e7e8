"""What a run of a language model leaves behind, and that its configuration and seed make it what it is."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rnncore import checkpoint, report

Losses = Callable[..., list[float]]
Rows = Callable[..., list[dict[str, Any]]]

FILES = {"config.yaml", "metrics.jsonl", "tensorboard", "log.txt", "last.pt", "best.pt", "vocab.txt", "report.png"}
METRICS = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

#: What makes a run of a command its own.
OWN = {"revrnn-train": ["--use_reverse"]} | {
    f"selfish-train{kind}": ["--sparse", "--density", "0.5"] for kind in ("", "-onlstm", "-mos")
}


@pytest.fixture(scope="module")
def run(language_model: Any, plot: Callable[..., object]) -> Path:
    """Three epochs, with their curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", plot)
        return language_model.run("--epochs", "3", "--batch_size", "8", *OWN.get(language_model.name, []))


def test_a_run_directory_is_complete(
    run: Path, corpus: Path, tokens_of: Callable[[Path, str], list[str]], language_model: Any
) -> None:
    assert {path.name for path in run.iterdir()} >= FILES
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events.out.*"))
    assert "valid loss" in (run / "log.txt").read_text()
    tokens = [token for split in ("train", "valid", "test") for token in tokens_of(corpus, split)]
    saved = checkpoint.load(run / "best.pt", kind=language_model.name)
    vocabulary = (run / "vocab.txt").read_text().split("\n")[:-1]
    assert vocabulary == list(dict.fromkeys(tokens)) == saved["vocabulary"]
    assert saved.keys() == {"kind", "config", "vocabulary", "model", "format"}
    assert saved["config"] == yaml.safe_load((run / "config.yaml").read_text())


def documented_keys(event: str) -> dict[str, str]:
    """The keys of an event's table in docs/metrics.md and their types."""
    section = METRICS.partition(f"## `{event}`")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))


def test_metrics_follow_their_documentation(run: Path, language_model: Any) -> None:
    types = {"integer": int, "number": float}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    ratios = {"actual_ratio", "optimal_ratio"} if language_model.name == "revrnn-train" else set()
    for line in lines:
        event, keys = line["event"], documented_keys(line["event"])
        more = {"lr"} | ratios if event == "step" else set()
        assert line.keys() == set(keys) - {"bpc", "peak_cuda_mb"} | {"event"} | more
        assert all(type(line[key]) is types[keys[key]] for key in line.keys() & keys.keys())
        if "ppl" in line:
            assert line["ppl"] == pytest.approx(math.exp(line["loss"]))
    assert [line["event"] for line in lines][-3:] == ["valid", "test", "end"]
    assert [line["step"] for line in steps] == list(range(5, len(steps) * 5 + 1, 5))
    assert [line["epoch"] for line in lines if line["event"] == "valid"] == [1, 2, 3]
    assert all(line["optimal_ratio"] > line["actual_ratio"] > 0 for line in steps if ratios)


def test_losses_of_a_line_are_means_over_its_tokens(language_model: Any, losses_of: Losses) -> None:
    each = losses_of(language_model.run("--log_interval", "1", "--max_steps", "5"), "step")
    (together,) = losses_of(language_model.run("--log_interval", "5", "--max_steps", "5"), "step")
    assert len(each) == 5
    assert min(each) < together < max(each)


@pytest.mark.parametrize("steps", [1, 7])
def test_max_steps_stops_evaluates_and_saves(steps: int, language_model: Any, rows_of: Rows) -> None:
    run = language_model.run("--max_steps", str(steps))
    rows = rows_of(run)
    assert [row["event"] for row in rows] == ["step"] * (steps // 5) + ["valid", "test", "end"]
    assert [row["step"] for row in rows[-3:-1]] == [steps, steps]
    assert checkpoint.load(run / "last.pt", kind=language_model.name)["log"]["global_step"] == steps


def test_the_configuration_of_a_run_repeats_it(language_model: Any, run: Path, losses_of: Losses) -> None:
    again = Path(f"again-{language_model.name}")
    words = ["--config", str(run / "config.yaml"), "--run_dir", str(again)]
    language_model.main(words, standalone_mode=False)
    assert losses_of(again, "step", "valid", "test") == losses_of(run, "step", "valid", "test")


def test_another_seed_is_another_run(language_model: Any, losses_of: Losses) -> None:
    first, other = (
        losses_of(language_model.run("--seed", seed, "--max_steps", "5"), "step", "valid") for seed in ("1", "2")
    )
    assert first[0] != other[0]


def test_mixed_precision_differs_a_little(
    language_model: Any, losses_of: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnncore.device.keeps_memory_of_shapes", lambda *_: False)  # the same windows for both
    words = ["--lr", "1" if "rmc" not in language_model.name else "0.001", "--max_steps", "6", "--log_interval", "1"]
    words += OWN.get(language_model.name, [])
    exact, mixed = (losses_of(language_model.run(*words, *more), "step", "valid") for more in ([], ["--amp", "bf16"]))
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.01)
