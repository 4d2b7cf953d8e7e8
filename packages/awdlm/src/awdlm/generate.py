"""``awdlm-generate``: text from a checkpoint alone."""

from dataclasses import dataclass
from pathlib import Path

from rnncore import device
from rnncore.flags import command, flag
from rnncore.generation import GenerationOptions, save_text, write_text

from awdlm.saved_model import find, load

DEFAULT = Path("model.pt")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """What ``awdlm-generate`` takes."""

    checkpoint: Path = flag(
        DEFAULT, "--checkpoint", help="a checkpoint or run directory; where model.pt is not there, the newest run"
    )
    words: int = flag(1000, "--words", help="tokens to write", minimum=1)
    outf: Path = flag(Path("generated.txt"), "--outf", help="file to write, besides the console")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU")
    data: str = flag("./data/penn", "--data", help="not needed: the checkpoint holds its vocabulary")
    model: str = flag("LSTM", "--model", help="not needed: the checkpoint describes itself")
    log_interval: int = flag(100, "--log-interval", help="not needed: text is shown when it is done", minimum=1)


@command(
    GenerateOptions,
    name="awdlm-generate",
    examples=["awdlm-generate --checkpoint PTB.pt --words 200 --temperature 0.8 --prompt 'the company'"],
)
def main(options: GenerateOptions) -> None:
    """Write text with a trained model. The checkpoint describes itself: no flag of the model is needed."""
    place = device.choose(options.device, cuda=options.cuda)
    saved = load(find(options.checkpoint, DEFAULT, flag="--checkpoint"), place)
    text = write_text(
        saved.model.log_probabilities,
        saved.model.initial_state(1),
        saved.vocabulary,
        saved.options.level,
        options.words,
        options,
    )
    print(text)
    save_text(text, options.outf)
