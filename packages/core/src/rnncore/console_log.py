"""What the core logs, such as that it compiles, shown to whoever runs a command; a library leaves that to its user."""

import logging

import click


class _Console(logging.Handler):
    """Prints to the standard error of the moment, which tests and notebooks exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def show_log() -> None:
    """From now on, what the core logs is printed, down to notes; calling it again changes nothing."""
    logger = logging.getLogger("rnncore")
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
        logger.setLevel(logging.INFO)
