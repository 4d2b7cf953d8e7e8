"""How many weights of each parameter a sparse network keeps at the start.

Density is the share of weights that are kept, sparsity is 1 - density.
"""

import math
from collections.abc import Mapping, Sequence

from rnncore.errors import UserError

UNIFORM, ERDOS_RENYI = "uniform", "ER"
SPARSE_INITS = (UNIFORM, ERDOS_RENYI)


def checked_density(density: float) -> float:
    """``density`` itself. Raises UserError unless it is above 0 and below 1."""
    if not 0.0 < density < 1.0:
        raise UserError(
            f"--density is the share of weights kept, above 0 and below 1, not {density:g}; a dense network is trained "
            "without --sparse"
        )
    return density


def density_of_sparsity(sparsity: float) -> float:
    """``1 - sparsity``. Raises UserError unless the sparsity is above 0 and below 1."""
    if not 0.0 < sparsity < 1.0:
        raise UserError(f"--sparsity is the share of weights removed, above 0 and below 1, not {sparsity:g}")
    return 1.0 - sparsity


def initial_counts(shapes: Mapping[str, Sequence[int]], density: float, sparse_init: str) -> dict[str, int]:
    """The number of weights that each parameter keeps.

    Args:
        shapes: Of the parameters, by their names.
        density: Of all of them together.
        sparse_init: ``uniform``, the same density everywhere; or ``ER``, `erdos_renyi`.

    Raises:
        UserError: The density is not between 0 and 1, or the rule is unknown.
    """
    checked_density(density)
    if sparse_init == UNIFORM:
        densities = dict.fromkeys(shapes, density)
    elif sparse_init == ERDOS_RENYI:
        densities = erdos_renyi(shapes, density)
    else:
        raise UserError(f"--sparse_init {sparse_init} is unknown; choose from {', '.join(SPARSE_INITS)}")
    return {name: round(densities[name] * math.prod(shape)) for name, shape in shapes.items()}


def erdos_renyi(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Densities in proportion to ``(rows + columns) / (rows * columns)``, and ``density`` of all weights together.

    Small and narrow parameters come out denser (Mocanu et al. 2018, sparse evolutionary training). A density that
    would exceed 1 is 1, and the others make up for it.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    left = density * sum(sizes.values())
    found: dict[str, float] = {}
    open_names = set(shapes)
    while open_names:
        scale = left / sum(sum(shapes[name]) for name in open_names)
        full = {name for name in open_names if scale * sum(shapes[name]) > sizes[name]}
        if not full:
            break
        found |= dict.fromkeys(full, 1.0)
        left -= sum(sizes[name] for name in full)
        open_names -= full
    return {name: found.get(name, scale * sum(shape) / sizes[name]) for name, shape in shapes.items()}
