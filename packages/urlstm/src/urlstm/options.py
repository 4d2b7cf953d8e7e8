"""The options of the four training commands, with the names and defaults of the public port's YAML files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnncore.flags import flag
from rnncore.run_options import RunOptions

from urlstm.gates import GRU_GATES, LSTM_GATES
from urlstm.images import Kind
from urlstm.models import Readout

ADDING, COPY, IMAGES, LANGUAGE = "urlstm-adding", "urlstm-copy", "urlstm-images", "urlstm-language"

#: Configurations that come with the package: a folder for each task.
CONFIGURATIONS = Path(__file__).with_name("configurations")

#: Options that a resumed run may change.
CHANGEABLE = {"data", "n_steps", "n_epochs", "log_interval", "checkpoint_interval"}

GATES = (*LSTM_GATES, *GRU_GATES)


@dataclass(frozen=True, kw_only=True)
class TaskOptions(RunOptions):
    """What the four tasks share: the gates, the optimizer, the log."""

    model_type: str = flag(
        "ur-lstm", "--model_type", "--gate", choices=GATES, help="the layer's gates", section="Model"
    )
    forget_bias: float | None = flag(
        1.0,
        "--forget_bias",
        help="forget bias at the start of lstm, r-lstm and gru; none: torch's own initialisation",
        section="Model",
    )
    trainable_bias: bool = flag(
        True, "--trainable_bias", help="train the biases that make gates start uniform", section="Model"
    )
    t_max: int | None = flag(
        None,
        "--t_max",
        help="longest memory that c-lstm starts with; otherwise a sequence's",
        minimum=3,
        section="Model",
    )
    learning_rate: float = flag(
        0.001, "--learning_rate", "--lr", help="of AdamW", above=0.0, maximum=1000.0, section="Training"
    )
    clip: float = flag(
        1.0, "--clip", help="largest gradient norm of the recurrent weights", above=0.0, section="Training"
    )
    seed: int = flag(22, "--seed", help="of all random numbers", minimum=0, maximum=2**32 - 1, section="Run")
    log_interval: int = flag(100, "--log_interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run"
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(TaskOptions):
    """What the tasks with made-up sequences share. Every step draws new ones."""

    hidden_size: int = flag(256, "--hidden_size", help="units of the layer", minimum=1, section="Model")
    batch_size: int = flag(10, "--batch_size", help="sequences of a step", minimum=1, section="Training")
    valid_interval: int = flag(500, "--valid_interval", help="steps between validations", minimum=1, section="Training")


@dataclass(frozen=True, kw_only=True)
class AddingOptions(SyntheticOptions):
    """What ``urlstm-adding`` takes."""

    seq_length: int = flag(2000, "--seq_length", help="steps of a sequence", minimum=2, section="Task")
    n_steps: int = flag(100_000, "--n_steps", help="optimizer steps", minimum=1, section="Training")


@dataclass(frozen=True, kw_only=True)
class CopyOptions(SyntheticOptions):
    """What ``urlstm-copy`` takes."""

    time_lag: int = flag(
        480, "--time_lag", help="steps between the ten symbols and their answer", minimum=1, section="Task"
    )
    delimiter: bool = flag(
        False, "--delimiter", help="one cue before the answer instead of ten along with it", section="Task"
    )
    recall_only: bool = flag(
        False, "--recall_only", help="the loss is that of the last ten steps instead of all", section="Task"
    )
    n_steps: int = flag(10_000, "--n_steps", help="optimizer steps", minimum=1, section="Training")


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(TaskOptions):
    """What ``urlstm-images`` takes."""

    dataset_type: Kind = flag(
        "mnist",
        "--dataset_type",
        help="p-mnist has its pixels in one random order; digits needs no download",
        section="Data",
    )
    data: Path | None = flag(
        None, "--data", help="directory of the data set's files; otherwise they are fetched once", section="Data"
    )
    hidden_size_lstm: int = flag(
        1024, "--hidden_size_lstm", "--hidden_size", help="units of the layer", minimum=1, section="Model"
    )
    hidden_size_relu: int = flag(
        256, "--hidden_size_relu", help="ReLU units between layer and classes", minimum=1, section="Model"
    )
    readout: Readout = flag("last", "--readout", help="which outputs the ReLUs read: the last, or all", section="Model")
    batch_size: int = flag(50, "--batch_size", help="pictures of a step", minimum=1, section="Training")
    n_epochs: int = flag(150, "--n_epochs", "--epochs", help="times through the data", minimum=1, section="Training")
    save_model: bool = flag(
        True, "--save_model", help="keep the model with the least validation loss, and test that", section="Run"
    )


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(TaskOptions):
    """What ``urlstm-language`` takes."""

    data: str = flag("wikitext-103", "--data", help="a data set's name, or a directory", section="Data")
    level: Literal["word", "character"] = flag(
        "word", "--level", help="what a token is; files of spaced characters are words", section="Data"
    )
    embedding_size: int = flag(1024, "--embedding_size", help="of a token", minimum=1, section="Model")
    hidden_size: int = flag(3072, "--hidden_size", help="units of the layer", minimum=1, section="Model")
    dropout_rate: float = flag(0.3, "--dropout_rate", help="of the embedding", minimum=0.0, below=1.0, section="Model")
    batch_size: int = flag(128, "--batch_size", help="windows side by side", minimum=1, section="Training")
    seq_length: int = flag(128, "--seq_length", help="steps of a window", minimum=1, section="Training")
    reset_state: bool = flag(
        False, "--reset_state", help="begin every window from zeros, in evaluation too", section="Training"
    )
    n_epochs: int = flag(100, "--n_epochs", "--epochs", help="times through the text", minimum=1, section="Training")
    save_model: bool = flag(
        True, "--save_model", help="keep the model with the least validation loss, and test that", section="Run"
    )
