"""TensorBoard's event files of a run. They are a convenience: when they cannot be written, training goes on."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventFiles:
    """Scalars of one run, in one folder; the writer is made at the first scalar."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._broken = False

    def write(self, group: str, step: int, numbers: dict[str, float]) -> str | None:
        """Add scalars ``group/name`` at a step.

        The first call hides what an earlier process wrote at this step and after it.

        Returns:
            A warning when it did not work, once; later calls do nothing.
        """
        if self._broken:
            return None
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            for name, value in numbers.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()
        except Exception as error:  # absent, at odds with protobuf, full disk: none is worth a run
            self._broken = True
            return f"warning: no TensorBoard events for this run: {error}"
        return None

    def close(self) -> None:
        """Close the writer."""
        if self._writer is not None and not self._broken:
            with contextlib.suppress(OSError):
                self._writer.close()
