"""``revrnn-generate``: text from a checkpoint of ``revrnn-train`` alone."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rnncore import checkpoint, device
from rnncore.errors import UserError
from rnncore.flags import command, flag, from_dict
from rnncore.generation import join_tokens, split_text, write
from rnncore.run_directory import latest
from rnncore.run_options import device_problem
from rnncore.vocabulary import Vocabulary

from revrnn.options import COMMAND, TrainOptions, build_model


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What ``revrnn-generate`` takes."""

    run_dir: Path | None = flag(None, "--run_dir", help="run whose best model writes; otherwise the newest run")
    checkpoint: Path | None = flag(None, "--checkpoint", help="a checkpoint instead of a run")
    words: int = flag(200, "--words", help="tokens to write", minimum=1)
    prompt: str = flag("", "--prompt", help="text to go on from")
    temperature: float = flag(1.0, "--temperature", help="below 1 likelier, 0 always the likeliest", minimum=0.0)
    top_k: int | None = flag(None, "--top_k", help="only among the k likeliest tokens", minimum=1)
    top_p: float | None = flag(None, "--top_p", help="only among the likeliest of this probability", above=0, maximum=1)
    unknown: bool = flag(False, "--unknown", help="let the model write <unk>")
    seed: int = flag(1111, "--seed", help="of the draws", minimum=0, maximum=2**32 - 1)
    outf: Path | None = flag(None, "--outf", help="file to write, besides the console")
    device: str = flag("auto", "--device", help="auto, cpu, cuda or cuda:N", check=device_problem)


@command(
    GenerateOptions,
    name="revrnn-generate",
    examples=["revrnn-generate --run_dir runs/wt2 --words 500 --temperature 0.8 --prompt 'the company'"],
)
def main(options: GenerateOptions) -> None:
    """Write text with a trained model. The checkpoint describes itself: no flag of the model is needed."""
    path = options.checkpoint or _best_of(options.run_dir or latest(COMMAND))
    place = device.choose(options.device)
    saved = checkpoint.load(path, kind=COMMAND)
    trained = from_dict(TrainOptions, saved["config"], source=str(path))
    vocabulary = Vocabulary(saved["vocabulary"])
    model = build_model(trained, len(vocabulary)).to(place)
    model.load_state_dict(saved["model"])
    model.eval()
    prompt = split_text(options.prompt, trained.level)
    written = write(
        model,
        model.initial_state(1),
        prompt,
        options.words,
        vocabulary,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        unknown=options.unknown,
        generator=torch.Generator(place).manual_seed(options.seed),
    )
    text = join_tokens([*prompt, *written], trained.level)
    print(text)
    if options.outf is not None:
        try:
            options.outf.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {options.outf}: {error.strerror}; choose another --outf") from error


def _best_of(run: Path) -> Path:
    best, last = run / "best.pt", run / "last.pt"
    return best if best.exists() or not last.exists() else last
