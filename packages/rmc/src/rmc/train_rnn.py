"""``rmc-train-rnn``: the language models that the memory is compared with. The epochs are in `rmc.training`."""

from pathlib import Path

from rnncore.flags import command

from rmc import training
from rmc.options import RNN, RNNOptions, build_rnn_model


@command(
    RNNOptions,
    name=RNN,
    examples=[
        "rmc-train-rnn --data wikitext-2",
        "rmc-train-rnn --data wikitext-2 --model GRU --nlayers 2",
        "rmc-train-rnn --adaptivesoftmax --cutoffs 1000 5000 20000 --name adaptive",
        "rmc-train-rnn --resume --name adaptive",
        "torchrun --nproc_per_node 2 --no-python rmc-train-rnn --data wikitext-2 --threads 1",
    ],
    parallel=True,
)
def main(options: RNNOptions) -> None:
    """Train a language model of LSTM, GRU or plain recurrent layers. Losses are in nats per token."""
    training.run(options, RNN, build_rnn_model, None if options.save == Path("model.pt") else options.save)
