"""The binary tree that syntactic distances induce (Shen et al. 2019, arXiv 1810.09536, section 5.2), and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A word, or what lies left and right of a split.
Tree = str | tuple["Tree", "Tree"]


def tree_of(words: Sequence[str], distances: Sequence[float]) -> Tree:
    """Splits before the word of the largest distance (of equal ones, the first), and goes on left and right of it.

    Args:
        words: Of the sentence, one at least.
        distances: A word's is to the word before it; that of the first word is not used.

    Raises:
        ValueError: There is no word, or not a distance for each.
    """
    if not words or len(words) != len(distances):
        raise ValueError(f"{len(words)} words need as many distances, one at least, not {len(distances)}")
    if len(words) == 1:
        return words[0]
    place = split_of(distances)
    return tree_of(words[:place], distances[:place]), tree_of(words[place:], distances[place:])


def split_of(distances: Sequence[float]) -> int:
    """Where the first split lies: the number of words before it."""
    return max(range(1, len(distances)), key=lambda place: (distances[place], -place))


def bracketed(tree: Tree) -> str:
    """``((the company) (said so))``."""
    return tree if isinstance(tree, str) else f"({bracketed(tree[0])} {bracketed(tree[1])})"


def draw(words: Sequence[str], distances: Sequence[float], output: Path) -> None:
    """Draws the tree above the words, and the distance of each below them.

    Raises:
        UserError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; a Figure without pyplot needs no screen

    figure = Figure(figsize=(max(5.0, 0.75 * len(words) + 1), 6), layout="constrained", dpi=120)
    if output.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw to {output}: give a name that ends in .png, .pdf or .svg")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _branches(above, tree_of(words, distances), 0)
    above.set_axis_off()
    below.bar(range(1, len(words)), distances[1:], width=0.6)
    below.set_ylabel("distance to the word before")
    below.set_xticks(range(len(words)), words, rotation=45, ha="right")
    below.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(output)
    except OSError as error:
        raise cannot_write(output, error) from error


def _branches(axes: Axes, tree: Tree, first: int) -> tuple[float, int, int]:
    """Draws a tree whose first word has this number: where its root is, its height, and its words."""
    if isinstance(tree, str):
        axes.text(first, -0.2, tree, ha="center", va="top", rotation=45)
        return float(first), 0, 1
    left, left_height, before = _branches(axes, tree[0], first)
    right, right_height, after = _branches(axes, tree[1], first + before)
    height = 1 + max(left_height, right_height)
    axes.plot([left, left, right, right], [left_height, height, height, right_height], color="black", linewidth=1.0)
    return (left + right) / 2, height, before + after
