"""``selfish-distances``: the syntax that an ON-LSTM finds in a sentence, as text and as a picture."""

from pathlib import Path

import click
import torch
from rnncore.errors import UserError
from rnncore.generation import EOS, split_text
from rnncore.plain_command import plain_command

from selfish.onlstm_model import ONLSTMModel
from selfish.saved_model import SavedModel, load
from selfish.syntax_tree import bracketed, draw, tree_of


@plain_command("selfish-distances")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@click.option("--text", required=True, help="The sentence; words are separated by spaces, as in the model's corpus.")
@click.option(
    "--layer", type=click.IntRange(1), default=2, show_default=True, help="The layer to ask; the paper's is 2."
)
@click.option(
    "--gate",
    type=click.Choice(["forget", "input"]),
    default="forget",
    show_default=True,
    help="The master gate that tells the distances; the paper's is the forget gate.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("distances.png"),
    show_default=True,
    help="The picture; its suffix decides the format.",
)
def main(checkpoint: Path, text: str, layer: int, gate: str, output: Path) -> None:
    """Print the syntactic distances of a sentence and the tree that they induce, and draw both.

    CHECKPOINT is of selfish-train-onlstm, or its run directory.
    """
    saved = load(checkpoint)
    words = split_text(text, saved.options.level)
    distances = distances_of(saved, words, layer=layer, gate=gate)
    width = max(map(len, words))
    for number, (word, distance) in enumerate(zip(words, distances, strict=True)):
        click.echo(f"{word:{width}}  {distance:.4f}" if number else word)
    click.echo(bracketed(tree_of(words, distances)))
    draw(words, distances, output)
    click.echo(f"picture: {output}")


@torch.no_grad()
def distances_of(saved: SavedModel, words: list[str], *, layer: int = 2, gate: str = "forget") -> list[float]:
    """The distance of each word to the word before it, as the model tells when it reads the word.

    Args:
        saved: An ON-LSTM.
        words: Of a sentence; it is read after a line's end.
        layer: From 1.
        gate: ``forget``, whose distance is ``1 - mean(F)``, or ``input``, ``mean(I)``.

    Raises:
        UserError: The model is another, it has fewer layers, there is no word, or a word is unknown and the vocabulary
            has no ``<unk>``.
    """
    model = saved.model
    if not isinstance(model, ONLSTMModel):
        raise UserError(f"{saved.path} is a model of {saved.command}; only an ON-LSTM tells distances")
    if layer > len(model.layers):
        raise UserError(f"--layer {layer} is not there: {saved.path} has {len(model.layers)} layers")
    if not words:
        raise UserError("--text has no words")
    ids = torch.from_numpy(saved.vocabulary.encode([EOS, *words]))[:, None]
    found = model(ids, model.initial_state(1)).distances
    assert found is not None
    distances: list[float] = found[0 if gate == "forget" else 1][layer - 1, 1:, 0].tolist()
    return distances
