"""Sizes beyond the memory: one clear line, and a run under way keeps what it has saved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rnncore.divergence import numbered_step

Refused = Callable[..., str]

SIZES = {
    "awdlm-train": "--nhid",
    "revrnn-train": "--emb_size",
    "revrnn-nmt-train": "-rnn_size",
    "selfish-train": "--nhid",
    "selfish-train-onlstm": "--nhid",
    "selfish-train-mos": "--n_experts",
    "rmc-train": "--headsize",
    "rmc-train-rnn": "--nhid",
    "rmc-nth-farthest": "--headsize",
    "urlstm-adding": "--hidden_size",
    "urlstm-copy": "--hidden_size",
    "urlstm-images": "--hidden_size",
    "urlstm-language": "--hidden_size",
}


@pytest.mark.parametrize(("command", "flag"), SIZES.items(), indirect=["command"])
@pytest.mark.parametrize("digits", [14, 18, 26])  # no processor can address so much, whatever memory there is
def test_a_model_that_is_too_large(command: Any, flag: str, digits: int, refused: Refused) -> None:
    line = refused(command, flag, "1" + digits * "0", "--run_dir", "never")
    assert line.startswith("Error: there is not enough memory: a")
    assert line.endswith(" asked for; use smaller sizes or a smaller batch\n")
    assert not Path("never").exists()


def test_a_step_that_needs_too_much(
    command: Any,
    refused: Refused,
    assert_sound: Callable[..., None],
    replace_everywhere: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def short_of_memory(log: Any, model: Any, *, saved: bool) -> Iterator[None]:
        with numbered_step(log, model, saved=saved):
            if log.global_step == 8:
                torch.empty(2**50)
            yield

    command.words()  # what it begins with is made before
    replace_everywhere(monkeypatch, numbered_step, short_of_memory)
    run = Path(f"short-{command.name}")
    assert refused(command, "--run_dir", str(run), "--checkpoint_interval", "4") == (
        "Error: stopped at step 9: there is not enough memory: another 4.0 PiB were asked for; use smaller sizes or a "
        "smaller batch; the last checkpoint is from before it\n"
    )
    assert_sound(run / "last.pt", command.name, 8)
    monkeypatch.undo()
    command.resume(run, "--max_steps", "10")
    assert_sound(run / "last.pt", command.name, 10)
