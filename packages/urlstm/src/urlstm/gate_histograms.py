"""``urlstm-gates``: how the gates of trained layers are spread over (0, 1), at the start and after training.

This is the paper's argument in one picture: a plain forget gate starts in a narrow hill and is slow to reach the ends,
uniform gates start everywhere, and refine gates come close to 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rnncore import checkpoint, device
from rnncore.atomic_file import cannot_write
from rnncore.corpus import Corpus
from rnncore.datasets import locate
from rnncore.errors import UserError
from rnncore.flags import from_dict
from rnncore.plain_command import plain_command
from torch import Tensor, nn

from urlstm import train_adding, train_copy, train_images, train_language
from urlstm.adding import adding_batch
from urlstm.copying import copy_batch
from urlstm.images import load_pictures
from urlstm.options import (
    ADDING,
    COPY,
    GATES,
    IMAGES,
    LANGUAGE,
    AddingOptions,
    CopyOptions,
    ImagesOptions,
    LanguageOptions,
)
from urlstm.random_streams import Purpose, stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEQUENCES = 10
BINS = 60
#: The gates that the paper is about come first: what is kept of the old state, and what that is made of.
FIRST = ("keep", "forget", "update", "refine", "input")

_GREY = "0.75"

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Spread:
    """The gates of one run: activations by the gate's name, each ``[L, T, B, H]``."""

    gate: str
    title: str
    start: dict[str, Tensor]
    trained: dict[str, Tensor]


@plain_command("urlstm-gates")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("gates.png"),
    show_default=True,
    help="The picture; its suffix decides the format.",
)
def main(runs: tuple[Path, ...], output: Path) -> None:
    """Draw histograms of gate activations at the start and after training.

    RUN is a run directory of urlstm-adding, -copy, -images or -language, or the directory of a comparison, of which the
    first seed of each gate is taken. Each run has a row, each of its gates a column.
    """
    draw([spread_of(path) for run in runs for path in _run_directories(run)], output)
    click.echo(f"histograms: {output}")


def spread_of(run: Path) -> Spread:
    """The gates of a run on test sequences of its task, before its first step and as they were saved.

    The model at the start is drawn again from the run's seed.

    Raises:
        UserError: There is no checkpoint of these commands.
    """
    file = next((path for path in (run / "best.pt", run / "last.pt") if path.is_file()), run / "last.pt")
    saved = checkpoint.load(file)
    prepare = _PREPARE.get(str(saved.get("kind")))
    if prepare is None:
        raise UserError(f"{file} is a checkpoint of {saved.get('kind')}, which has no gates to draw")
    model, layer_inputs = prepare(saved, str(file))
    start = _activations(model, layer_inputs)
    model.load_state_dict(saved["model"])
    gate, seed = saved["config"]["model_type"], saved["config"]["seed"]
    return Spread(gate, f"{gate}, seed {seed}", start, _activations(model, layer_inputs))


def draw(spreads: Sequence[Spread], output: Path) -> None:
    """A row of histograms for each run: grey at the start, coloured after training.

    Raises:
        UserError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = list(dict.fromkeys(name for spread in spreads for name in spread.start))
    names = [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]
    figure = Figure(figsize=(2.6 * len(names) + 0.8, 1.7 * len(spreads) + 0.7), layout="constrained", dpi=120)
    if output.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw to {output}: give a name that ends in .png, .pdf or .svg")
    grid = figure.subplots(len(spreads), len(names), squeeze=False, sharex=True)
    for number, spread in enumerate(spreads):
        label = {"rotation": 90, "ha": "right", "va": "center", "transform": grid[number][0].transAxes}
        grid[number][0].text(-0.04, 0.5, spread.title, **label)
        for axes, name in zip(grid[number], names, strict=True):
            if number == 0:
                axes.set_title(name)
            _draw_gate(axes, spread, name)
    keys = [Patch(color=_GREY), Line2D([], [], color="black", linewidth=1.4)]
    figure.legend(keys, ["at the start", "after training"], loc="outside lower center", ncols=2, frameon=False)
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error


def _draw_gate(axes: Axes, spread: Spread, name: str) -> None:
    """Densities over (0, 1); nothing where the run's layer has no such gate."""
    if name not in spread.start:
        axes.set_axis_off()
        return
    edges = [number / BINS for number in range(BINS + 1)]
    heights = []
    for values in (spread.start[name], spread.trained[name]):
        counts = torch.histc(values.float().flatten(), BINS, 0, 1)
        heights.append((counts * BINS / counts.sum()).tolist())
    axes.stairs(heights[0], edges, fill=True, color=_GREY)
    axes.stairs(heights[1], edges, color=f"C{GATES.index(spread.gate) % 10}", linewidth=1.4)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _run_directories(path: Path) -> list[Path]:
    """The path itself, or of a comparison the first seed of each gate."""
    if not (path / "comparison.yaml").is_file():
        return [path]
    found = []
    for gate in GATES:
        begun = [file.parent for file in path.glob(f"{gate}_seed*/last.pt")]
        seeds = {int(seed): run for run in begun if (seed := run.name.rpartition("seed")[2]).isdecimal()}
        found += [seeds[seed] for seed in sorted(seeds)[:1]]
    if not found:
        raise UserError(f"{path} is a comparison without a run so far")
    return found


def _activations(model: nn.Module, layer_inputs: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        found: dict[str, Tensor] = model.recurrent.gate_activations(layer_inputs())  # type: ignore[operator,union-attr]
    return found


_Prepared = tuple[nn.Module, Callable[[], Tensor]]


def _adding(saved: dict[str, Any], source: str) -> _Prepared:
    options = from_dict(AddingOptions, saved["config"], source=source)
    device.seed_everything(options.seed)
    inputs, _ = adding_batch(stream(options.seed, Purpose.TEST), options.seq_length, SEQUENCES)
    return train_adding.build_model(options), lambda: inputs


def _copy(saved: dict[str, Any], source: str) -> _Prepared:
    options = from_dict(CopyOptions, saved["config"], source=source)
    device.seed_everything(options.seed)
    model = train_copy.build_model(options)
    ids, _ = copy_batch(stream(options.seed, Purpose.TEST), options.time_lag, SEQUENCES, delimiter=options.delimiter)
    return model, lambda: model.encoded(ids)


def _images(saved: dict[str, Any], source: str) -> _Prepared:
    options = from_dict(ImagesOptions, saved["config"], source=source)
    pictures = load_pictures(options.dataset_type, options.data, options.seed)
    device.seed_everything(options.seed)
    pixels, _ = pictures.test.batch(slice(0, SEQUENCES), _CPU)
    return train_images.build_model(options, pictures), lambda: pixels


def _language(saved: dict[str, Any], source: str) -> _Prepared:
    options = from_dict(LanguageOptions, saved["config"], source=source)
    corpus = Corpus.load(locate(options.data), level=options.level)
    if list(corpus.vocabulary.tokens) != saved["vocabulary"]:
        raise UserError(f"{options.data} has changed: its vocabulary is another than that of {source}")
    device.seed_everything(options.seed)
    model = train_language.build_model(options, len(corpus.vocabulary))
    ids = corpus.columns("test", SEQUENCES)[: options.seq_length]
    return model, lambda: model.embedded(ids)


_PREPARE: dict[str, Callable[[dict[str, Any], str], _Prepared]] = {
    ADDING: _adding,
    COPY: _copy,
    IMAGES: _images,
    LANGUAGE: _language,
}
