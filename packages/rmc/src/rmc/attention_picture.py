"""``rmc-attention``: what the memory attends to along a sentence, as a picture.

Shapes: T words, H heads, S slots, N = S + 1 rows.
"""

from pathlib import Path

import click
import torch
from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError
from rnncore.generation import EOS, split_text
from rnncore.plain_command import plain_command
from torch import Tensor

from rmc.layer import RelationalMemory
from rmc.options import MEMORY
from rmc.saved_model import SavedModel, find, load


@plain_command("rmc-attention")
@click.argument("checkpoint", required=False)
@click.option("--text", required=True, help="The sentence.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("attention.png"), show_default=True,
              help="The picture; its suffix decides the format.")  # fmt: skip
def main(checkpoint: str | None, text: str, output: Path) -> None:
    """Draw what the memory's slots attend to along a sentence.

    CHECKPOINT is a file or run directory of rmc-train; without it, the newest run is taken. A panel for each head: the
    columns are words, the rows what the slots attend to (the slots, and the word that comes in), the mean over the
    slots that ask and over rounds of attention.
    """
    saved = load(find(checkpoint, MEMORY), MEMORY)
    words = split_text(text, "word")
    draw(attention_of(saved, words), words, output)
    click.echo(f"attention: {output}")


@torch.no_grad()
def attention_of(saved: SavedModel, words: list[str]) -> Tensor:
    """``[T, H, N]``: of the slots together, what share of each head's attention goes to each slot, and to the word.

    Raises:
        UserError: There is no word, or one is unknown and the vocabulary has no ``<unk>``.
    """
    if not words:
        raise UserError("--text is empty; give a sentence")
    ids = torch.tensor([int(index) for index in saved.vocabulary.encode([EOS, *words])])
    layer = saved.model.recurrent
    assert isinstance(layer, RelationalMemory)
    _, _, attention = layer(saved.model.embedding(ids[:, None]), return_attention=True)
    from_slots: Tensor = attention[1:, :, 0, :, :-1]  # the line end before the sentence is not shown
    return from_slots.mean((1, 3))


def draw(shares: Tensor, words: list[str], output: Path) -> None:
    """A panel for each head, of ``shares [T, H, N]``.

    Raises:
        UserError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    steps, heads, rows = shares.shape
    size = (1.6 + 0.45 * steps, 1.0 + heads * (0.35 + 0.25 * rows))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    if output.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw to {output}: give a name that ends in .png, .pdf or .svg")
    labels = [f"slot {number}" for number in range(1, rows)] + ["word"]
    panels = figure.subplots(heads, 1, squeeze=False, sharex=True)[:, 0]
    for head, axes in enumerate(panels):
        picture = axes.imshow(shares[:, head].T.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_yticks(range(rows), labels, fontsize=7)
        axes.set_title(f"head {head + 1}", fontsize=8, loc="left", pad=2)
    panels[-1].set_xticks(range(steps), words, rotation=60, ha="right", fontsize=8)
    figure.colorbar(picture, ax=list(panels), label="share of attention")
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error
