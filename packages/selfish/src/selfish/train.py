"""``selfish-train``: sparse or dense language models of LSTM or highway layers. The epochs: `selfish.training`."""

from rnncore.flags import command

from selfish.command import run
from selfish.options import TRAIN, TrainOptions
from selfish.run_state import Recipe


@command(
    TrainOptions,
    name=TRAIN,
    examples=[
        "selfish-train --sparse --density 0.33 --lr 40 --death-rate 0.8 --epochs 100",
        "selfish-train --sparse --model RHN --couple --tied --nlayers 1 --emsize 830 --nhid 830 --density 0.472",
        "selfish-train --lr 20 --epochs 100",
        "selfish-train --resume runs/selfish-train/2030-01-31_12-00-00",
    ],
)
def main(options: TrainOptions) -> None:
    """Train a language model of stacked LSTM or recurrent highway layers that is sparse from the first step on.

    After each epoch weights die and others grow (--death, --growth, --redistribution). When the validation loss no
    longer falls (--nonmono), SGD goes over to averages, each weight's from the step at which it grew. Losses are in
    nats per token.
    """
    run(options, TRAIN, recipe)


def recipe(options: TrainOptions) -> Recipe:
    """Windows of equal length, and no penalties."""
    return Recipe(
        random=False,
        piece=options.batch_size,
        valid_columns=options.eval_batch_size,
        test_columns=options.eval_batch_size,
        copy=options.save,
    )
