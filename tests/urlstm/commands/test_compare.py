"""``urlstm-compare``: what is done is not done again; the table and the curves against hand-made metrics."""

import json
import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rnncore.errors import UserError
from urlstm import compare, train_adding
from urlstm.compare import main
from urlstm.comparison import Panel, band, draw, steps_to_solve, table
from urlstm.run_state import Training

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("sandbox")

TINY = (
    "--seq_length 9 --hidden_size 8 --batch_size 50 --n_steps 12 --valid_interval 6 --checkpoint_interval 4 "
    "--log_interval 3 --threads 1 --device cpu --seed 5"
)


def grid(folder: str, *words: str, gates: str = "lstm,ur-lstm", seeds: int = 2) -> Path:
    main(
        ["adding", "--gates", gates, "--seeds", str(seeds), "--run_dir", folder, *TINY.split(), *words],
        standalone_mode=False,
    )
    return Path(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob("*/metrics.jsonl")}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each run that is begun or resumed."""
    names: list[str] = []
    run = train_adding.run

    def noted(options: Any) -> None:
        names.append(f"{'resumed ' if options.resume else ''}{options.run_dir.name}")
        run(options)

    tasks = tuple(
        task if task.name != "adding" else compare.Task(**{**vars(task), "run": noted}) for task in compare.TASKS
    )
    command = compare._command(tasks[0])
    monkeypatch.setitem(main.commands, "adding", command)
    return names


RUNS = ["lstm_seed5", "ur-lstm_seed5", "lstm_seed6", "ur-lstm_seed6"]


def test_a_grid_is_run_and_not_run_again(begun: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = grid("grid")
    assert begun == RUNS
    printed = capsys.readouterr().out
    assert (folder / "comparison.md").read_text() in printed
    before = contents(folder)
    assert {Path(name).parent.name for name in before} == set(RUNS)
    begun.clear()
    (folder / "comparison.png").unlink()
    grid("grid")
    assert begun == []
    assert contents(folder) == before
    assert imread(folder / "comparison.png").shape[0] > 100
    grid("grid", gates="ur-lstm,gru", seeds=1)
    assert begun == ["gru_seed5"]
    lines = (folder / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["gate", "ur-lstm", "gru"]


def test_an_interrupted_grid_goes_on_where_it_was(
    begun: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = contents(grid("undisturbed"))
    begun.clear()
    saved = 0

    def count(training: Training) -> None:
        nonlocal saved
        saved += 1
        if saved == 7:  # in the third run, at its first checkpoint
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        from urlstm import synthetic

        real = synthetic.save_last
        patch.setattr(synthetic, "save_last", lambda training: (count(training), real(training)))
        with pytest.raises(SystemExit) as stopped:
            grid("disturbed")
    assert stopped.value.code == 130
    assert begun == RUNS[:3]
    assert "to go on with the comparison: the same command" in capsys.readouterr().out
    begun.clear()
    found = contents(grid("disturbed"))
    assert begun == ["resumed lstm_seed6", "ur-lstm_seed6"]
    for name, content in expected.items():
        rows, again = (
            [
                {key: value for key, value in json.loads(line).items() if key in ("event", "step", "loss")}
                for line in each.decode().splitlines()
            ]
            for each in (content, found[name.replace("undisturbed", "disturbed")])
        )
        assert rows == again


def test_other_settings_need_another_directory(begun: list[str]) -> None:
    grid("settled", seeds=1)
    before = contents(Path("settled"))
    with pytest.raises(UserError, match=r"settled was begun with --learning_rate 0\.001, not 0\.01"):
        grid("settled", "--lr", "0.01", seeds=1)
    with pytest.raises(UserError, match="settled holds a comparison on adding; choose another --run_dir"):
        main(["copy", "--run_dir", "settled", "--seed", "5"], standalone_mode=False)
    assert contents(Path("settled")) == before


def test_a_run_that_diverges_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from urlstm import synthetic

    real = synthetic.optimizer_step

    def fails(training: Training, loss: Any) -> Any:
        if training.options.model_type == "lstm" and training.options.seed == 5 and training.log.global_step == 5:
            raise UserError("the loss is nan")
        return real(training, loss)

    monkeypatch.setattr(synthetic, "optimizer_step", fails)
    folder = grid("diverged")
    text = (folder / "comparison.md").read_text()
    assert "Left out: lstm_seed5 (stopped at step 6: the loss is nan; the last checkpoint is from before it)." in text
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:4]] == ["1", "2"]
    assert "diverged/lstm_seed5: stopped at step 6" in capsys.readouterr().err


def test_a_dry_run_tells_what_would_be_run(begun: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    grid("planned", "--dry_run", seeds=1)
    assert capsys.readouterr().out.splitlines() == [
        "planned/lstm_seed5: to be run",
        "planned/ur-lstm_seed5: to be run",
    ]
    assert begun == []
    assert not Path("planned").exists()


def write(folder: Path, losses: dict[int, float], test: dict[str, float]) -> Path:
    """A finished run with these training losses by step."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {"event": "step", "epoch": 1, "step": step, "loss": loss, "ms": 10.0, "tokens_per_s": 1.0}
        for step, loss in losses.items()
    ]
    rows += [{"event": "test", "epoch": 1, "step": max(losses), **test}, {"event": "end", "seconds": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def runs_by_hand(folder: Path) -> dict[str, list[Path]]:
    """Two gates with a baseline of 0.2: solved is a loss below 0.01."""
    losses = [{10: 0.2, 20: 0.009}, {10: 0.15, 20: 0.02, 30: 0.0099}, {10: 0.18, 20: 0.02, 30: 0.02}]
    lstm = [
        write(folder / f"a{k}", each, {"loss": 0.1 * k, "accuracy": 0.5 + 0.1 * k, "baseline": 0.2})
        for k, each in enumerate(losses)
    ]
    return {"lstm": lstm, "gru": [write(folder / "b", {10: 0.3}, {"loss": 0.25, "accuracy": 0.125, "baseline": 0.2})]}


def test_runs_that_end_before_a_line_of_the_log() -> None:
    text = (grid("short", "--log_interval", "100", seeds=1) / "comparison.md").read_text()
    assert [line.rpartition(" | ")[2] for line in text.splitlines()[2:4]] == ["- |", "- |"]


def test_steps_to_solve_and_the_table(tmp_path: Path) -> None:
    runs = runs_by_hand(tmp_path)
    rows = {gate: [compare.read_metrics(path / "metrics.jsonl") for path in paths] for gate, paths in runs.items()}
    assert [steps_to_solve(each) for each in rows["lstm"]] == [20, 30, None]
    assert steps_to_solve([row for row in rows["lstm"][0] if row["event"] == "step"]) is None  # no baseline
    lines = table(runs, {"gru_seed2": "why"}).splitlines()
    assert lines[:4] == [
        "| gate | seeds | solved | steps to solve | test loss | test accuracy | ms per step |",
        "|---|---|---|---|---|---|---|",
        "| lstm | 3 | 2 of 3 | 25 [20, 30] | 0.1 [0, 0.2] | 0.6 [0.5, 0.7] | 10 [10, 10] |",
        "| gru | 1 | 0 of 1 | - | 0.25 | 0.125 | 10 |",
    ]
    assert "Without memory the loss is 0.2; solved: a training loss below 5% of that." in lines
    assert "Left out: gru_seed2 (why)." in lines
    assert "torch" in lines[-1]


def test_a_perplexity_that_is_no_number(tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = [{"loss": 5.0, "ppl": 148.4}, {"loss": 6.0, "ppl": 403.4}, {"loss": 1e4, "ppl": None}]
    runs = [write(tmp_path / str(k), {10: 1.0}, test) for k, test in enumerate(tests)]
    assert "| lstm | 3 | 6 [5, 10,000] | 403.4 [148.4, inf] | 10 [10, 10] |" in table({"lstm": runs}, {})


def test_bands_are_medians_and_ranges(tmp_path: Path) -> None:
    runs = [compare.read_metrics(path / "metrics.jsonl") for path in runs_by_hand(tmp_path)["lstm"]]
    found = band(runs, Panel("step", "loss", ""))
    assert found.steps == [10, 20, 30]
    by_step = {10: [0.2, 0.15, 0.18], 20: [0.009, 0.02, 0.02], 30: [0.0099, 0.02]}
    assert found.median == [statistics.median(by_step[step]) for step in found.steps]
    assert found.low == [min(by_step[step]) for step in found.steps]
    assert found.high == [max(by_step[step]) for step in found.steps]


def test_the_figure_has_a_line_for_each_gate_and_the_baseline(tmp_path: Path) -> None:
    panels = [Panel("step", "loss", "the loss", logarithmic=True), Panel("test", "accuracy", "the accuracy")]
    draw(runs_by_hand(tmp_path), panels, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("lstm", "gru", "without memory", "the loss", "the accuracy"))
    with pytest.raises(UserError, match="cannot write"):
        draw(runs_by_hand(tmp_path / "again"), panels, tmp_path / "nowhere" / "figure.svg")
