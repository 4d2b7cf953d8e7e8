"""``rmc-train``: a language model around a relational memory. The epochs are in `rmc.training`."""

from rnncore.flags import command

from rmc import training
from rmc.options import MEMORY, MemoryOptions, build_memory_model


@command(
    MemoryOptions,
    name=MEMORY,
    examples=[
        "rmc-train --data wikitext-2",
        "rmc-train --data wikitext-2 --adaptivesoftmax --cutoffs 1000 5000 20000 --name adaptive",
        "rmc-train --variant sonnet --memslots 4 --headsize 48",
        "rmc-train --resume --name adaptive",
        "torchrun --nproc_per_node 2 --no-python rmc-train --data wikitext-2 --threads 1",
    ],
    parallel=True,
)
def main(options: MemoryOptions) -> None:
    """Train a language model whose recurrent layer is a relational memory. Losses are in nats per token."""
    training.run(options, MEMORY, build_memory_model)
