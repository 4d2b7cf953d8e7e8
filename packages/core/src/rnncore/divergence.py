"""Training whose numbers are no longer numbers: it stops, names the step, and keeps what was saved before."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from rnncore.errors import UserError
from rnncore.out_of_memory import told_in_one_line
from rnncore.run_log import RunLog

DIVERGED = "the weights are no longer finite numbers; use a smaller --lr or --clip"


def require_finite_step(loss: Tensor, norm: Tensor) -> None:
    """Refuses a step before the optimizer takes it; only on CPU, as a GPU is asked when a line of the log is due.

    Args:
        loss: A scalar.
        norm: The norm of its gradient, a scalar.

    Raises:
        UserError: The norm is not finite.
    """
    if norm.device.type == "cpu" and not math.isfinite(norm):
        numbers = f"the loss is {float(loss)} and the norm of its gradient {float(norm)}"
        raise UserError(f"{numbers}; use a smaller --lr or --clip")


def require_finite_weights(model: nn.Module, step: int) -> None:
    """To be called before a checkpoint replaces a good one. Raises UserError where a weight is not finite."""
    if diverged(model):
        raise UserError(f"stopped after step {step}: {DIVERGED}")


def diverged(model: nn.Module) -> bool:
    """Whether a weight is NaN or infinite; waits for the device."""
    return not all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@contextmanager
def numbered_step(log: RunLog, model: nn.Module, *, saved: bool) -> Iterator[None]:
    """Adds to a UserError of the step under way its number and, if ``saved``, that the last checkpoint is from before.

    Where the weights are what went wrong, the line says that instead. Memory that does not suffice is a UserError, too.
    """
    try:
        with told_in_one_line():
            yield
    except UserError as error:
        reason = DIVERGED if diverged(model) else error.message
        kept = "; the last checkpoint is from before it" if saved else ""
        raise UserError(f"stopped at step {log.global_step + 1}: {reason}{kept}") from error
