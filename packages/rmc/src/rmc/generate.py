"""``rmc-generate`` and ``rmc-generate-rnn``: text from a checkpoint alone."""

from dataclasses import dataclass
from pathlib import Path

from rnncore import device
from rnncore.flags import command, flag
from rnncore.generation import GenerationOptions, save_text, write_text

from rmc.options import MEMORY, RNN
from rmc.saved_model import find, load


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """What both commands take."""

    checkpoint: str | None = flag(
        None, "--checkpoint", help="a checkpoint or run directory; otherwise the best model of the newest run"
    )
    words: int = flag(1000, "--words", help="tokens to write", minimum=1)
    outf: Path = flag(Path("generated.txt"), "--outf", help="file to write, besides the console")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU")
    data: str = flag("./data/wikitext-2", "--data", help="not needed: the checkpoint holds its vocabulary")
    log_interval: int = flag(100, "--log-interval", help="not needed: text is shown when it is done", minimum=1)


@command(
    GenerateOptions,
    name="rmc-generate",
    examples=["rmc-generate --words 200 --temperature 0.8 --prompt 'The game'"],
)
def main(options: GenerateOptions) -> None:
    """Write text with a model of rmc-train. The checkpoint describes itself: no flag of the model is needed."""
    _write(options, MEMORY)


@command(
    GenerateOptions,
    name="rmc-generate-rnn",
    examples=["rmc-generate-rnn --words 200 --temperature 0.8 --prompt 'The game'"],
)
def main_rnn(options: GenerateOptions) -> None:
    """Write text with a model of rmc-train-rnn. The checkpoint describes itself: no flag of the model is needed."""
    _write(options, RNN)


def _write(options: GenerateOptions, kind: str) -> None:
    place = device.choose(options.device, cuda=options.cuda)
    saved = load(find(options.checkpoint, kind), kind, place)
    state = saved.model.initial_state(1)
    text = write_text(saved.model.log_probabilities, state, saved.vocabulary, "word", options.words, options)
    print(text)
    save_text(text, options.outf)
