"""The options of the three training commands, with the names and defaults of the original code.

Flags that did nothing there are taken, and do nothing here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_options import RunOptions

from selfish.death_rate import DECAYS
from selfish.density import SPARSE_INITS, UNIFORM, density_of_sparsity
from selfish.mask_update import DEATHS, GROWTHS, REDISTRIBUTIONS, Rules

TRAIN, ONLSTM, MOS = "selfish-train", "selfish-train-onlstm", "selfish-train-mos"

_NOTHING = "taken, and does nothing, as in the original"


@dataclass(frozen=True, kw_only=True)
class SparseOptions(RunOptions):
    """How a network is kept sparse; the same for all models."""

    sparse: bool = flag(False, "--sparse", help="train a sparse network; without it, a dense one", section="Sparsity")
    density: float = flag(
        0.33,
        "--density",
        help="share of the weights that lives",
        above=0.0,
        below=1.0,
        section="Sparsity",
    )
    sparsity: float | None = flag(
        None,
        "--sparsity",
        help="1 - density, instead of it",
        above=0.0,
        below=1.0,
        section="Sparsity",
        yields=True,
    )
    sparse_init: str = flag(
        UNIFORM,
        "--sparse_init",
        choices=SPARSE_INITS,
        help="densities at the start: equal, or Erdos-Renyi (ER)",
        section="Sparsity",
    )
    growth: str = flag("random", "--growth", choices=GROWTHS, help="which weights grow", section="Sparsity")
    growth_expectation: bool = flag(
        False,
        "--growth_expectation",
        help="draw each weight that may grow by itself, as the original did; numbers are then right on average only",
        section="Sparsity",
        yields=True,
    )
    death: str = flag("magnitude", "--death", choices=DEATHS, help="which weights die", section="Sparsity")
    redistribution: str = flag(
        "none", "--redistribution", choices=REDISTRIBUTIONS, help="between what weights move", section="Sparsity"
    )
    death_rate: float = flag(
        0.5,
        "--death-rate",
        help="share of the living weights that an update replaces, at first",
        above=0.0,
        below=1.0,
        section="Sparsity",
    )
    death_rate_decay: str = flag(
        "cosine",
        "--death-rate-decay",
        choices=DECAYS,
        help="how it falls, over --epochs",
        section="Sparsity",
        yields=True,
    )
    threshold: float = flag(
        1e-3,
        "--threshold",
        help="of --death threshold and --redistribution nonzeros",
        above=0.0,
        section="Sparsity",
        yields=True,
    )

    @property
    def rules(self) -> Rules:
        """How masks evolve. Raises UserError where two of the flags contradict each other."""
        return Rules(
            death=self.death,
            growth=self.growth,
            redistribution=self.redistribution,
            growth_expectation=self.growth_expectation,
        )

    @property
    def living(self) -> float:
        """The density, however it is given."""
        return self.density if self.sparsity is None else density_of_sparsity(self.sparsity)


def _size(default: int, name: str, what: str) -> int:
    return flag(default, name, help=what, minimum=1, section="Model")


def _dropout(default: float, name: str, what: str) -> float:
    return flag(default, name, help=what, minimum=0.0, below=1.0, section="Regularisation")


def _penalty(default: float, name: str, what: str) -> float:
    return flag(default, name, help=what, minimum=0.0, section="Regularisation")


def _number(default: int, name: str, what: str) -> int:
    return flag(default, name, help=what, minimum=1, section="Training")


def _rate(default: float) -> float:
    return flag(default, "--lr", help="learning rate of sgd, for a window of --bptt steps", above=0, section="Training")


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(SparseOptions):
    """What the three commands share. Where a command has another default, it states the flag again."""

    data: str = flag("data/penn/", "--data", help="a data set's name, or a directory", section="Data")
    level: Literal["word", "character"] = flag(
        "word", "--level", help="what a token is; files of spaced characters are words", section="Data", yields=True
    )
    embedding_size: int = _size(400, "--emsize", "embedding, and units of the last layer")
    hidden_size: int = _size(1150, "--nhid", "units of every other layer")
    num_layers: int = _size(3, "--nlayers", "recurrent layers")
    dropout: float = _dropout(0.4, "--dropout", "of the last layer's outputs")
    dropout_hidden: float = _dropout(0.25, "--dropouth", "of the other layers' outputs")
    dropout_input: float = _dropout(0.5, "--dropouti", "of the embedded inputs")
    dropout_words: float = _dropout(0.1, "--dropoute", "of whole words")
    weight_decay: float = _penalty(1.2e-6, "--wdecay", "L2 penalty")
    optimizer: Literal["sgd", "adam"] = flag(
        "sgd", "--optimizer", help="sgd goes over to averaged SGD; adam does not", section="Training"
    )
    learning_rate: float = _rate(15.0)
    adam_rate: float = flag(
        0.001,
        "--adam_lr",
        help="learning rate of adam, halved when the loss stalls",
        above=0.0,
        section="Training",
        yields=True,
    )
    clip: float = flag(0.25, "--clip", help="largest gradient norm", above=0.0, section="Training")
    epochs: int = _number(8000, "--epochs", "most epochs")
    batch_size: int = _number(80, "--batch_size", "windows side by side")
    bptt: int = _number(70, "--bptt", "usual window length, in steps")
    nonmono: int = flag(5, "--nonmono", help="epochs that the validation loss may stall", minimum=0, section="Training")
    evaluate: str = flag(
        "",
        "--evaluate",
        metavar="PATH",
        help="only evaluate a run's best model, a checkpoint, an export or a state dict of the original's code",
        section="Run",
    )
    save: Path | None = flag(None, "--save", help="a file for the best model, besides the run directory", section="Run")
    seed: int = flag(1111, "--seed", help="of all random numbers", minimum=0, maximum=2**32 - 1, section="Run")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU", section="Run")
    cuda_graph: bool = flag(False, "--cuda_graph", help="replay captured steps on a GPU", section="Run", yields=True)
    log_interval: int = flag(200, "--log-interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run", yields=True
    )

    def __post_init__(self) -> None:
        """Refuses rules of evolution that contradict each other before anything is computed."""
        if self.sparse:
            assert self.rules


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LanguageOptions):
    """What ``selfish-train`` takes."""

    model: Literal["LSTM", "RHN"] = flag("LSTM", "--model", help="recurrent layers", section="Model")
    embedding_size: int = _size(1500, "--emsize", "embedding")
    hidden_size: int = _size(1500, "--nhid", "units of every layer")
    num_layers: int = _size(2, "--nlayers", "recurrent layers")
    depth: int = _size(10, "--nrecurrence_depth", "RHN: highway layers in a time step")
    tied: bool = flag(False, "--tied", help="embedding and decoder share a weight", section="Model")
    couple: bool = flag(False, "--couple", help="RHN: the carry gate is 1 - the transform gate", section="Model")
    dropout: float = _dropout(0.65, "--dropout", "LSTM: of all layers' inputs and outputs; RHN: of the last outputs")
    dropout_hidden: float = _dropout(0.25, "--dropouth", "RHN: of the states that recurrent weights see")
    dropout_input: float = _dropout(0.65, "--dropouti", "RHN: of every layer's inputs")
    dropout_words: float = _dropout(0.2, "--dropoute", "RHN: of whole words")
    epochs: int = _number(40, "--epochs", "most epochs")
    batch_size: int = _number(20, "--batch_size", "windows side by side")
    eval_batch_size: int = _number(20, "--eval_batch_size", "columns of the texts that are evaluated")
    bptt: int = _number(35, "--bptt", "window length, in steps")
    momentum: float = flag(0.9, "--momentum", help=_NOTHING, minimum=0.0, section="Without effect")
    beta: float = flag(1.0, "--beta", help=_NOTHING, minimum=0.0, section="Without effect")
    finetuning: int = flag(100, "--finetuning", help=_NOTHING, minimum=0, section="Without effect")
    testmodel: str = flag("15877701169307067.pt", "--testmodel", help=_NOTHING, section="Without effect")


@dataclass(frozen=True, kw_only=True)
class OnlstmOptions(LanguageOptions):
    """What ``selfish-train-onlstm`` takes."""

    data: str = flag("../data/penn/", "--data", help="a data set's name, or a directory", section="Data")
    model: Literal["LSTM"] = flag("LSTM", "--model", help="always ON-LSTM; the flag does nothing", section="Model")
    chunk_size: int = _size(10, "--chunk_size", "units that share one element of the master gates")
    weight_drop: float = _dropout(0.4, "--wdrop", "of the hidden-to-hidden weights")
    activation: float = _penalty(2.0, "--alpha", "penalty on large activations (AR)")
    temporal: float = _penalty(1.0, "--beta", "penalty on activations that change fast (TAR)")
    finetuning: int = flag(
        500,
        "--finetuning",
        help="epoch after which averages begin anew, if there are any",
        minimum=0,
        section="Training",
    )
    finetuning2: int = flag(1000, "--finetuning2", help="the same once more", minimum=0, section="Training")
    resume: str | None = flag(  # the original had it, so here it does not yield its abbreviations
        None,
        "--resume",
        optional_value="",
        metavar="PATH",
        help="go on from a checkpoint or run directory; without a path, from --run_dir",
        section="Run",
    )
    save_1000epoch: Path | None = flag(None, "--save_1000epoch", help=_NOTHING, section="Without effect")
    philly: bool = flag(False, "--philly", help=_NOTHING, section="Without effect")


@dataclass(frozen=True, kw_only=True)
class MosOptions(LanguageOptions):
    """What ``selfish-train-mos`` takes."""

    data: str = flag("./penn/", "--data", help="a data set's name, or a directory", section="Data")
    model: Literal["LSTM"] = flag("LSTM", "--model", help="always LSTM; the flag does nothing", section="Model")
    embedding_size: int = _size(400, "--emsize", "embedding, and features of each softmax")
    last_hidden_size: int = flag(
        -1, "--nhidlast", help="units of the last layer; below 1: as --emsize", minimum=-1, section="Model"
    )
    n_experts: int = _size(10, "--n_experts", "softmaxes in the mixture")
    tied: bool = flag(
        True,
        "--tied",
        help="embedding and decoder share a weight; giving the flag unties them",
        inverts=True,
        section="Model",
    )
    dropout_hidden: float = _dropout(0.3, "--dropouth", "of the other layers' outputs")
    dropout_input: float = _dropout(0.65, "--dropouti", "of the embedded inputs")
    dropout_latent: float = flag(
        -0.2,
        "--dropoutl",
        help="of the softmaxes' contexts; below 0: as --dropouth",
        minimum=-1.0,
        below=1.0,
        section="Regularisation",
    )
    weight_drop: float = _dropout(0.5, "--wdrop", "of the hidden-to-hidden weights")
    activation: float = _penalty(2.0, "--alpha", "penalty on large activations (AR)")
    temporal: float = _penalty(1.0, "--beta", "penalty on activations that change fast (TAR)")
    learning_rate: float = _rate(30.0)
    batch_size: int = _number(20, "--batch_size", "windows side by side")
    small_batch_size: int = flag(
        -1,
        "--small_batch_size",
        help="windows at a time, whose gradients add up to those of --batch_size; below 1: all at once",
        minimum=-1,
        section="Training",
    )
    max_seq_len_delta: int = flag(
        40, "--max_seq_len_delta", help="steps that a window may exceed --bptt by", minimum=0, section="Training"
    )
    continue_train: bool = flag(False, "--continue_train", help="go on with the run in --save", section="Run")
    save: Path = flag(  # the original names a folder, not a file
        Path("EXP"), "--save", help="the run directory, where --run_dir does not name it; EXP: a new one", section="Run"
    )
    single_gpu: bool = flag(False, "--single_gpu", help="one device is used anyway", section="Without effect")

    def __post_init__(self) -> None:
        """Refuses pieces of a batch that do not add up to it."""
        super().__post_init__()
        if self.small_batch_size > 0 and self.batch_size % self.small_batch_size:
            raise UserError(
                f"--small_batch_size {self.small_batch_size} does not divide --batch_size {self.batch_size}"
            )
