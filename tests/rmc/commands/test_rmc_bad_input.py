"""Mistakes on the command lines: one clear line each."""

from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("task", "words", "expected"),
    [
        ("memory", "--adaptivesoftmax --cutoffs 12 5", "--cutoffs must increase, from 1 or more, but they are 12 5"),
        ("memory", "--adaptivesoftmax --cutoffs 5 5", "--cutoffs must increase"),
        ("memory", "--adaptivesoftmax --cutoffs 31 99", "--cutoffs 31 99: no word lies beyond"),
        ("memory", "--adaptivesoftmax --cutoffs", "--cutoffs (none): no word lies beyond"),
        ("rnn", "--adaptivesoftmax --cutoffs 12 5", "--cutoffs must increase"),
        ("memory", "--gatestyle units", "--gatestyle"),
        ("memory", "--memslots 0", "--memslots"),
        ("memory", "--variant tensorflow", "--variant"),
        ("memory", "--name a/b", "--name 'a/b' must be the name of a folder, not a path"),
        ("memory", "--name ..", "--name '..' must be the name of a folder, not a path"),
        ("memory", "--name a --run_dir b", "--name a and --run_dir b both name the run"),
        ("memory", "--onnx-export nowhere/m.onnx", "--onnx-export"),
        ("memory", "--data nothing-here", "is no directory and no data set"),
        ("memory", "--batch_size 900", "train.txt has"),
        ("memory", "--resume 3 --name absent", "has no checkpoint of the end of epoch 3 (there are: none)"),
        ("rnn", "--tied --untied", "--tied and --untied contradict each other"),
        ("rnn", "--tied --nhid 12", "--tied shares one weight, which --emsize 16 and --nhid 12 do not allow"),
        ("rnn", "--save nowhere/m.pt", "cannot write --save nowhere/m.pt: there is no folder nowhere"),
        ("rnn", "--model QRNN", "--model"),
        ("farthest", "--objects 1", "--objects"),
        ("farthest", "--compare_with nowhere", "--compare_with nowhere holds no run"),
    ],
)
def test_mistake_is_one_line(task: str, words: str, expected: str, refused: Refused, sandbox: Path) -> None:
    given = words.split()
    assert expected in refused(task, *given)
    assert not (sandbox / "runs").exists()
