"""The options of ``revrnn-train``, with the names and defaults of the paper's code, and the model they describe."""

from dataclasses import dataclass
from typing import Literal

from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_options import RunOptions

from revrnn.baseline import BaselineLM
from revrnn.model import ReversibleLM

COMMAND = "revrnn-train"


def _even(size: int) -> str | None:
    return "must be even: the units are split in two groups" if size % 2 else None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """What ``revrnn-train`` takes, beside the flags of every training command."""

    data: str = flag("ptb", "--data", help="ptb, wt2, pydoc or another data set's name, or a directory", section="Data")
    level: Literal["word", "character"] = flag(
        "word", "--level", help="what a token is; files of spaced characters are words", section="Data", yields=True
    )
    model: str = flag(
        "revgru", "--model", choices=("gru", "lstm", "revgru", "revlstm"), help="recurrent unit", section="Model"
    )
    embedding_size: int = flag(
        650, "--emb_size", help="embedding, and units of the last layer", minimum=1, section="Model"
    )
    hidden_size: int = flag(1150, "--h_size", help="units of every layer but the last", minimum=1, section="Model")
    num_layers: int = flag(1, "--nlayers", help="recurrent layers", minimum=1, section="Model")
    max_forget: float = flag(
        0.875,
        "--max_forget",
        help="limit of forgetting: 0.5, 0.75, 0.875 are 1, 2, 3 bits per unit and step; 1 is none",
        above=0.0,
        maximum=1.0,
        section="Model",
    )
    use_buffers: bool = flag(
        False, "--use_buffers", help="store states, and see what information buffers would hold", section="Model"
    )
    use_reverse: bool = flag(
        False, "--use_reverse", help="train by reversal: states are rebuilt, not stored", section="Model"
    )
    learning_rate: float = flag(
        20.0, "--lr", help="of SGD, for a window of --bptt steps", above=0.0, section="Training"
    )
    learning_rate_decay: float = flag(
        4.0, "--lr_decay", help="divides the rate when the validation loss stalls", minimum=1.0, section="Training"
    )
    clip: float = flag(0.1, "--clip", help="largest gradient norm", above=0.0, section="Training")
    bptt: int = flag(70, "--bptt", help="usual window length, in steps", minimum=1, section="Training")
    epochs: int = flag(10000, "--epochs", help="most epochs", minimum=1, section="Training")
    batch_size: int = flag(20, "--batch_size", help="windows side by side", minimum=1, section="Training")
    nonmono: int = flag(5, "--nonmono", help="epochs that the validation loss may stall", minimum=0, section="Training")
    dropout: float = flag(
        0.4, "--dropout", help="of the last layer's outputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_hidden: float = flag(
        0.3, "--dropouth", help="of the other layers' outputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_input: float = flag(
        0.4, "--dropouti", help="of the embedded inputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_words: float = flag(
        0.1, "--dropoute", help="of whole words", minimum=0.0, below=1.0, section="Regularisation"
    )
    weight_drop: float = flag(
        0.5, "--wdrop", help="of the hidden-to-hidden weights", minimum=0.0, below=1.0, section="Regularisation"
    )
    weight_decay: float = flag(1.2e-6, "--wdecay", help="L2 penalty", minimum=0.0, section="Regularisation")
    seed: int = flag(1111, "--seed", help="of all random numbers", minimum=0, section="Run")
    no_cuda: bool = flag(False, "--no_cuda", help="stay on the CPU, as --device cpu", section="Run")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU", section="Run", yields=True)
    cuda_graph: bool = flag(
        False,
        "--cuda_graph",
        help="replay captured steps on a GPU; cuts windows to multiples of 5",
        section="Run",
        yields=True,
    )
    log_interval: int = flag(200, "--log_interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run", yields=True
    )
    save: bool = flag(False, "--save", help="put the run into --save_dir instead of runs/", section="Run")
    save_dir: str = flag("frac-forget", "--save_dir", help="where --save puts runs", section="Run")

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        if self.reversible:
            for name, size in (("--h_size", self.hidden_size), ("--emb_size", self.embedding_size)):
                if problem := _even(size):
                    raise UserError(f"{name} {size} {problem}")
        elif self.use_reverse or self.use_buffers:
            name = "--use_reverse" if self.use_reverse else "--use_buffers"
            raise UserError(f"{name} needs --model revgru or revlstm; {self.model} cannot be reversed")
        if self.cuda_graph and not self.use_reverse:
            raise UserError("--cuda_graph needs --use_reverse: no other steps are captured")

    @property
    def reversible(self) -> bool:
        """Whether the model is a reversible one, trained by reversal or not."""
        return self.model.startswith("rev")


def build_model(options: TrainOptions, vocabulary_size: int) -> ReversibleLM | BaselineLM:
    """The language model that the options describe."""
    kind: Literal["gru", "lstm"] = "gru" if options.model.endswith("gru") else "lstm"
    if not options.reversible:
        return BaselineLM(
            kind,
            vocabulary_size,
            embedding_size=options.embedding_size,
            hidden_size=options.hidden_size,
            num_layers=options.num_layers,
            dropout=options.dropout,
            dropout_hidden=options.dropout_hidden,
            dropout_input=options.dropout_input,
            dropout_words=options.dropout_words,
            weight_drop=options.weight_drop,
        )
    return ReversibleLM(
        kind,
        vocabulary_size,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        max_forget=options.max_forget,
        dropout=options.dropout,
        dropout_hidden=options.dropout_hidden,
        dropout_input=options.dropout_input,
        dropout_words=options.dropout_words,
        weight_drop=options.weight_drop,
    )
