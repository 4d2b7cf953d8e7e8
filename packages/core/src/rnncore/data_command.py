"""The command ``rnn-data``: lists, gets, verifies and finds data sets."""

from collections.abc import Sequence
from pathlib import Path

import click

from rnncore import datasets, fetch
from rnncore.core_datasets import CORE
from rnncore.dataset_description import Dataset
from rnncore.dataset_verification import verify
from rnncore.errors import UserError
from rnncore.plain_command import PlainCommand


def command(known: Sequence[Dataset] = CORE) -> click.Group:
    """The click group ``rnn-data`` over the given data sets."""

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    def rnn_data() -> None:
        """Get data sets, and see what is there. The environment variable RNN_DATA names the directory for them."""

    rnn_data.command_class = PlainCommand

    @rnn_data.command("list")
    def list_command() -> None:
        """List the data sets: name, aliases, size, where it is installed, description."""
        _list(known)

    @rnn_data.command("get")
    @click.argument("names", metavar="NAME...", nargs=-1, required=True)
    @click.option(
        "--from",
        "origin",
        metavar="DIR_OR_FILE",
        help="Take local copies (files, archive or raw file); replaces what is there.",
    )
    @click.option("--force", is_flag=True, help="With --from: install the data even if a check fails.")
    def get_command(names: Sequence[str], origin: str | None, force: bool) -> None:
        """Download data sets, or take them from local copies; check, prepare and install them.

        rnn-data list shows their names.
        """
        if force and origin is None:
            raise UserError("--force goes with --from: a download with a wrong checksum is never installed")
        _get([datasets.find(name, known) for name in names], origin, force)

    @rnn_data.command("verify")
    @click.argument("names", metavar="NAME...", nargs=-1, required=True)
    def verify_command(names: Sequence[str]) -> None:
        """Check installed files, one line each. Exit status 1: a file is damaged; 2: a data set is not there."""
        _verify([datasets.find(name, known) for name in names])

    @rnn_data.command("path")
    @click.argument("name")
    def path_command(name: str) -> None:
        """Print the directory of an installed data set."""
        click.echo(datasets.installed(datasets.find(name, known)))

    return rnn_data


def _list(known: Sequence[Dataset]) -> None:
    rows = [("NAME", "ALIASES", "SIZE", "WHERE", "DESCRIPTION")]
    rows += [
        (dataset.name, ", ".join(dataset.aliases), f"{dataset.size_mb} MB", _where(dataset), dataset.description)
        for dataset in known
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join((*cells, row[4])))


def _where(dataset: Dataset) -> str:
    if dataset.embedded is not None:
        return "embedded"
    directory = datasets.data_directory() / dataset.name
    missing = datasets.missing_files(dataset, directory)
    if not missing:
        return str(directory)
    return "not installed" if len(missing) == len(dataset.files) else f"incomplete: no {missing[0]}"


def _get(wanted: Sequence[Dataset], origin: str | None, force: bool) -> None:
    """Install each data set; one that fails does not keep the others from being installed."""
    failed = False
    for dataset in wanted:
        try:
            directory = fetch.get(dataset, origin=None if origin is None else Path(origin), force=force)
            click.echo(f"{dataset.name}: {directory}")
        except UserError as error:
            error.show()
            failed = True
    if failed:
        raise click.exceptions.Exit(UserError.exit_code)


def _verify(wanted: Sequence[Dataset]) -> None:
    damaged = False
    for dataset in wanted:
        for finding in verify(dataset, datasets.installed(dataset)):
            name = f"{dataset.name}/{finding.file}" if finding.file else dataset.name
            click.echo(f"{name}: {'ok' if finding.ok else 'NOT OK'}: {finding.message}")
            damaged = damaged or not finding.ok
    if damaged:
        raise click.exceptions.Exit(1)


main = command()
