"""Runs of the commands on the tiny corpus."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from revrnn.train import main

TINY = {"emb_size": 16, "h_size": 12, "batch_size": 4, "bptt": 10, "threads": 1, "device": "cpu", "log_interval": 5}
SMALL = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def arguments(sandbox: Path, corpus: Path) -> list[str]:
    """The corpus and small sizes, for ``revrnn-train``."""
    return ["--data", str(corpus), *SMALL]


@pytest.fixture(scope="module")
def train(sandbox: Path, arguments: list[str]) -> Callable[..., Path]:
    """``train(*words)`` runs ``revrnn-train`` at small sizes in this process and returns the run directory."""
    count = 0

    def run(*words: str) -> Path:
        nonlocal count
        count += 1
        main([*arguments, "--run_dir", f"run{count}", *words], standalone_mode=False)
        return sandbox / f"run{count}"

    return run


@pytest.fixture
def refused(arguments: list[str], refusal: Callable[[click.Command, Sequence[str]], str]) -> Callable[..., str]:
    """``refused(*words)`` runs a command that must end with status 2 and one line of error, which it returns.

    ``command`` is the command; ``revrnn-train`` gets the small sizes first.
    """

    def run(*words: str, command: click.Command = main) -> str:
        return refusal(command, [*arguments, *words] if command is main else words)

    return run
