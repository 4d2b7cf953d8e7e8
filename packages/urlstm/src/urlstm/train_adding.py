"""``urlstm-adding``: the adding task (section 4.1 of the paper). The loop is in `urlstm.synthetic`."""

import torch
from rnncore import device
from rnncore.flags import command
from rnncore.run_options import describe
from torch import Tensor
from torch.nn import functional as F

from urlstm.adding import GUESS_LOSS, adding_batch
from urlstm.models import AddingModel
from urlstm.options import ADDING, CONFIGURATIONS, AddingOptions
from urlstm.random_streams import Purpose, stream
from urlstm.run_state import Training
from urlstm.synthetic import TEST_SEQUENCES, VALID_SEQUENCES, batches, train
from urlstm.training import Evaluation, begin, evaluating, finish, under_way


@command(
    AddingOptions,
    name=ADDING,
    examples=[
        "urlstm-adding --config quick",
        "urlstm-adding --config quick --model_type lstm",
        "urlstm-adding --seq_length 750 --n_steps 20000 --run_dir runs/adding750",
        "urlstm-adding --resume --run_dir runs/adding750",
    ],
    shipped=CONFIGURATIONS / "adding",
)
def main(options: AddingOptions) -> None:
    """Train on the adding task: two numbers of a long sequence are marked; say their sum at the end.

    The loss is the mean squared error; who always guesses the mean has 0.1667.
    """
    run(options)


def run(options: AddingOptions) -> None:
    """What the command does."""
    options, place, resumed = begin(options, ADDING)
    device.seed_everything(options.seed)
    model = build_model(options).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return

    def loss_of_step(number: int) -> Tensor:
        inputs, targets = _batch(options, Purpose.TRAIN, number, options.batch_size, place)
        return F.mse_loss(model(inputs), targets)

    title = f"adding over {options.seq_length} steps (guessing the mean costs {GUESS_LOSS:.4f})"
    limit = min(options.n_steps, options.max_steps or options.n_steps)
    with under_way(options, ADDING, place, model, model.recurrent, resumed=resumed, title=title, total_steps=limit) as (
        training,
        interrupt,
    ):
        train(
            training,
            options,
            interrupt,
            n_steps=options.n_steps,
            tokens=options.seq_length * options.batch_size,
            loss_of_step=loss_of_step,
            validate=lambda: _evaluate(training, options, model, Purpose.VALID, VALID_SEQUENCES),
        )
        if not interrupt:
            extra = {"baseline": GUESS_LOSS}
            finish(training, lambda: _evaluate(training, options, model, Purpose.TEST, TEST_SEQUENCES, extra))


def build_model(options: AddingOptions) -> AddingModel:
    """The model that the options describe."""
    return AddingModel(
        options.model_type,
        options.hidden_size,
        forget_bias=options.forget_bias,
        trainable_bias=options.trainable_bias,
        t_max=options.t_max or max(3, options.seq_length),
    )


def _batch(
    options: AddingOptions, purpose: Purpose, number: int, size: int, place: torch.device
) -> tuple[Tensor, Tensor]:
    inputs, targets = adding_batch(stream(options.seed, purpose, number), options.seq_length, size)
    return inputs.to(place), targets.to(place)


def _evaluate(
    training: Training,
    options: AddingOptions,
    model: AddingModel,
    purpose: Purpose,
    sequences: int,
    extra: dict[str, float] | None = None,
) -> Evaluation:
    """The mean squared error over sequences that are not trained on."""
    total = torch.zeros((), dtype=torch.float64, device=training.device)
    with evaluating(training):
        for number, size in enumerate(batches(sequences, options.batch_size)):
            inputs, targets = _batch(options, purpose, number, size, training.device)
            total += F.mse_loss(model(inputs), targets, reduction="sum")
    return Evaluation(float(total) / sequences, extra or {})
