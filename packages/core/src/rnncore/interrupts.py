"""Ctrl-C that waits for the step under way, so that a run stops in a state that can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the user has asked to stop; true in a condition once they have."""

    def __init__(self) -> None:
        """Not yet."""
        self.requested = False

    def __bool__(self) -> bool:
        """Whether to stop."""
        return self.requested

    def ask(self) -> bool:
        """Whether to stop; where several processes train, `rnncore.distributed.CommonInterrupt` asks all."""
        return self.requested


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Within the block a first Ctrl-C only sets the flag that is yielded; a second one raises KeyboardInterrupt.

    Outside the main thread, where signals cannot be handled, Ctrl-C acts as always.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
