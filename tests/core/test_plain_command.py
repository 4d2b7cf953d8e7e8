import importlib
from importlib.metadata import entry_points

import click
import pytest
from click.testing import CliRunner
from rnncore.data_command import command as data_command
from rnncore.plain_command import plain_command


@plain_command("halve")
@click.argument("size", type=click.IntRange(0))
def halve(size: int) -> None:
    """Prints half of a size."""
    if size > 10**6:
        raise MemoryError
    click.echo(size / 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'SIZE'"),
        (["--sise", "3"], "--sise"),
        (["three"], "'three' is not a valid integer"),
        (["1000001"], "there is not enough memory; use smaller sizes"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    require_one_line(halve, arguments, said)


def test_it_runs_and_helps() -> None:
    assert CliRunner().invoke(halve, ["3"]).stdout == "1.5\n"
    assert "Prints half of a size." in CliRunner().invoke(halve, ["-h"]).stdout


def test_a_mistake_of_a_command_of_rnn_data_is_one_line() -> None:
    require_one_line(data_command(), ["get"], "Missing argument 'NAME...'")


PLAIN = ("rnn-report", "revrnn-nmt-data", "rmc-attention", "selfish-export", "selfish-distances", "urlstm-gates")


@pytest.mark.parametrize("name", PLAIN)
def test_a_mistake_of_a_command_that_states_its_own_options_is_one_line(name: str) -> None:
    script = next(iter(entry_points(group="console_scripts", name=name)), None)
    if script is None:
        pytest.skip(f"{name} is not installed")
    main = getattr(importlib.import_module(script.module), script.attr)
    require_one_line(main, ["--no_such"], "--no_such")


def require_one_line(command: click.Command, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
