"""The options of the language models' training commands, with the names and defaults of the public port."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_directory import RUNS, latest
from rnncore.run_options import RunOptions

from rmc.cell import GateStyle, Variant
from rmc.language_model import LanguageModel
from rmc.layer import RelationalMemory
from rmc.rnn import Kind, StackedRNN
from rmc.softmax import usable_cutoffs

MEMORY, RNN = "rmc-train", "rmc-train-rnn"


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(RunOptions):
    """What both commands share: data, softmax, optimizer, run."""

    data: str = flag("./data/wikitext-2", "--data", help="a data set's name, or a directory", section="Data")
    adaptive_softmax: bool = flag(
        False, "--adaptivesoftmax", help="a softmax over classes of words sorted by frequency", section="Model"
    )
    cutoffs: tuple[int, ...] = flag(
        (10000, 50000, 100000), "--cutoffs", help="where its classes begin", minimum=1, nargs="*", section="Model"
    )
    learning_rate: float = flag(
        0.001, "--lr", help="of Adam; halved where the validation loss stalls", above=0.0, section="Training"
    )
    clip: float = flag(0.1, "--clip", help="largest gradient norm", above=0.0, section="Training")
    epochs: int = flag(100, "--epochs", help="most epochs", minimum=1, section="Training")
    batch_size: int = flag(64, "--batch_size", help="windows side by side", minimum=1, section="Training")
    bptt: int = flag(100, "--bptt", help="window length, in steps", minimum=1, section="Training")
    patience: int = flag(
        5, "--patience", help="epochs that the loss may stall", minimum=0, section="Training", yields=True
    )
    seed: int = flag(1111, "--seed", help="of all random numbers", minimum=0, maximum=2**32 - 1, section="Run")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU", section="Run")
    log_interval: int = flag(100, "--log-interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run", yields=True
    )
    onnx_export: str = flag("", "--onnx-export", help="a file for the best model as ONNX, at the end", section="Run")
    resume: str | None = flag(  # the original had it, so here it does not yield its abbreviations
        None,
        "--resume",
        optional_value="",
        metavar="EPOCH|PATH",
        help="go on from the end of an epoch, a checkpoint or a run directory; alone, from the run's last checkpoint",
        section="Run",
    )
    name: str | None = flag(None, "--name", help="names the run: its directory is runs/<command>/<name>", section="Run")


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(LanguageOptions):
    """What ``rmc-train`` takes."""

    embedding_size: int = flag(192, "--emsize", help="of a word", minimum=1, section="Model")
    mem_slots: int = flag(1, "--memslots", help="slots of the memory", minimum=1, section="Model")
    head_size: int = flag(192, "--headsize", help="numbers of a slot for each head", minimum=1, section="Model")
    num_heads: int = flag(4, "--numheads", help="heads of the attention", minimum=1, section="Model")
    num_blocks: int = flag(1, "--numblocks", help="rounds of attention in a step", minimum=1, section="Model")
    forget_bias: float = flag(1.0, "--forgetbias", help="of the forget gates", section="Model")
    input_bias: float = flag(0.0, "--inputbias", help="of the input gates", section="Model")
    gate_style: GateStyle | None = flag(
        "unit",
        "--gatestyle",
        help="unit: a gate for each number; memory: one for each slot; none: no gates",
        section="Model",
    )
    mlp_layers: int = flag(3, "--attmlplayers", help="layers of the MLP after an attention", minimum=1, section="Model")
    key_size: int = flag(64, "--keysize", help="numbers of a query and of a key", minimum=1, section="Model")
    variant: Variant = flag(
        "port", "--variant", help="the PyTorch port's memory, or the authors' own", section="Model", yields=True
    )
    dropout: float = flag(
        0.5,
        "--dropout",
        help="before the memory and before the softmax",
        minimum=0.0,
        below=1.0,
        section="Training",
        yields=True,
    )


@dataclass(frozen=True, kw_only=True)
class RNNOptions(LanguageOptions):
    """What ``rmc-train-rnn`` takes."""

    model: Kind = flag("LSTM", "--model", help="recurrent layers", section="Model")
    embedding_size: int = flag(300, "--emsize", help="of a word", minimum=1, section="Model")
    hidden_size: int = flag(300, "--nhid", help="units of a layer", minimum=1, section="Model")
    num_layers: int = flag(1, "--nlayers", help="recurrent layers", minimum=1, section="Model")
    dropout: float = flag(
        0.5, "--dropout", help="before and after every layer", minimum=0.0, below=1.0, section="Training"
    )
    tied: bool = flag(
        False,
        "--tied",
        help="insist on one weight for embedding and softmax, which share it anyway where sizes allow",
        section="Model",
    )
    untied: bool = flag(
        False, "--untied", help="embedding and softmax have weights of their own", section="Model", yields=True
    )
    cudnn: bool = flag(False, "--cudnn", help="torch's own layers on CPU, too (cuDNN's on a GPU)", section="Run")
    save: Path = flag(
        Path("model.pt"), "--save", help="a file for a copy of best.pt; none is written as model.pt", section="Run"
    )

    def __post_init__(self) -> None:
        """Refuses what contradicts itself."""
        if self.tied and self.untied:
            raise UserError("--tied and --untied contradict each other; leave one out")
        if self.tied and self.embedding_size != self.hidden_size:
            sizes = f"--emsize {self.embedding_size} and --nhid {self.hidden_size}"
            raise UserError(f"--tied shares one weight, which {sizes} do not allow; make them equal")

    @property
    def shares_weight(self) -> bool:
        """Whether embedding and softmax share a weight."""
        return not self.untied and self.embedding_size == self.hidden_size


Options = TypeVar("Options", bound=LanguageOptions)


def cutoffs_of(options: LanguageOptions, vocabulary_size: int) -> list[int] | None:
    """The cutoffs of the adaptive softmax, or None for a full one. UserError where they make no sense."""
    return usable_cutoffs(options.cutoffs, vocabulary_size) if options.adaptive_softmax else None


def build_memory_model(options: MemoryOptions, vocabulary_size: int) -> LanguageModel:
    """The model that the options of ``rmc-train`` describe."""
    layer = RelationalMemory(
        options.embedding_size,
        options.mem_slots,
        options.head_size,
        options.num_heads,
        num_blocks=options.num_blocks,
        forget_bias=options.forget_bias,
        input_bias=options.input_bias,
        gate_style=options.gate_style,
        attention_mlp_layers=options.mlp_layers,
        key_size=options.key_size,
        variant=options.variant,
    )
    cutoffs = cutoffs_of(options, vocabulary_size)
    return LanguageModel(layer, vocabulary_size, options.embedding_size, dropout=options.dropout, cutoffs=cutoffs)


def build_rnn_model(options: RNNOptions, vocabulary_size: int) -> LanguageModel:
    """The model that the options of ``rmc-train-rnn`` describe."""
    sizes = options.embedding_size, options.hidden_size, options.num_layers
    return LanguageModel(
        StackedRNN(options.model, *sizes, options.dropout, options.cudnn),
        vocabulary_size,
        options.embedding_size,
        dropout=options.dropout,
        tied=options.shares_weight,
        cutoffs=cutoffs_of(options, vocabulary_size),
    )


def placed(options: Options, command: str) -> Options:
    """``--name`` as a run directory, and an epoch to ``--resume`` from as a checkpoint.

    Raises:
        UserError: The name is none; it comes with another directory; there is no checkpoint of that epoch.
    """
    if options.name is not None:
        if options.run_dir is not None:
            raise UserError(f"--name {options.name} and --run_dir {options.run_dir} both name the run; leave one out")
        if options.name in ("", "..") or Path(options.name).name != options.name:
            raise UserError(f"--name {options.name!r} must be the name of a folder, not a path")
        options = dataclasses.replace(options, run_dir=RUNS / command / options.name)
    resume = options.resume
    if resume is None or not resume.isdecimal() or Path(resume).exists():
        return options
    run = options.run_dir or latest(command)
    return dataclasses.replace(options, resume=str(_after_epoch(run, int(resume))))


def _after_epoch(run: Path, epoch: int) -> Path:
    """The checkpoint of a run that was written at the end of an epoch."""
    ends = {int(file.stem[5:]): file for file in run.glob("epoch*.pt") if file.stem[5:].isdecimal()}
    if epoch not in ends and (run / "last.pt").exists():
        place = checkpoint.load(run / "last.pt")["place"]
        if place["row"] == 0:
            ends[place["epoch"] - 1] = run / "last.pt"
    if epoch not in ends:
        known = ", ".join(map(str, sorted(ends))) or "none"
        raise UserError(f"{run} has no checkpoint of the end of epoch {epoch} (there are: {known})")
    return ends[epoch]
