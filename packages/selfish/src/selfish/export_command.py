"""``selfish-export``: a checkpoint's model as a file of its non-zero weights."""

from pathlib import Path

import click
import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.plain_command import plain_command

from selfish.export import export


@plain_command("selfish-export")
@click.argument("saved", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--batch_size", type=click.IntRange(1), default=1, show_default=True, help="Of the inference to measure.")
@click.option("--repeats", type=click.IntRange(0), default=20, show_default=True, help="Measurements; 0 does none.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: torch's choice.")
def main(saved: Path, output: Path | None, batch_size: int, repeats: int, threads: int | None) -> None:
    """Write the model of CHECKPOINT to OUTPUT, or beside it (best.sparse.pt), with its non-zero weights only.

    The table says how large each weight is, how long a product takes in dense and sparse form, and which is faster.
    """
    saved = saved / "best.pt" if saved.is_dir() else saved
    state = checkpoint.load(saved)
    weights = state.get("model")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{saved} holds no model to export")
    if threads is not None:
        torch.set_num_threads(threads)
    file = output or saved.with_suffix(".sparse.pt")
    config = {"of": state.get("kind"), "options": state.get("config"), "vocabulary": state.get("vocabulary")}
    click.echo(str(export(weights, file, rows=batch_size, repeats=repeats, config=config)))
    click.echo(f"written: {file}")
