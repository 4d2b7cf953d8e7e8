"""What torch and numpy say of memory that they do not get, as one line; all other errors as they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flags import command, flag
from rnncore.out_of_memory import told_in_one_line

Refusal = Callable[[click.Command, list[str]], str]

UNCOUNTABLE = ": a tensor of more numbers than can be counted was asked for"
GPU = "CUDA out of memory. Tried to allocate 20.25 GiB. GPU 0 has a total capacity of 79.10 GiB of which 4 GiB is free."

ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "torch": (lambda: torch.empty(2**50), ": another 4.0 PiB were asked for"),
    "torch-eye": (lambda: torch.eye(10**8), ": another 35.5 PiB were asked for"),
    "numpy": (lambda: np.zeros(2**50), ": another 8.0 PiB were asked for"),
    "python": (lambda: [0] * 2**58, ""),
    "storage": (lambda: torch.empty(2**40, 2**40), UNCOUNTABLE),
    "numel": (lambda: torch.zeros(1).expand(2**40, 2**40), UNCOUNTABLE),
    "beyond-int64": (lambda: torch.empty(2, 10**26), UNCOUNTABLE),
    "product": (lambda: torch.nn.Linear(1, 4 * (2**62)), UNCOUNTABLE),
    "arange": (lambda: torch.arange(10**26), UNCOUNTABLE),
    "list": (lambda: [0] * 10**26, UNCOUNTABLE),
    "numpy-axis": (lambda: np.zeros(10**26), UNCOUNTABLE),
    "numpy-axes": (lambda: np.zeros((2**40, 2**40)), UNCOUNTABLE),
}


def fails(error: BaseException) -> Callable[[], object]:
    def run() -> None:
        raise error

    return run


ERRORS["gpu"] = fails(torch.OutOfMemoryError(GPU)), " on the GPU: another 20.2 GiB were asked for"
ERRORS["cublas"] = fails(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")), " on the GPU"
ERRORS["system"] = fails(OSError(12, "Cannot allocate memory")), ""


@dataclass(frozen=True, kw_only=True)
class Options:
    case: str = flag("", "--case", help="what to do")


@command(Options, name="large")
def main(options: Options) -> None:
    """Do it."""
    ERRORS[options.case][0]()


@pytest.mark.parametrize("case", ERRORS)
def test_a_command_tells_it_in_one_line(case: str, refusal: Refusal) -> None:
    line = f"Error: there is not enough memory{ERRORS[case][1]}; use smaller sizes or a smaller batch\n"
    assert refusal(main, ["--case", case]) == line


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), RuntimeError),
        (lambda: torch.zeros(2, -1), RuntimeError),
        (lambda: torch.zeros(2) + "2", TypeError),
        (lambda: np.zeros(3) + np.zeros(2), ValueError),
        (lambda: math.exp(1000), OverflowError),
        (fails(OSError(28, "No space left on device")), OSError),
        (fails(UserError("the file says: out of memory")), UserError),
        (fails(KeyboardInterrupt()), KeyboardInterrupt),
    ],
)
def test_other_errors_stay_as_they_are(action: Callable[[], object], kind: type[BaseException]) -> None:
    with pytest.raises(kind) as before:
        action()
    with pytest.raises(kind) as found, told_in_one_line():
        action()
    assert (type(found.value), str(found.value)) == (type(before.value), str(before.value))


def test_a_checkpoint_that_does_not_fit_is_not_called_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "last.pt", {"kind": "x"})
    monkeypatch.setattr(torch, "load", lambda *_, **__: torch.empty(2**50))
    with pytest.raises(UserError, match="not enough memory"), told_in_one_line():
        checkpoint.load(tmp_path / "last.pt")
