"""A picture of the attention of one translated sentence."""

from collections.abc import Sequence
from pathlib import Path

from rnncore.atomic_file import cannot_write
from rnncore.errors import UserError
from torch import Tensor


def draw_attention(path: Path, source: Sequence[str], target: Sequence[str], attention: Tensor) -> None:
    """Draws weights ``[target words, source words]`` as a grid, in the format of the path's suffix.

    Raises:
        UserError: matplotlib knows no such format, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 0.35 * len(source), 1.5 + 0.3 * len(target)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    weights = attention[: len(target), : len(source)].float().cpu().numpy()
    image = axes.imshow(weights, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(range(len(target)), target, parse_math=False)
    figure.colorbar(image, label="attention", shrink=0.8)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise cannot_write(path, error) from error
    except ValueError as error:
        raise UserError(f"cannot draw {path}: {error}") from None
