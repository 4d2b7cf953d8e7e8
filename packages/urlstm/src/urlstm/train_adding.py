"""``urlstm-adding``: the adding task (section 4.1 of the paper). The loop is in `urlstm.synthetic`."""

import torch
from rnncore.flags import command
from rnncore.run_options import describe
from rnncore.training_run import ready, reopened
from torch import Tensor
from torch.nn import functional as F

from urlstm import synthetic
from urlstm.adding import GUESS_LOSS, adding_batch
from urlstm.models import AddingModel
from urlstm.options import ADDING, CHANGEABLE, CONFIGURATIONS, AddingOptions
from urlstm.random_streams import Purpose, stream
from urlstm.run_state import Training
from urlstm.training import Evaluation, evaluating


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
    options, resumed = reopened(options, ADDING, CHANGEABLE)
    place = ready(options, seed=options.seed)
    model = build_model(options).to(place)
    if options.dry_run:
        print(describe(options, model), end="")
        return
    synthetic.run(
        options,
        ADDING,
        place,
        model,
        model.recurrent,
        _Adding(options, model, place),
        resumed=resumed,
        title=f"adding over {options.seq_length} steps (guessing the mean costs {GUESS_LOSS:.4f})",
        tokens=options.seq_length,
        baseline=GUESS_LOSS,
    )


def build_model(options: AddingOptions) -> AddingModel:
    """The model that the options describe."""
    return AddingModel(
        options.model_type,
        options.hidden_size,
        forget_bias=options.forget_bias,
        trainable_bias=options.trainable_bias,
        t_max=options.t_max or max(3, options.seq_length),
    )


class _Adding:
    """The task: losses are mean squared errors."""

    def __init__(self, options: AddingOptions, model: AddingModel, place: torch.device) -> None:
        self._options, self._model, self._place = options, model, place

    def _loss(self, purpose: Purpose, number: int, size: int, reduction: str) -> Tensor:
        inputs, targets = adding_batch(stream(self._options.seed, purpose, number), self._options.seq_length, size)
        return F.mse_loss(self._model(inputs.to(self._place)), targets.to(self._place), reduction=reduction)

    def loss(self, number: int) -> Tensor:
        return self._loss(Purpose.TRAIN, number, self._options.batch_size, "mean")

    def evaluate(self, training: Training, purpose: Purpose, sequences: int) -> Evaluation:
        total = torch.zeros((), dtype=torch.float64, device=self._place)
        with evaluating(training):
            for number, size in enumerate(synthetic.batches(sequences, self._options.batch_size)):
                total += self._loss(purpose, number, size, "sum")
        return Evaluation(float(total) / sequences, {})
