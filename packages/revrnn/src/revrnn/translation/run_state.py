"""What changes while ``revrnn-nmt-train`` runs, and the checkpoints that hold it.

``last.pt`` holds all that a resumed run needs to go on as if it had never stopped; ``best.pt`` is a model by itself.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from rnncore import checkpoint, device
from rnncore.divergence import require_finite_weights
from rnncore.flags import to_dict
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog

from revrnn.translation.encoded import TranslationData
from revrnn.translation.model import Result, TranslationModel
from revrnn.translation.options import COMMAND, TranslationOptions
from revrnn.window import Bits

#: A rate that has decayed below this, or a hundredth of the first one if that is less, ends the run.
SMALLEST_RATE = 1e-3


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``batch`` is the next of the epoch under way; ``best`` is the least validation loss so far, ``before`` that of the
    epoch before; ``bits`` are the hidden states' memory, summed over the counted batches of the epoch: normal, used,
    optimal of the encoder, then of the decoder.
    """

    options: TranslationOptions
    device: torch.device
    data: TranslationData
    model: TranslationModel
    optimizer: torch.optim.Optimizer
    run: RunDirectory
    log: RunLog
    epoch: int = 1
    batch: int = 0
    best: float = math.inf
    before: float = math.inf
    bits: list[float] = field(default_factory=lambda: [0.0] * 6)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def out_of_steps(self) -> bool:
        """Whether ``--max_steps`` steps are done."""
        return 0 < self.options.max_steps <= self.log.global_step

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, or the rate has decayed until it is too small."""
        too_small = self.rate < min(SMALLEST_RATE, self.options.learning_rate / 100)
        decayed = too_small and not self.options.decay_method
        return self.epoch > self.options.epochs or decayed or (self.out_of_steps and self.batch == 0)

    def count(self, result: Result) -> dict[str, float]:
        """Adds a counted batch's memory; returns its ratios for the log."""
        if result.encoder_bits is None or result.decoder_bits is None:
            return {}
        both = [*result.encoder_bits, *result.decoder_bits]
        self.bits = [total + each for total, each in zip(self.bits, both, strict=True)]
        return {**ratios("encoder", result.encoder_bits), **ratios("decoder", result.decoder_bits)}


def ratios(side: str, bits: Bits) -> dict[str, float]:
    """How many times less memory than stored states the buffers take, and the least possible would."""
    numbers = {f"{side}_saving": bits.normal / bits.used} if bits.used else {}
    return numbers | ({f"{side}_optimal_saving": bits.normal / bits.optimal} if bits.optimal else {})


def save_last(training: Training) -> None:
    """Write ``last.pt`` and keep its predecessor.

    Raises:
        UserError: The disk refuses; a loss or a weight is not finite, and what is there stays.
    """
    require_finite_weights(training.model, training.log.global_step)
    place = {name: getattr(training, name) for name in ("epoch", "batch", "best", "before", "bits")}
    checkpoint.save(
        training.run.last,
        {
            **_description(training),
            "optimizer": training.optimizer.state_dict(),
            "rng": device.rng_state(training.device),
            "place": place,
            "log": training.log.state_dict(),
        },
    )


def save_best(training: Training) -> None:
    """Write ``best.pt``. Raises UserError when the disk refuses."""
    checkpoint.save(training.run.best, _description(training), keep_previous=False)


def restore(training: Training, saved: dict[str, Any]) -> None:
    """Go on from what `save_last` wrote."""
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    for name, value in saved["place"].items():
        setattr(training, name, value)
    training.log.load_state_dict(saved["log"])
    device.restore_rng(saved["rng"], training.device)


def _description(training: Training) -> dict[str, Any]:
    """What a checkpoint needs to be a model by itself."""
    source, target = training.data.vocabularies
    return {
        "kind": COMMAND,
        "config": to_dict(training.options),
        "vocabularies": {"source": source, "target": target},
        "lower": training.data.lower,
        "model": training.model.state_dict(),
    }
