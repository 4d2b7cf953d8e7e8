"""``revrnn-generate``: text from a checkpoint of ``revrnn-train`` alone."""

from dataclasses import dataclass
from pathlib import Path

from rnncore import checkpoint, device
from rnncore.flags import command, flag, from_dict
from rnncore.generation import GenerationOptions, save_text, write_text
from rnncore.run_directory import latest
from rnncore.vocabulary import Vocabulary

from revrnn.options import COMMAND, TrainOptions, build_model


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """What ``revrnn-generate`` takes."""

    run_dir: Path | None = flag(None, "--run_dir", help="run whose best model writes; otherwise the newest run")
    checkpoint: Path | None = flag(None, "--checkpoint", help="a checkpoint, or a run, instead of that")
    words: int = flag(200, "--words", help="tokens to write", minimum=1)
    outf: Path | None = flag(None, "--outf", help="file to write, besides the console")


@command(
    GenerateOptions,
    name="revrnn-generate",
    examples=["revrnn-generate --run_dir runs/wt2 --words 500 --temperature 0.8 --prompt 'the company'"],
)
def main(options: GenerateOptions) -> None:
    """Write text with a trained model. The checkpoint describes itself: no flag of the model is needed."""
    path = _model_of(options.checkpoint or options.run_dir or latest(COMMAND))
    place = device.choose(options.device)
    saved = checkpoint.load(path, kind=COMMAND)
    trained = from_dict(TrainOptions, saved["config"], source=str(path))
    vocabulary = Vocabulary(saved["vocabulary"])
    model = build_model(trained, len(vocabulary)).to(place)
    model.load_state_dict(saved["model"])
    model.eval()
    text = write_text(model, model.initial_state(1), vocabulary, trained.level, options.words, options)
    print(text)
    if options.outf is not None:
        save_text(text, options.outf)


def _model_of(path: Path) -> Path:
    """The checkpoint to write with: a run's best one, or its last where it has no best."""
    if not path.is_dir():
        return path
    best, last = path / "best.pt", path / "last.pt"
    return best if best.exists() or not last.exists() else last
