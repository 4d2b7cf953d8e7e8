"""The epochs of the three training commands: windows, a step, validation, averaging, the evolution of masks.

Shapes: T time steps, B batch.
"""

from functools import partial

import torch
from rnncore.asgd import scaled_lr
from rnncore.cuda_graph import GraphedStep
from rnncore.divergence import require_finite_step
from rnncore.epochs import finished, learning_rate, length_multiple, train_epoch
from rnncore.evaluation import evaluate
from rnncore.interrupts import Interrupt
from rnncore.run_state import keep_best, save_last
from rnncore.windows import random_length
from torch import Tensor

from selfish.run_state import Training, gradients_to_save


def train(training: Training, interrupt: Interrupt) -> None:
    """The epochs (Liu et al. 2021, section 3): train sparse to sparse, validate, let masks evolve.

    SGD goes over to averages when the validation loss stalls; masks go on evolving, and weights that grow then begin
    averages of their own.
    """
    log, text = training.log, training.texts["train"]
    step, length, save = partial(_step, training), partial(_length, training), partial(_save, training)
    while not (finished(training, training.options.epochs) or interrupt):
        whole = train_epoch(training, text, interrupt, step, length, save)
        if interrupt and not whole:
            return
        with log.outside_step():
            loss_valid = validate(training, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            began = _after_validation(training, loss_valid)
            if training.masking is not None and not began:
                evolve(training)
            training.epoch, training.row = training.epoch + 1, 0
            training.state = training.model.initial_state(training.options.batch_size)
            save_last(training, {"gradients": {}})


def _save(training: Training) -> None:
    save_last(training, {"gradients": gradients_to_save(training)})


def _length(training: Training, left: int) -> int:
    """Of the next window, of at most ``left`` steps."""
    options, recipe = training.options, training.recipe
    if not recipe.random:
        return min(options.bptt, left)
    longest = left if recipe.longest is None else min(recipe.longest, left)
    multiple = length_multiple(training, graphed=isinstance(training.gradient, GraphedStep))
    return random_length(options.bptt, training.lengths, longest, multiple)


def _scale(training: Training, inputs: Tensor) -> float:
    """What the rate is multiplied by in this window."""
    return len(inputs) / training.options.bptt if training.recipe.random else 1.0


def _step(training: Training, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """One optimizer step on a window ``[T, B]``: the loss, and the rate. Dead weights stay 0."""
    options, model, optimizer = training.options, training.model, training.optimizer
    optimizer.zero_grad()
    loss, training.state = training.gradient(inputs, targets, training.state)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(loss, norm)
    with scaled_lr(optimizer, _scale(training, inputs)):
        rate = learning_rate(optimizer)
        optimizer.step()
    if training.masking is not None:
        training.masking.after_step(optimizer)
    training.averages.update()
    return loss, {"lr": rate}


def validate(training: Training, *, regular: bool = True) -> float:
    """The validation loss in nats per token, of the averaged weights where there are any; keeps the best model.

    ``regular``: as of `rnncore.run_state.keep_best`; not after ``--max_steps`` inside an epoch.
    """
    with training.averages.swapped_in():
        loss = evaluate(training.model, training.texts["valid"], training.options.amp)
        training.log.evaluated("valid", loss)
        keep_best(training, loss, training.recipe.copy, regular=regular)
    return loss


def _after_validation(training: Training, loss: float) -> bool:
    """What a loss that stalls brings about; whether averages began now. The masks then stay as they are once."""
    log, averages = training.log, training.averages
    if training.schedule is not None:
        rate = learning_rate(training.optimizer)
        training.schedule.step(loss)
        if (lower := learning_rate(training.optimizer)) < rate:
            log.say(f"the validation loss stalls: learning rate {lower:g}")
    elif averages.active:
        if training.epoch in training.recipe.restarts:
            averages.start()
            log.say("finetuning: from now on the weights are averaged anew")
    elif training.trigger.update(loss):
        averages.start()
        alone = "" if training.masking is None else ", each from the step at which it grows"
        log.say(f"the validation loss stalls: from now on the weights are averaged{alone}")
        return True
    return False


def evolve(training: Training) -> None:
    """Lets weights die and grow, and tells which."""
    masking = training.masking
    assert masking is not None
    masking.evolve(training.optimizer)
    training.averages.remask()
    update = masking.history.updates[-1]
    training.log.say(f"mask update at step {update.step}, death rate {update.death_rate:.4f}")
    training.log.say(masking.history.table())
    masking.history.save_table(training.run.path / "masks.csv")
