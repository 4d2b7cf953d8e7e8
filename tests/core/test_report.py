"""rnn-report: the table's numbers, the picture's curves, and errors in one line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rnncore.errors import UserError
from rnncore.report import main, plot
from rnncore.run_summary import summarise, table

END = {"event": "end", "seconds": 3725.4, "peak_rss_mb": 842.4}


def write_run(path: Path, *rows: dict[str, Any]) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def step(number: int, loss: float, ms: float) -> dict[str, Any]:
    return {"event": "step", "epoch": 1, "step": number, "loss": loss, "ms": ms, "tokens_per_s": 1e6 / ms}


def evaluated(event: str, epoch: int, loss: float, unit: str = "ppl") -> dict[str, Any]:
    value = math.exp(loss) if unit == "ppl" else loss / math.log(2)
    return {"event": event, "epoch": epoch, "step": epoch * 100, "loss": loss, unit: value}


def whole_run(path: Path) -> Path:
    losses = (evaluated("valid", 1, math.log(120)), evaluated("valid", 2, math.log(90)), evaluated("valid", 3, 5.0))
    steps = (step(100, 6.0, 250.0), step(200, 5.0, 300.0), step(300, 4.5, 900.0))
    return write_run(path, *steps, *losses, evaluated("test", 3, math.log(88.5)), END)


def test_table_of_runs(tmp_path: Path) -> None:
    bits = evaluated("valid", 1, math.log(2) * 1.25, unit="bpc")
    runs = (
        whole_run(tmp_path / "words"),
        write_run(tmp_path / "letters", bits, {**END, "peak_cuda_mb": 1000.2}),
        write_run(tmp_path / "young", step(100, 6.0, 250.0)),
    )
    heading, words, letters, young = (line.split() for line in table([summarise(run) for run in runs]).splitlines())
    assert " ".join(heading) == "run best valid test time ms/step tokens/s peak MB"
    assert " ".join(words) == "words 90.000 ppl (epoch 2) 88.500 ppl 1:02:05 300.0 3,333 842"
    assert " ".join(letters) == "letters 1.250 bpc (epoch 1) - 1:02:05 - - 842 + 1000 GPU"
    assert " ".join(young) == "young - - - 250.0 4,000 -"


def has(picture: Path, name: str) -> bool:
    """Whether a pixel has just this colour: the edges of lines are blended, their middles are not."""
    pixels = imread(picture)[..., :3]
    return bool((abs(pixels - to_rgb(name)) < 1e-3).all(axis=-1).any())


def test_picture_has_one_colour_a_run(tmp_path: Path) -> None:
    runs = [whole_run(tmp_path / name) for name in ("one", "_two $x", "three")]
    plot(runs[:2], tmp_path / "two.png")
    assert has(tmp_path / "two.png", "C0")
    assert has(tmp_path / "two.png", "C1")
    assert not has(tmp_path / "two.png", "C2")
    plot(runs, tmp_path / "three.png")
    assert has(tmp_path / "three.png", "C2")


def test_picture_of_a_run_that_diverged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", step(1, 5.0, 1.0), step(2, 5000.0, 1.0), {**evaluated("valid", 1, 5.0)})
    plot([run], tmp_path / "report.png")
    assert has(tmp_path / "report.png", "C0")


def test_picture_of_characters(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", step(1, 2.0, 1.0), evaluated("valid", 1, 1.0, unit="bpc"))
    plot([run], tmp_path / "report.svg")
    text = (tmp_path / "report.svg").read_text(encoding="utf-8")
    assert "<!-- bits per character -->" in text
    assert "<!-- loss (nats per token) -->" in text
    assert "<!-- run -->" in text
    assert "<!-- perplexity -->" not in text


def test_command_with_one_run(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "words")
    result = CliRunner().invoke(main, [str(run)])
    assert result.exit_code == 0
    assert result.output == f"{table([summarise(run)])}\ncurves: {run / 'report.png'}\n"
    assert has(run / "report.png", "C0")


def test_command_with_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole_run(tmp_path / "a" / "same")
    whole_run(tmp_path / "b" / "same")
    result = CliRunner().invoke(main, [str(Path("a", "same")), str(Path("b", "same"))])
    assert result.exit_code == 0
    assert has(tmp_path / "report.png", "C1")
    first = [line.split()[0] for line in result.output.splitlines()]
    assert first == ["run", str(Path("a", "same")), str(Path("b", "same")), "curves:"]
    result = CliRunner().invoke(main, ["a/same", "b/same", "--output", "other.png"])
    assert result.output.endswith("curves: other.png\n")
    assert has(tmp_path / "other.png", "C1")


def test_a_run_that_goes_on_has_half_a_line(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    expected = summarise(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert summarise(run) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "run is not a run directory: there is no metrics.jsonl"),
        ([], "run holds no losses yet"),
        ([END], "run holds no losses yet"),
        ([{"event": "valid", "step": 1}], "metrics.jsonl lacks a number that docs/metrics.md asks for: 'loss'"),
        ([{"event": "valid", "step": 1, "epoch": 1, "loss": None}], "metrics.jsonl lacks a number"),
        ([{}], "metrics.jsonl, line 1: not a line of metrics"),
    ],
)
def test_bad_runs_are_one_line(tmp_path: Path, rows: list[dict[str, Any]] | None, message: str) -> None:
    if rows is not None:
        write_run(tmp_path / "run", *rows)
    result = CliRunner().invoke(main, [str(tmp_path / "run")])
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_pictures_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = whole_run(tmp_path / "run")
    for name in ("report.txt", "report"):
        with pytest.raises(UserError, match=r"cannot draw to .*: give a name that ends in \.png, \.pdf or \.svg"):
            plot([run], tmp_path / name)
    with pytest.raises(UserError, match=r"cannot write .*: No such file or directory"):
        plot([run], tmp_path / "nowhere" / "report.png")
    with pytest.raises(UserError, match=r"cannot draw to .*report\.pgf: 'xelatex' not found"):
        plot([run], tmp_path / "report.pgf")


def plain_run(path: Path) -> Path:
    """A run whose loss is none of text, such as a squared error."""
    losses = [{"event": "valid", "epoch": epoch, "step": epoch * 100, "loss": 0.2 / epoch} for epoch in (1, 2)]
    test = {"event": "test", "epoch": 2, "step": 200, "loss": 0.0123456, "accuracy": 0.5}
    return write_run(path, step(100, 0.3, 250.0), *losses, test, END)


def test_losses_that_are_not_of_text_are_shown_as_they_are(tmp_path: Path) -> None:
    run = plain_run(tmp_path / "plain")
    _, row = table([summarise(run)]).splitlines()
    assert " ".join(row.split()) == "plain 0.1 (epoch 2) 0.01235 1:02:05 250.0 4,000 842"
    plot([run], tmp_path / "report.svg")
    text = (tmp_path / "report.svg").read_text(encoding="utf-8")
    assert text.count("<!-- loss -->") == 2
    assert "perplexity" not in text
