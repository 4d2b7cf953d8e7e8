"""``revrnn-nmt-translate``: translates a text with a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rnncore import device
from rnncore.atomic_file import cannot_write, require_folder_for
from rnncore.errors import UserError
from rnncore.flags import REQUIRED, command, flag
from rnncore.run_options import device_problem
from rnncore.strict_json import json_text

from revrnn.translation.beam import Penalties
from revrnn.translation.bleu import bleu
from revrnn.translation.building import load_model
from revrnn.translation.encoded import Pairs, Texts, pairs_of
from revrnn.translation.foreign import SECTION as FOREIGN
from revrnn.translation.foreign import refuse_foreign
from revrnn.translation.model import UNKNOWN, Batch, TranslationModel
from revrnn.translation.parallel_text import read_lines, write_lines
from revrnn.translation.picture import draw_attention
from revrnn.translation.translator import Search, Translation, Translator

COMMAND = "revrnn-nmt-translate"


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """What ``revrnn-nmt-translate`` takes."""

    model: Path = flag(REQUIRED, "-model", help="a run directory of revrnn-nmt-train, or a checkpoint in it")
    source: Path = flag(REQUIRED, "-src", help="the text, one tokenised sentence a line")
    target: Path | None = flag(None, "-tgt", help="its translation, to compare with")
    output: Path = flag(Path("pred.txt"), "-output", help="where the translations go")
    report_bleu: bool = flag(False, "-report_bleu", help="score the translations against -tgt")
    beam_size: int = flag(5, "-beam_size", help="beams", minimum=1, section="Search")
    n_best: int = flag(1, "-n_best", help="translations of each sentence", minimum=1, section="Search")
    min_length: int = flag(
        0, "-min_length", help="no sentence ends with fewer words, <s> counted", minimum=0, section="Search"
    )
    max_length: int = flag(100, "-max_length", help="most words of a translation", minimum=1, section="Search")
    alpha: float = flag(0.0, "-alpha", help="length penalty", section="Search")
    beta: float = flag(-0.0, "-beta", help="coverage penalty", section="Search")
    replace_unknown: bool = flag(
        False, "-replace_unk", help="put the source word with most attention for an unknown word", section="Search"
    )
    batch_size: int = flag(30, "-batch_size", help="sentences translated at a time", minimum=1, section="Search")
    verbose: bool = flag(
        False, "-verbose", help="print each sentence, its translations and their scores", section="Output"
    )
    attention_debug: bool = flag(False, "-attn_debug", help="print the attention of each sentence", section="Output")
    dump_beam: str = flag("", "-dump_beam", help="file for the beams of each sentence, as JSON", section="Output")
    picture: Path | None = flag(
        None, "--attention_picture", help="file for a picture of a sentence's attention", section="Output", yields=True
    )
    picture_line: int = flag(
        1, "--attention_line", help="the sentence of the picture, from 1", minimum=1, section="Output", yields=True
    )
    gpu: int = flag(-1, "-gpu", help="number of the GPU; -1: --device", minimum=0, section="Run")
    device: str = flag(
        "auto", "--device", help="auto, cpu, cuda or cuda:N", check=device_problem, section="Run", yields=True
    )
    threads: int | None = flag(None, "--threads", help="CPU threads", minimum=1, section="Run", yields=True)
    data_type: str = flag("text", "-data_type", help="text; OpenNMT-py has others", section=FOREIGN)
    source_dir: str = flag("", "-src_dir", help="images and speech", section=FOREIGN)
    report_rouge: bool = flag(False, "-report_rouge", help="summaries' score", section=FOREIGN)
    dynamic_dict: bool = flag(False, "-dynamic_dict", help="copying", section=FOREIGN)
    share_vocab: bool = flag(False, "-share_vocab", help="the model knows; either does", section="Run")
    sample_rate: int = flag(16000, "-sample_rate", help="speech", section=FOREIGN)
    window_size: float = flag(0.02, "-window_size", help="speech", section=FOREIGN)
    window_stride: float = flag(0.01, "-window_stride", help="speech", section=FOREIGN)
    window: str = flag("hamming", "-window", help="speech", section=FOREIGN)

    def check(self) -> None:
        """Raises UserError for what does not go together, and for what belongs to other systems."""
        refuse_foreign(self)
        if self.report_bleu and self.target is None:
            raise UserError("-report_bleu needs the reference: give -tgt")
        if self.n_best > self.beam_size:
            raise UserError(f"-n_best {self.n_best} needs a -beam_size at least as large, not {self.beam_size}")


@command(
    TranslateOptions,
    name=COMMAND,
    examples=[
        f"{COMMAND} -model runs/toy -src data/toy/test.en.tok.low -tgt data/toy/test.de.tok.low -report_bleu",
        f"{COMMAND} -model runs/toy -src text.en -verbose --attention_picture attention.png",
    ],
)
def main(options: TranslateOptions) -> None:
    """Translate a text, with beam search, and compare it with a reference.

    The text is tokenised as the training text was (revrnn-nmt-data does it); upper case is made lower where the
    model's vocabulary is lower case. Scores are natural logarithms of probabilities.
    """
    options.check()
    device.set_threads(options.threads)
    place = device.choose(f"cuda:{options.gpu}" if options.gpu >= 0 and options.device == "auto" else options.device)
    _make_room(options)
    model, vocabularies, _, saved = load_model(options.model)
    model.to(place)
    source, target = _texts(options, bool(saved["lower"]))
    if options.picture is not None:
        _check_picture(options, model, len(source))
    penalties = Penalties(options.alpha, options.beta) if options.alpha or options.beta else None
    search = Search(options.beam_size, options.n_best, options.min_length, options.max_length, penalties)
    found = Translator(model, vocabularies).translate(
        [line.split() for line in source],
        search,
        batch_size=options.batch_size,
        replace_unknown=options.replace_unknown,
        keep_beams=bool(options.dump_beam),
    )
    best = [" ".join(each.words[0]) for each in found]
    _save(options, found)
    if options.verbose or options.attention_debug:
        _show(options, source, target, found)
    _summarise(source, vocabularies[0], found)
    if target is not None:
        print(f"gold: {_gold(model, source, target, vocabularies, place)}")
        if options.report_bleu:
            score, signature = bleu(best, target)
            print(f"BLEU {score:.2f} ({signature})")
    if options.picture is not None:
        _draw(options, source, found)


def _make_room(options: TranslateOptions) -> None:
    """Sees, before the work, that the files which are asked for have a folder to go to."""
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(options.output, error) from error
    require_folder_for(options.output, "-output")
    if options.dump_beam:
        require_folder_for(Path(options.dump_beam), "-dump_beam")
    if options.picture is not None:
        require_folder_for(options.picture, "--attention_picture")


def _texts(options: TranslateOptions, lower: bool) -> tuple[list[str], list[str] | None]:
    """The text and, if given, its reference, in the case that the model knows."""
    source = read_lines(options.source)
    if not source:
        raise UserError(f"{options.source} is empty: there is nothing to translate")
    target = None if options.target is None else read_lines(options.target)
    if target is not None and len(target) != len(source):
        raise UserError(f"{options.source} has {len(source):,} lines and {options.target} has {len(target):,}")
    if lower:
        source, target = [line.lower() for line in source], target and [line.lower() for line in target]
    return source, target


def _save(options: TranslateOptions, found: list[Translation]) -> None:
    lines = [" ".join(words) for each in found for words in each.words[: options.n_best]]
    write_lines(options.output, lines)
    if options.dump_beam:
        write_lines(Path(options.dump_beam), [json_text([each.beams or {} for each in found])])
    print(f"{len(lines):,} translations in {options.output}")


def _show(options: TranslateOptions, source: list[str], target: list[str] | None, found: list[Translation]) -> None:
    for number, (line, each) in enumerate(zip(source, found, strict=True)):
        if options.verbose:
            print(f"SENT {number + 1}: {line}")
            for words, hypothesis in list(zip(each.words, each.hypotheses, strict=True))[: options.n_best]:
                print(f"PRED {number + 1}: {' '.join(words)}\nSCORE {hypothesis.score:.4f}")
            if target is not None:
                print(f"GOLD {number + 1}: {target[number]}")
        attention = each.hypotheses[0].attention
        if options.attention_debug and attention is not None:
            print(_table(line.split(), each.words[0], attention))


def _table(source: Sequence[str], words: Sequence[str], attention: torch.Tensor) -> str:
    """Attention as text: a line for each word of the translation, a column for each of the source."""
    width = max(map(len, words), default=0)
    rows = [" " * width + "".join(f" {word[:8]:>8}" for word in source)]
    for word, weights in zip(words, attention[:, : len(source)].tolist(), strict=True):
        rows.append(f"{word:>{width}}" + "".join(f" {weight:8.3f}" for weight in weights))
    return "\n".join(rows)


def _summarise(source: list[str], vocabulary: list[str], found: list[Translation]) -> None:
    known = set(vocabulary)
    words = [word for line in source for word in line.split()]
    unknown, empty = sum(word not in known for word in words), sum(not line.split() for line in source)
    if unknown:
        print(f"{unknown:,} of {len(words):,} source words are not in the model's vocabulary")
    if empty:
        print(f"{empty:,} empty lines have empty translations")
    written = sum(len(each.hypotheses[0].words) for each in found)
    total = sum(each.hypotheses[0].score for each in found)
    if written:
        print(f"mean score of a sentence {total / max(1, len(found) - empty):.4f}")


@torch.no_grad()
def _gold(
    model: TranslationModel,
    source: list[str],
    target: list[str],
    vocabularies: tuple[list[str], list[str]],
    place: torch.device,
) -> str:
    """What the model thinks of the reference."""
    pairs: Pairs = pairs_of(Texts(source, target), vocabularies)
    if not len(pairs):
        return "no pair without an empty line"
    total, words = 0.0, sum(len(sentence) + 1 for sentence in pairs.target)
    for first in range(0, len(pairs), 64):
        batch: Batch = pairs.batch(range(first, min(first + 64, len(pairs)))).to(place)
        total += float(model.loss(batch).loss)
    unknown = sum(int((sentence == UNKNOWN).sum()) for sentence in pairs.target)
    more = f", {unknown:,} words unknown" if unknown else ""
    return f"{-total / len(pairs):.4f} a sentence, {total / words:.4f} nats a word{more}"


def _check_picture(options: TranslateOptions, model: TranslationModel, lines: int) -> None:
    if model.attention is None:
        raise UserError("this model has no attention (-global_attention none): there is nothing to draw")
    if options.picture_line > lines:
        raise UserError(f"--attention_line {options.picture_line} is beyond the {lines:,} lines of {options.source}")


def _draw(options: TranslateOptions, source: list[str], found: list[Translation]) -> None:
    assert options.picture is not None
    row = options.picture_line - 1
    attention = found[row].hypotheses[0].attention
    if attention is None or not found[row].words[0]:
        raise UserError(f"line {options.picture_line} has no translation to draw")
    draw_attention(options.picture, source[row].split(), found[row].words[0], attention)
    print(f"attention of line {options.picture_line}: {options.picture}")
