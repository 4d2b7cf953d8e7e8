"""The epochs of the three training commands: windows, a step, validation, averaging, the evolution of masks.

Shapes: T time steps, B batch.
"""

import torch
from rnncore import device
from rnncore.asgd import scaled_lr
from rnncore.divergence import numbered_step, require_finite_step
from rnncore.evaluation import evaluate
from rnncore.interrupts import Interrupt
from rnncore.run_state import keep_best, save_last
from rnncore.windows import random_length, window
from torch import Tensor

from selfish.gradient import loss_and_gradient
from selfish.run_state import Training, gradients_to_save


def train(training: Training, interrupt: Interrupt) -> None:
    """The epochs (Liu et al. 2021, section 3): train sparse to sparse, validate, let masks evolve.

    SGD goes over to averages when the validation loss stalls; masks go on evolving, and weights that grow then begin
    averages of their own.
    """
    options, log, text = training.options, training.log, training.texts["train"]
    while not (training.finished or interrupt):
        log.epoch(training.epoch, training.rows * options.batch_size, done=training.row * options.batch_size)
        training.model.train()
        stop = training.out_of_steps
        while training.row < training.rows and not stop:
            inputs, targets = window(text, training.row, _window_length(training))
            with numbered_step(log, training.model, saved=training.run.last.exists()):
                loss = _step(training, inputs, targets)
            training.row += len(inputs)
            log.step(loss, inputs.numel(), extra={"lr": training.rate * _scale(training, inputs)} if log.due else None)
            stop = bool(interrupt) or training.out_of_steps
            if stop or log.global_step % options.checkpoint_interval == 0:
                with log.outside_step():
                    save_last(training, {"gradients": gradients_to_save(training)})
        if interrupt and training.row < training.rows:
            return
        with log.outside_step():
            whole = training.row == training.rows
            loss_valid = validate(training, regular=whole)
            if not whole:  # --max_steps: the epoch goes on from what was saved
                return
            began = _after_validation(training, loss_valid)
            if training.masking is not None and not began:
                evolve(training)
            training.epoch, training.row = training.epoch + 1, 0
            training.state = training.model.initial_state(options.batch_size)
            save_last(training, {"gradients": {}})


def _window_length(training: Training) -> int:
    options, recipe, left = training.options, training.recipe, training.rows - training.row
    if not recipe.random:
        return min(options.bptt, left)
    longest = left if recipe.longest is None else min(recipe.longest, left)
    costly = training.graph is not None or device.keeps_memory_of_shapes(training.device, options.amp)
    return random_length(options.bptt, training.lengths, longest, 5 if costly else 1)


def _scale(training: Training, inputs: Tensor) -> float:
    """What the rate is multiplied by in this window."""
    return len(inputs) / training.options.bptt if training.recipe.random else 1.0


def _step(training: Training, inputs: Tensor, targets: Tensor) -> Tensor:
    """One optimizer step on a window ``[T, B]``: the loss. Dead weights stay 0."""
    options, recipe, model, optimizer = training.options, training.recipe, training.model, training.optimizer
    optimizer.zero_grad()
    loss: Tensor
    if training.graph is not None:
        loss, training.state = training.graph(inputs, targets, training.state)
    else:
        loss, training.state = loss_and_gradient(
            model,
            inputs,
            targets,
            training.state,
            activation=recipe.activation,
            temporal=recipe.temporal,
            piece=recipe.piece,
            amp=options.amp,
        )
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    require_finite_step(loss, norm)
    with scaled_lr(optimizer, _scale(training, inputs)):
        optimizer.step()
    if training.masking is not None:
        training.masking.after_step(optimizer)
    training.averages.update()
    return loss


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
        rate = training.rate
        training.schedule.step(loss)
        if training.rate < rate:
            log.say(f"the validation loss stalls: learning rate {training.rate:g}")
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
