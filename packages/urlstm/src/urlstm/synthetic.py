"""The loop of the tasks whose sequences are made up for each step: adding and copy.

Every step trains on sequences that were never seen before, so the training loss is one of new data, too.
"""

from collections.abc import Callable

from rnncore.interrupts import Interrupt
from rnncore.run_state import save_last
from torch import Tensor

from urlstm.options import SyntheticOptions
from urlstm.run_state import Training
from urlstm.training import Evaluation, optimizer_step, validated

#: Sequences of a validation, and of the test.
VALID_SEQUENCES, TEST_SEQUENCES = 200, 1000


def train(
    training: Training,
    options: SyntheticOptions,
    interrupt: Interrupt,
    *,
    n_steps: int,
    tokens: int,
    loss_of_step: Callable[[int], Tensor],
    validate: Callable[[], Evaluation],
) -> None:
    """Trains until ``n_steps``, ``--max_steps`` or Ctrl-C; validates and saves on the way.

    Args:
        training: The run.
        options: Of the command.
        interrupt: Whether to stop.
        n_steps: Optimizer steps of the whole run.
        tokens: Time steps that one optimizer step trains on, for the log.
        loss_of_step: The loss of new sequences, which are a function of the step's number, from 0.
        validate: The evaluation of the validation set.
    """
    log = training.log
    last = min(n_steps, options.max_steps or n_steps)
    log.epoch(1, n_steps * tokens, done=log.global_step * tokens)
    training.model.train()
    while log.global_step < last and not interrupt:
        loss = optimizer_step(training, lambda: loss_of_step(log.global_step))
        log.step(loss, tokens)
        with log.outside_step():
            if log.global_step % options.valid_interval == 0:
                validated(training, validate())
            if interrupt or log.global_step == last or log.global_step % options.checkpoint_interval == 0:
                save_last(training)
    if not interrupt and log.global_step % options.valid_interval:
        validated(training, validate(), regular=False)


def batches(sequences: int, batch_size: int) -> list[int]:
    """Sizes of batches that make up so many sequences."""
    full, rest = divmod(sequences, batch_size)
    return [batch_size] * full + [rest] * (rest > 0)
