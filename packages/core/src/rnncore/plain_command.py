"""Click commands of a few options that are stated at the command itself, in the manner of those of `rnncore.flags`."""

from collections.abc import Callable
from typing import Any

import click

from rnncore.errors import UserError
from rnncore.out_of_memory import told_in_one_line


def plain_command(name: str) -> Callable[[Callable[..., object]], click.Command]:
    """Decorate a function that has click's options to become the `PlainCommand` ``name``; ``-h`` is ``--help``."""
    return click.command(name, cls=PlainCommand, context_settings={"help_option_names": ["-h", "--help"]})


class PlainCommand(click.Command):
    """A command of which a mistake on the command line, and memory that does not suffice, are one line and status 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Part of click's interface."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:  # click would print a usage line above it
            raise UserError(error.format_message()) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Part of click's interface: runs the command."""
        with told_in_one_line():
            return super().invoke(ctx)
