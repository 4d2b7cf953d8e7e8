"""A picture of accuracy over steps, for one run of ``rmc-nth-farthest`` or several."""

from collections.abc import Sequence
from pathlib import Path

from rnncore.atomic_file import cannot_write
from rnncore.config_file import read_config
from rnncore.errors import UserError
from rnncore.metrics_file import read_metrics


def runs_named(names: Sequence[str]) -> list[Path]:
    """The directories of other runs. Raises UserError for one that holds no run of this command."""
    for name in names:
        if not (Path(name) / "metrics.jsonl").is_file():
            raise UserError(f"--compare_with {name} holds no run: there is no metrics.jsonl")
        if "objects" not in read_config(Path(name) / "config.yaml"):
            raise UserError(f"--compare_with {name} holds a run of another command, which answers no such questions")
    return [Path(name) for name in names]


def plot(runs: Sequence[Path], output: Path) -> None:
    """Draws a curve of the validation accuracy for each run directory, and the accuracy of guessing.

    Raises:
        UserError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    axes = figure.subplots()
    for run in runs:
        rows = [row for row in read_metrics(run / "metrics.jsonl") if row["event"] == "valid"]
        config = read_config(run / "config.yaml")
        label = f"{config.get('model')}, {config.get('objects')} objects, seed {config.get('seed')}"
        axes.plot([row["step"] for row in rows], [100 * row["accuracy"] for row in rows], label=label)
    objects = read_config(runs[0] / "config.yaml").get("objects")
    if isinstance(objects, int):
        axes.axhline(100 / objects, color="0.6", linestyle=":", label="guessing")
    axes.set(xlabel="step", ylabel="right answers, %", ylim=(0, 100))
    axes.legend()
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error
