"""What the core logs, such as that it compiles, shown to whoever runs a command; a library leaves that to its user."""

import contextlib
import logging
from collections.abc import Iterator

import click


class _Console(logging.Handler):
    """Prints to the standard error of the moment, which tests and notebooks exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


@contextlib.contextmanager
def shown_log() -> Iterator[None]:
    """Meanwhile all that the core logs is printed, notes too; once, where one command runs another."""
    logger = logging.getLogger("rnncore")
    if any(isinstance(handler, _Console) for handler in logger.handlers):
        yield
        return
    console, level = _Console(), logger.level
    logger.addHandler(console)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(console)
        logger.setLevel(level)
