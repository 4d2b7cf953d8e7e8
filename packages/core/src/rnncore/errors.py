"""The one error that a command shows to its user."""

import click


class UserError(click.ClickException, ValueError):
    """Bad input, told in one line: what is wrong and what to do about it.

    A command that meets it prints the line to standard error and exits with status 2, without a traceback.
    A library caller can catch it as a ``ValueError``.
    """

    exit_code = 2
