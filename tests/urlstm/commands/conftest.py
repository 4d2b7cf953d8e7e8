"""Tiny runs of the commands."""

import random
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from urlstm import train_adding, train_copy, train_images, train_language

MAINS: dict[str, click.Command] = {
    "adding": train_adding.main,
    "copy": train_copy.main,
    "images": train_images.main,
    "language": train_language.main,
}


def text(count: int, seed: int) -> str:
    """``count`` words in lines of nine; each word says much about the next."""
    draw, word, words = random.Random(seed), 0, []
    for _ in range(count):
        word = (3 * word + 1 + (draw.random() < 0.3)) % 13
        words.append("abcdefghijklm"[word])
    return "".join(" ".join(words[k : k + 9]) + "\n" for k in range(0, count, 9))


@pytest.fixture(scope="module")
def sandbox(sandbox: Path) -> Path:
    """With a corpus ``text`` of few words."""
    (sandbox / "text").mkdir()
    for number, (split, count) in enumerate({"train": 800, "valid": 200, "test": 90}.items()):
        (sandbox / "text" / f"{split}.txt").write_text(text(count, number), encoding="utf-8")
    return sandbox


@pytest.fixture(scope="module")
def launch(
    sandbox: Path, tiny_words: Callable[..., list[str]], runner: Callable[..., Callable[..., Path]]
) -> Callable[..., Path]:
    """``launch(task, *words)`` runs a task's command at tiny sizes in this process; gives the run directory.

    ``words`` are parts of a command line.
    """
    runs = {task: runner(main, tiny_words(f"urlstm-{task}"), task) for task, main in MAINS.items()}

    def run(task: str, *words: str) -> Path:
        data = ["--data", "text"] if task == "language" else []
        return runs[task](*data, *(part for word in words for part in word.split()))

    return run


@pytest.fixture
def refused(sandbox: Path, refusal: Callable[[click.Command, list[str]], str]) -> Callable[..., str]:
    """``refused(command, *words)``: a command that must end with status 2 and one line of error, which it returns."""
    return lambda command, *words: refusal(command, list(words))
