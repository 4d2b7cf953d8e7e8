"""Runs of the commands on the tiny corpus."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from revrnn.train import main


@pytest.fixture(scope="module")
def arguments(sandbox: Path, tiny_words: Callable[..., list[str]]) -> list[str]:
    """The corpus and small sizes, for ``revrnn-train``."""
    return tiny_words("revrnn-train")


@pytest.fixture(scope="module")
def train(arguments: list[str], runner: Callable[..., Callable[..., Path]]) -> Callable[..., Path]:
    """Runs of ``revrnn-train`` at small sizes."""
    return runner(main, arguments)


@pytest.fixture
def refused(arguments: list[str], refusal: Callable[[click.Command, Sequence[str]], str]) -> Callable[..., str]:
    """``refused(*words)`` runs a command that must end with status 2 and one line of error, which it returns.

    ``command`` is the command; ``revrnn-train`` gets the small sizes first.
    """

    def run(*words: str, command: click.Command = main) -> str:
        return refusal(command, [*arguments, *words] if command is main else words)

    return run
