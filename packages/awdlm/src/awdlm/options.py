"""The options of ``awdlm-train`` and ``awdlm-finetune``, with the names and defaults of the paper's code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_options import RunOptions

from awdlm.model import AWDModel

TRAIN, FINETUNE = "awdlm-train", "awdlm-finetune"

#: Fields that decide what the model is, and what it reads. A model that is finetuned keeps them.
OF_THE_MODEL = ("level", "model", "embedding_size", "hidden_size", "num_layers", "tied")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(RunOptions):
    """What training and finetuning share: data, model, dropouts and penalties, steps."""

    data: str = flag("data/penn/", "--data", help="a data set's name, or a directory", section="Data")
    level: Literal["word", "character"] = flag(
        "word", "--level", help="what a token is; files of spaced characters are words", section="Data", yields=True
    )
    model: Literal["LSTM", "GRU", "QRNN"] = flag("LSTM", "--model", help="recurrent layers", section="Model")
    embedding_size: int = flag(
        400, "--emsize", help="embedding, and units of a tied last layer", minimum=1, section="Model"
    )
    hidden_size: int = flag(1150, "--nhid", help="units of every other layer", minimum=1, section="Model")
    num_layers: int = flag(3, "--nlayers", help="recurrent layers", minimum=1, section="Model")
    tied: bool = flag(
        True,
        "--tied",
        help="embedding and decoder share a weight; giving the flag unties them",
        inverts=True,
        section="Model",
    )
    dropout: float = flag(
        0.4, "--dropout", help="of the last layer's outputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_hidden: float = flag(
        0.3, "--dropouth", help="of the other layers' outputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_input: float = flag(
        0.65, "--dropouti", help="of the embedded inputs", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_words: float = flag(
        0.1, "--dropoute", help="of whole words", minimum=0.0, below=1.0, section="Regularisation"
    )
    weight_drop: float = flag(
        0.5,
        "--wdrop",
        help="of the hidden-to-hidden weights, or of the QRNN's weights",
        minimum=0.0,
        below=1.0,
        section="Regularisation",
    )
    activation: float = flag(
        2.0, "--alpha", help="penalty on large activations (AR)", minimum=0.0, section="Regularisation"
    )
    temporal: float = flag(
        1.0, "--beta", help="penalty on activations that change fast (TAR)", minimum=0.0, section="Regularisation"
    )
    weight_decay: float = flag(1.2e-6, "--wdecay", help="L2 penalty", minimum=0.0, section="Regularisation")
    learning_rate: float = flag(30.0, "--lr", help="for a window of --bptt steps", above=0.0, section="Training")
    clip: float = flag(0.25, "--clip", help="largest gradient norm", above=0.0, section="Training")
    epochs: int = flag(8000, "--epochs", help="most epochs", minimum=1, section="Training")
    batch_size: int = flag(80, "--batch_size", help="windows side by side", minimum=1, section="Training")
    bptt: int = flag(70, "--bptt", help="usual window length, in steps", minimum=1, section="Training")
    nonmono: int = flag(5, "--nonmono", help="epochs that the validation loss may stall", minimum=0, section="Training")
    seed: int = flag(1111, "--seed", help="of all random numbers", minimum=0, maximum=2**32 - 1, section="Run")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU", section="Run")
    cuda_graph: bool = flag(
        False,
        "--cuda_graph",
        help="replay captured steps on a GPU; cuts windows to multiples of 5",
        section="Run",
        yields=True,
    )
    log_interval: int = flag(200, "--log-interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run", yields=True
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions):
    """What ``awdlm-train`` takes."""

    optimizer: Literal["sgd", "adam"] = flag(
        "sgd", "--optimizer", help="sgd goes over to averaged SGD; adam does not", section="Training"
    )
    when: tuple[int, ...] = flag(
        (-1,),
        "--when",
        help="epochs after which the rate is divided by 10 and a copy saved",
        minimum=1,
        nargs="+",
        section="Training",
    )
    save: Path | None = flag(None, "--save", help="a file for the best model, besides the run directory", section="Run")
    resume: str | None = flag(  # the original had it, so here it does not yield its abbreviations
        None,
        "--resume",
        optional_value="",
        metavar="PATH",
        help="go on from a checkpoint or run directory; without a path, from --run_dir",
        section="Run",
    )

    def __post_init__(self) -> None:
        """Refuses a rate that would never be divided."""
        late = [epoch for epoch in self.when if epoch > self.epochs]
        if late:
            raise UserError(f"--when {late[0]} is past the last epoch, --epochs {self.epochs}; leave it out")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(ModelOptions):
    """What ``awdlm-finetune`` takes."""

    save: Path | None = flag(
        None, "--save", help="the model to finetune; otherwise that of the newest run", section="Run"
    )
    in_place: bool = flag(
        False, "--in_place", help="the result takes the model's file, as the original did", yields=True, section="Run"
    )


def build_model(options: ModelOptions, vocabulary_size: int) -> AWDModel:
    """The model that the options describe."""
    return AWDModel(
        options.model,
        vocabulary_size,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        dropout=options.dropout,
        dropout_hidden=options.dropout_hidden,
        dropout_input=options.dropout_input,
        dropout_words=options.dropout_words,
        weight_drop=options.weight_drop,
        tied=options.tied,
    )
