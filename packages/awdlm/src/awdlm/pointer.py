"""``awdlm-pointer``: a trained model with a continuous cache over its recent states (Grave et al. 2016)."""

import dataclasses
import time
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rnncore import device, side_by_side
from rnncore.atomic_file import cannot_write, require_folder_for
from rnncore.datasets import loss_unit
from rnncore.flags import command, flag
from rnncore.loss_units import converted
from rnncore.progress_bar import ProgressBar
from rnncore.run_options import device_problem
from rnncore.strict_json import json_text
from torch import Tensor

from awdlm.cache import ContinuousCache
from awdlm.model import AWDModel, State
from awdlm.saved_model import SavedModel, find, load, load_corpus

DATA, SAVE, MODEL = "data/penn", Path("best.pt"), "LSTM"
#: Most time steps that the model reads at once, whatever --bptt is, and positions that are decoded at once.
STEPS, ROWS = 140, 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointerOptions:
    """What ``awdlm-pointer`` takes."""

    save: Path = flag(SAVE, "--save", help="a checkpoint or run directory; where best.pt is not there, the newest run")
    data: str = flag(DATA, "--data", help="a data set's name, or a directory; left out, what the model was trained on")
    model: str = flag(MODEL, "--model", help="refuses a checkpoint of another kind", choices=("LSTM", "GRU", "QRNN"))
    window: int = flag(3785, "--window", help="states that the cache holds", minimum=1)
    theta: float = flag(0.6625523432485668, "--theta", help="sharpness of the cache", minimum=0.0)
    lambdasm: float = flag(0.12785920428335693, "--lambdasm", help="the cache's share", minimum=0.0, maximum=1.0)
    partial: bool = flag(False, "--partial", help="use the cache before it is full", yields=True)
    bptt: int = flag(5000, "--bptt", help=f"time steps at once, at most {STEPS}; does not change the result", minimum=1)
    output: Path | None = flag(
        None,
        "--output",
        help="file for the figures, as JSON; null is an infinite loss, as of a word that a cache of share 1 lacks",
        yields=True,
    )
    cuda: bool = flag(False, "--cuda", help="ask for a GPU")
    device: str = flag("auto", "--device", help="auto, cpu, cuda or cuda:N", check=device_problem, yields=True)
    amp: Literal["bf16"] | None = flag(
        None, "--amp", help="mixed precision: bf16 computes matrix products in bfloat16", yields=True
    )
    threads: int | None = flag(None, "--threads", help="CPU threads; otherwise torch's choice", minimum=1, yields=True)


class Losses(NamedTuple):
    """Mean losses of a text, in nats per token, without and with the cache, and the time it took, in seconds."""

    model: float
    cached: float
    seconds: float


@command(
    PointerOptions,
    name="awdlm-pointer",
    examples=[
        "awdlm-pointer --save PTB.pt --lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000",
        "awdlm-pointer --save WT2.pt --lambdasm 0.1279 --theta 0.662 --window 3785 --bptt 2000 --data wikitext-2",
    ],
)
def main(options: PointerOptions) -> None:
    """Evaluate a trained model with a continuous cache: validation and test perplexity, without it and with it.

    The cache holds the model's last --window states, and what followed them. It proposes what followed states like the
    present one. Nothing is trained. As in the original it is used only once it is full, unless --partial is given.
    """
    if options.output is not None:
        require_folder_for(options.output, "--output")
    place = device.choose(options.device, cuda=options.cuda)
    device.set_threads(options.threads)
    file = find(options.save, SAVE, flag="--save")
    saved = load(file, place, expected=options.model if options.model != MODEL else None)
    data = saved.options.data if options.data == DATA else options.data
    corpus = load_corpus(dataclasses.replace(saved.options, data=data), saved.vocabulary)
    print(f"{saved.options.model} in {saved.path} on {data}, cache of {options.window} states", flush=True)
    results = {}
    for split in ("valid", "test"):
        text = corpus.columns(split, 1, place)
        cache = ContinuousCache(window=options.window, theta=options.theta, partial=options.partial)
        with device.autocast(place, options.amp):
            losses = evaluate(saved.model, text, cache, lambdasm=options.lambdasm, length=min(options.bptt, STEPS))
        results[split] = losses
        print(_line(split, losses, saved, len(text) - 1), flush=True)
    if options.output is not None:
        figures = {split: losses._asdict() for split, losses in results.items()}
        try:
            options.output.write_text(json_text(figures, indent=1) + "\n")
        except OSError as error:
            raise cannot_write(options.output, error) from error


@torch.no_grad()
def evaluate(model: AWDModel, text: Tensor, cache: ContinuousCache, *, lambdasm: float, length: int) -> Losses:
    """The losses of a text ``[T, 1]`` over all its targets, ``length`` time steps at once.

    The model reads a long text in pieces side by side, the cache goes over its states from beginning to end.
    """
    begin, bar, count = time.perf_counter(), ProgressBar(), len(text) - 1
    place, seen, plain, cached = 0, 0, 0.0, 0.0
    bar.start("pointer", total=count, done=0)

    def read(ids: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        nonlocal seen
        outputs, new = model(ids, state), min(ids.numel(), count - seen)  # what is read twice is not counted twice
        bar.advance(new)
        seen += new
        return outputs.dropped[-1], outputs.state

    for windows in side_by_side.read(read, text, model.initial_state, length=length):
        states = torch.cat(windows).transpose(0, 1).flatten(0, 1)
        for hidden in torch.split(states, ROWS):
            targets = text[place + 1 : place + 1 + len(hidden)]
            log_vocab = -model.loss_rows(hidden[:, None], targets)
            mixed = cache.mixed_log_probability(log_vocab, hidden, targets[:, 0], lambdasm=lambdasm)
            plain -= float(log_vocab.double().sum())
            cached -= float(mixed.double().sum())
            place += len(hidden)
    bar.close()
    return Losses(plain / count, cached / count, time.perf_counter() - begin)


def _line(split: str, losses: Losses, saved: SavedModel, count: int) -> str:
    unit = loss_unit(saved.options.level, saved.options.data)
    without, with_cache = (converted(loss, unit) for loss in (losses.model, losses.cached))
    speed = f"{1e3 * losses.seconds / count:.3f} ms a token"
    return f"{split}: {unit} {without:.3f} without the cache | {unit} {with_cache:.3f} with it | {speed}"
