"""The flags that every training command takes, and what ``--dry_run`` prints."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rnncore.config_file import config_text
from rnncore.flags import flag, to_dict

if TYPE_CHECKING:
    import torch

SECTION = "Run"


def device_problem(text: str) -> str | None:
    """What is wrong with the text of ``--device``, or None; whether the device exists is not asked here."""
    return None if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text) else "must be auto, cpu, cuda or cuda:N"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how long a run goes. A training command's options inherit these fields; ``--config`` is no field.

    The flags yield their abbreviations: the original commands had none of them.
    """

    run_dir: Path | None = flag(
        None, "--run_dir", help="directory that the run writes; otherwise a new one", section=SECTION, yields=True
    )
    resume: str | None = flag(
        None,
        "--resume",
        optional_value="",
        metavar="PATH",
        help="go on from a checkpoint or run directory; without a path, from --run_dir",
        section=SECTION,
        yields=True,
    )
    dry_run: bool = flag(
        False,
        "--dry_run",
        help="build the model, print the configuration and the number of parameters, and exit",
        section=SECTION,
        yields=True,
    )
    max_steps: int = flag(
        0,
        "--max_steps",
        help="stop after so many optimizer steps, evaluate and save; 0: no limit",
        minimum=0,
        section=SECTION,
        yields=True,
    )
    device: str = flag(
        "auto",
        "--device",
        help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one",
        check=device_problem,
        section=SECTION,
        yields=True,
    )
    amp: Literal["bf16"] | None = flag(
        None, "--amp", help="mixed precision: bf16 computes matrix products in bfloat16", section=SECTION, yields=True
    )
    threads: int | None = flag(
        None, "--threads", help="CPU threads; otherwise torch's choice", minimum=1, section=SECTION, yields=True
    )


def describe(options: Any, model: "torch.nn.Module") -> str:
    """The resolved configuration as YAML that ``--config`` reads, and the number of parameters as a last comment.

    A parameter that several modules share counts once. The second number counts those that training changes
    (``requires_grad``).
    """
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return f"{config_text(to_dict(options))}# parameters: {total:,} ({trainable:,} trainable)\n"
