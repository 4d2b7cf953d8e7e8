"""``selfish-train-mos``: sparse or dense AWD-LSTM with a mixture of softmaxes. The epochs: `selfish.training`."""

import dataclasses
from pathlib import Path

from rnncore.errors import UserError
from rnncore.flags import command

from selfish.command import run
from selfish.options import MOS, MosOptions
from selfish.run_state import Recipe

#: What ``--save`` holds when nothing was given.
UNNAMED = Path("EXP")


@command(
    MosOptions,
    name=MOS,
    examples=[
        "selfish-train-mos --data wikitext-2 --sparse --density 0.45 --epochs 1000 --dropouth 0.2 --seed 1882 "
        "--n_experts 15 --nhid 1150 --nhidlast 650 --emsize 300 --batch_size 15 --lr 15.0 --dropoutl 0.29 "
        "--small_batch_size 5 --max_seq_len_delta 20 --dropouti 0.55",
        "selfish-train-mos --continue_train --save WT2",
    ],
)
def main(options: MosOptions) -> None:
    """Train AWD-LSTM with a mixture of softmaxes, sparse from the first step on.

    As selfish-train; windows have random lengths, and the last layer's outputs are penalised. Losses are in nats per
    token.
    """
    run(placed(options), MOS, recipe)


def placed(options: MosOptions) -> MosOptions:
    """``options`` with the run directory that ``--save`` means.

    Raises:
        UserError: A run is to go on, and is not named.
    """
    if options.continue_train and options.resume is None:
        if options.save == UNNAMED and not UNNAMED.is_dir() and options.run_dir is None:
            raise UserError("--continue_train needs the run directory in --save, or use --resume")
        return dataclasses.replace(options, resume="", run_dir=options.run_dir or options.save)
    if options.save != UNNAMED and options.run_dir is None and options.resume is None:
        return dataclasses.replace(options, run_dir=options.save)
    return options


def recipe(options: MosOptions) -> Recipe:
    """That of Yang et al. 2018, after Merity et al. 2017; a batch may be computed in pieces."""
    return Recipe(
        random=True,
        longest=options.bptt + options.max_seq_len_delta,
        activation=options.activation,
        temporal=options.temporal,
        piece=options.small_batch_size if options.small_batch_size > 0 else options.batch_size,
    )
