"""Mistakes on the command lines: one clear line each."""

from collections.abc import Callable
from pathlib import Path

import pytest
from revrnn.generate import main as generate

Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--h_size", "33"], "--h_size 33 must be even"),
        (["--emb_size", "33"], "--emb_size 33 must be even"),
        (["--max_forget", "1.5"], "--max_forget must be above 0 and at most 1"),
        (["--lr_decay", "0.5"], "--lr_decay must be at least 1"),
        (["--seed", str(2**40)], "--seed must lie between"),
        (["--model", "revrnn"], "--model must be one of gru, lstm, revgru, revlstm"),
        (["--model", "lstm", "--use_reverse"], "--use_reverse needs --model revgru or revlstm"),
    ],
)
def test_a_command_line_that_cannot_run(words: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*words, "--run_dir", "never")
    assert not Path("never").exists()


def test_no_run_to_write_text_with(refused: Refused) -> None:
    assert "there is no checkpoint nowhere" in refused("--run_dir", "nowhere", command=generate)
