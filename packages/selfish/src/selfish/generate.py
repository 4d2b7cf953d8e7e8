"""``selfish-generate``: text from a checkpoint alone."""

from dataclasses import dataclass
from pathlib import Path

from rnncore import device
from rnncore.flags import command, flag
from rnncore.generation import GenerationOptions, save_text, write_text

from selfish.saved_model import find, load


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """What ``selfish-generate`` takes."""

    checkpoint: Path | None = flag(
        None, "--checkpoint", help="a checkpoint, an export or a run directory; otherwise the newest run"
    )
    words: int = flag(1000, "--words", help="tokens to write", minimum=1)
    outf: Path = flag(Path("generated.txt"), "--outf", help="file to write, besides the console")
    cuda: bool = flag(False, "--cuda", help="ask for a GPU")


@command(
    GenerateOptions,
    name="selfish-generate",
    examples=["selfish-generate --checkpoint PTB.pt --words 200 --temperature 0.8 --prompt 'the company'"],
)
def main(options: GenerateOptions) -> None:
    """Write text with a trained model. The checkpoint describes itself: no flag of the model is needed."""
    place = device.choose(options.device, cuda=options.cuda)
    saved = load(find(options.checkpoint, flag="--checkpoint"), place)
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
