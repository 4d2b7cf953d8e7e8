"""What changes while ``revrnn-nmt-train`` runs."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from rnncore.epochs import finished, learning_rate
from rnncore.run_directory import RunDirectory
from rnncore.run_log import RunLog
from rnncore.run_state import Stateful

from revrnn.translation.encoded import TranslationData
from revrnn.translation.model import Result, TranslationModel
from revrnn.translation.options import COMMAND, TranslationOptions
from revrnn.window import Bits

#: A rate that has decayed below this, or a hundredth of the first one if that is less, ends the run.
SMALLEST_RATE = 1e-3


@dataclass
class Tally:
    """``before``: the validation loss of the epoch before.

    ``bits``: the hidden states' memory, summed over the counted batches of the epoch under way: normal, used, optimal
    of the encoder, then of the decoder.
    """

    before: float = math.inf
    bits: list[float] = field(default_factory=lambda: [0.0] * 6)

    @property
    def encoder(self) -> Bits:
        """Of the encoder."""
        return Bits(*self.bits[:3])

    @property
    def decoder(self) -> Bits:
        """Of the decoder."""
        return Bits(*self.bits[3:])

    @property
    def savings(self) -> dict[str, float]:
        """The memory ratios of the epoch under way, as far as it was counted; see `ratios`."""
        return {**ratios("encoder", self.encoder), **ratios("decoder", self.decoder)}

    def count(self, result: Result) -> dict[str, float]:
        """Adds a counted batch's memory; returns its ratios for the log."""
        if result.encoder_bits is None or result.decoder_bits is None:
            return {}
        both = [*result.encoder_bits, *result.decoder_bits]
        self.bits = [total + each for total, each in zip(self.bits, both, strict=True)]
        return {**ratios("encoder", result.encoder_bits), **ratios("decoder", result.decoder_bits)}

    def begin(self, valid_loss: float) -> None:
        """Begins the epoch after one with this validation loss."""
        self.before, self.bits = valid_loss, [0.0] * 6

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"before": self.before, "bits": self.bits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.before, self.bits = state["before"], state["bits"]


@dataclass(kw_only=True)
class Training:
    """All that changes while a run goes on, and what it reads.

    ``row`` is the next batch of the epoch under way; ``best`` is the least validation loss so far.
    """

    options: TranslationOptions
    device: torch.device
    data: TranslationData
    model: TranslationModel
    optimizer: torch.optim.Optimizer
    run: RunDirectory
    log: RunLog
    epoch: int
    row: int = 0
    best: float = math.inf
    tally: Tally = field(default_factory=Tally)
    command: str = COMMAND
    vocabulary: None = None
    state: None = None

    def parts(self) -> dict[str, Stateful]:
        """What else changes while it goes on."""
        return {"optimizer": self.optimizer, "tally": self.tally}

    def description(self) -> dict[str, Any]:
        """What a model needs by itself, beside its options."""
        source, target = self.data.vocabularies
        return {"vocabularies": {"source": source, "target": target}, "lower": self.data.lower}

    @property
    def rate(self) -> float:
        """The learning rate."""
        return learning_rate(self.optimizer)

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, or the rate has decayed until it is too small."""
        return self.trained or finished(self, self.options.epochs)

    @property
    def trained(self) -> bool:
        """Whether all epochs are done, or the rate has decayed until it is too small."""
        too_small = self.rate < min(SMALLEST_RATE, self.options.learning_rate / 100)
        return self.epoch > self.options.epochs or (too_small and not self.options.decay_method)


def ratios(side: str, bits: Bits) -> dict[str, float]:
    """How many times less memory than stored states the buffers take, and the least possible would."""
    return {f"{side}_saving": bits.saving, f"{side}_optimal_saving": bits.best_saving} if bits.normal else {}
