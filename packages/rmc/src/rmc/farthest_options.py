"""The options of ``rmc-nth-farthest``; the defaults are the paper's task and the public port's sizes."""

from dataclasses import dataclass

from rnncore.flags import flag
from rnncore.run_options import RunOptions

from rmc.cell import GateStyle, Variant
from rmc.farthest_model import FarthestModel, Kind
from rmc.layer import RelationalMemory
from rmc.rnn import StackedRNN

FARTHEST = "rmc-nth-farthest"


@dataclass(frozen=True, kw_only=True)
class FarthestOptions(RunOptions):
    """What ``rmc-nth-farthest`` takes."""

    objects: int = flag(8, "--objects", help="vectors of a question", minimum=2, section="Task")
    dimensions: int = flag(16, "--dimensions", help="numbers of a vector", minimum=1, section="Task")
    model: Kind = flag("rmc", "--model", help="the memory, an LSTM, or the MLP alone", section="Model")
    mem_slots: int = flag(8, "--memslots", help="slots of the memory", minimum=1, section="Model")
    head_size: int = flag(32, "--headsize", help="numbers of a slot for each head", minimum=1, section="Model")
    num_heads: int = flag(8, "--numheads", help="heads of the attention", minimum=1, section="Model")
    num_blocks: int = flag(1, "--numblocks", help="rounds of attention in a step", minimum=1, section="Model")
    forget_bias: float = flag(1.0, "--forgetbias", help="of the forget gates", section="Model")
    input_bias: float = flag(0.0, "--inputbias", help="of the input gates", section="Model")
    gate_style: GateStyle | None = flag(
        "unit",
        "--gatestyle",
        help="unit: a gate for each number; memory: one for each slot; none: no gates",
        section="Model",
    )
    attention_mlp_layers: int = flag(
        2, "--attmlplayers", help="layers of the MLP after an attention", minimum=1, section="Model"
    )
    key_size: int | None = flag(
        None, "--keysize", help="numbers of a query and of a key; otherwise as --headsize", minimum=1, section="Model"
    )
    variant: Variant = flag("port", "--variant", help="the PyTorch port's memory, or the authors' own", section="Model")
    hidden_size: int = flag(512, "--nhid", help="units of the LSTM", minimum=1, section="Model")
    mlp_size: int = flag(256, "--mlpsize", help="units of the ReLU layers behind it", minimum=1, section="Model")
    mlp_layers: int = flag(4, "--mlplayers", help="how many ReLU layers", minimum=1, section="Model")
    learning_rate: float = flag(1e-4, "--lr", help="of Adam", above=0.0, section="Training")
    clip: float = flag(0.1, "--clip", help="largest gradient norm", above=0.0, section="Training")
    batch_size: int = flag(1600, "--batch_size", help="new questions of a step", minimum=1, section="Training")
    part_size: int = flag(
        400, "--part_size", help="questions whose gradients are taken at once, which bounds the memory", minimum=1,
        section="Training",
    )  # fmt: skip
    n_steps: int = flag(100_000, "--n_steps", help="optimizer steps", minimum=1, section="Training")
    valid_interval: int = flag(500, "--valid_interval", help="steps between validations", minimum=1, section="Training")
    test_questions: int = flag(
        3200, "--test_questions", help="questions of a validation, and of the test", minimum=1, section="Training"
    )
    seed: int = flag(1111, "--seed", help="of all random numbers", minimum=0, maximum=2**32 - 1, section="Run")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU", section="Run")
    log_interval: int = flag(100, "--log-interval", help="steps between lines of the log", minimum=1, section="Run")
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run"
    )
    compare_with: tuple[str, ...] = flag(
        (), "--compare_with", help="other runs whose accuracy goes into the picture", nargs="*", section="Run"
    )


def build_model(options: FarthestOptions) -> FarthestModel:
    """The model that the options describe."""
    input_size = options.dimensions + 3 * options.objects
    recurrent: RelationalMemory | StackedRNN | None = None
    if options.model == "lstm":
        recurrent = StackedRNN("LSTM", input_size, options.hidden_size, 1)
    elif options.model == "rmc":
        recurrent = RelationalMemory(
            input_size,
            options.mem_slots,
            options.head_size,
            options.num_heads,
            num_blocks=options.num_blocks,
            forget_bias=options.forget_bias,
            input_bias=options.input_bias,
            gate_style=options.gate_style,
            attention_mlp_layers=options.attention_mlp_layers,
            key_size=options.key_size,
            variant=options.variant,
        )
    return FarthestModel(
        recurrent,
        steps=options.objects,
        input_size=input_size,
        classes=options.objects,
        mlp_size=options.mlp_size,
        mlp_layers=options.mlp_layers,
    )
