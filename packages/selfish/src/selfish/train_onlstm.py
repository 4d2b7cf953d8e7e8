"""``selfish-train-onlstm``: sparse or dense ON-LSTM language models. The epochs: `selfish.training`."""

from rnncore.flags import command

from selfish.command import run
from selfish.options import ONLSTM, OnlstmOptions
from selfish.run_state import Recipe


@command(
    OnlstmOptions,
    name=ONLSTM,
    examples=[
        "selfish-train-onlstm --sparse --density 0.45 --batch_size 20 --dropout 0.45 --dropouth 0.3 --wdrop 0.45",
        "selfish-train-onlstm --batch_size 20 --dropout 0.45 --dropouth 0.3 --wdrop 0.45 --seed 141 --epochs 1000",
        "selfish-train-onlstm --resume runs/selfish-train-onlstm/2030-01-31_12-00-00",
    ],
)
def main(options: OnlstmOptions) -> None:
    """Train a language model of LSTM layers with ordered neurons that is sparse from the first step on.

    As selfish-train; windows have random lengths, and the last layer's outputs are penalised. selfish-distances shows
    the syntax that such a model finds. Losses are in nats per token.
    """
    run(options, ONLSTM, recipe)


def recipe(options: OnlstmOptions) -> Recipe:
    """That of Shen et al. 2019, after Merity et al. 2017; averages begin anew to finetune."""
    return Recipe(
        random=True,
        activation=options.activation,
        temporal=options.temporal,
        piece=options.batch_size,
        restarts=(options.finetuning, options.finetuning2),
        copy=options.save,
    )
