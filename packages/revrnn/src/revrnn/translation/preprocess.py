"""``revrnn-nmt-preprocess``: from pairs of tokenised text files to vocabularies and ids."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rnncore.errors import UserError
from rnncore.flags import REQUIRED, command, flag

from revrnn.translation.encoded import Pairs, Texts, TranslationData, ids, save
from revrnn.translation.fields import BEGIN_WORD, END_WORD, PADDING_WORD, UNKNOWN_WORD, build_vocabulary
from revrnn.translation.foreign import SECTION as FOREIGN
from revrnn.translation.foreign import refuse_foreign
from revrnn.translation.parallel_text import read_lines, read_pairs

COMMAND = "revrnn-nmt-preprocess"
Words = list[str]


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """What ``revrnn-nmt-preprocess`` takes."""

    train_source: Path = flag(REQUIRED, "-train_src", help="training text, one tokenised sentence a line")
    train_target: Path = flag(REQUIRED, "-train_tgt", help="its translation, line by line")
    valid_source: Path = flag(REQUIRED, "-valid_src", help="validation text")
    valid_target: Path = flag(REQUIRED, "-valid_tgt", help="its translation")
    save_data: str = flag(REQUIRED, "-save_data", help="how the files that are written begin")
    test_source: Path | None = flag(None, "-test_src", help="test text, for BLEU after training", yields=True)
    test_target: Path | None = flag(None, "-test_tgt", help="its translation", yields=True)
    source_vocabulary: Path | None = flag(
        None, "-src_vocab", help="words of the source, one a line, instead of counting"
    )
    target_vocabulary: Path | None = flag(None, "-tgt_vocab", help="words of the target")
    source_vocabulary_size: int = flag(50000, "-src_vocab_size", help="most words of the source", minimum=1)
    target_vocabulary_size: int = flag(50000, "-tgt_vocab_size", help="most words of the target", minimum=1)
    source_min_frequency: int = flag(0, "-src_words_min_frequency", help="how often a word must occur", minimum=0)
    target_min_frequency: int = flag(0, "-tgt_words_min_frequency", help="how often a word must occur", minimum=0)
    share_vocabulary: bool = flag(
        False, "-share_vocab", help="one vocabulary of both languages, with the size and frequency of the source's"
    )
    source_length: int = flag(50, "-src_seq_length", help="most words of a training sentence", minimum=1)
    source_truncate: int = flag(0, "-src_seq_length_trunc", help="words to cut sources to; 0: none are cut", minimum=0)
    target_length: int = flag(50, "-tgt_seq_length", help="most words of its translation", minimum=1)
    target_truncate: int = flag(0, "-tgt_seq_length_trunc", help="words to cut targets to; 0: none are cut", minimum=0)
    lower: bool = flag(False, "-lower", help="make all text lower case")
    shuffle: int = flag(1, "-shuffle", help="1: put the training pairs in random order", minimum=0, maximum=1)
    seed: int = flag(3435, "-seed", help="of that order", minimum=0)
    report_every: int = flag(100000, "-report_every", help="no progress is shown: it takes seconds", minimum=1)
    max_shard_size: int = flag(0, "-max_shard_size", help="no shards are needed; any number does", minimum=0)
    data_type: str = flag("text", "-data_type", help="text; OpenNMT-py has others", section=FOREIGN)
    source_dir: str = flag("", "-src_dir", help="OpenNMT-py's, for images and speech", section=FOREIGN)
    features_prefix: str = flag("", "-features_vocabs_prefix", help="OpenNMT-py's", section=FOREIGN)
    dynamic_dict: bool = flag(False, "-dynamic_dict", help="OpenNMT-py's", section=FOREIGN)
    sample_rate: int = flag(16000, "-sample_rate", help="OpenNMT-py's, for speech", section=FOREIGN)
    window_size: float = flag(0.02, "-window_size", help="OpenNMT-py's, for speech", section=FOREIGN)
    window_stride: float = flag(0.01, "-window_stride", help="OpenNMT-py's, for speech", section=FOREIGN)
    window: str = flag("hamming", "-window", help="OpenNMT-py's, for speech", section=FOREIGN)

    def check(self) -> None:
        """Raises UserError for what does not go together, and for what belongs to other systems."""
        refuse_foreign(self)
        if (self.test_source is None) != (self.test_target is None):
            raise UserError("-test_src and -test_tgt go together")
        if not Path(self.save_data).name:
            raise UserError(f"-save_data {self.save_data} is a folder: say how the files in it begin, too")
        if self.share_vocabulary and self.target_vocabulary is not None:
            raise UserError("-share_vocab takes the words of both languages from -src_vocab; leave -tgt_vocab out")


@command(
    PreprocessOptions,
    name=COMMAND,
    examples=[
        f"{COMMAND} -train_src train.en -train_tgt train.de -valid_src val.en -valid_tgt val.de -save_data mine -lower"
    ],
)
def main(options: PreprocessOptions) -> None:
    """Make vocabularies and ids of pairs of text files, for revrnn-nmt-train -data."""
    preprocess(options)


def preprocess(options: PreprocessOptions) -> TranslationData:
    """What the command does; returns what it has written. Raises UserError for files that do not fit."""
    options.check()
    train = _split(options, options.train_source, options.train_target)
    held_out = {"valid": _held_out(options, options.valid_source, options.valid_target)}
    if options.test_source is not None and options.test_target is not None:
        held_out["test"] = _held_out(options, options.test_source, options.test_target)
    train, note = _kept(options, train)
    valid = [pair for pair in held_out["valid"] if pair[0] and pair[1]]
    if options.shuffle:
        random.Random(options.seed).shuffle(train)
    vocabularies = _vocabularies(options, train)
    texts = {
        split: Texts([" ".join(source) for source, _ in pairs], [" ".join(target) for _, target in pairs])
        for split, pairs in held_out.items()
    }
    pairs = {
        split: Pairs(*(ids([pair[side] for pair in kept], vocabularies[side]) for side in (0, 1)))
        for split, kept in (("train", train), ("valid", valid))
    }
    data = TranslationData(vocabularies, pairs, texts, options.lower)
    save(Path(options.save_data), data)
    source, target = (len(vocabulary) for vocabulary in vocabularies)
    print(f"{len(train):,} training pairs{note}, {len(valid):,} for validation; {source:,} and {target:,} words")
    print(f"revrnn-nmt-train -data {options.save_data}")
    return data


def _split(options: PreprocessOptions, source: Path, target: Path) -> list[tuple[Words, Words]]:
    pairs = read_pairs(source, target)
    if options.lower:
        pairs = [(first.lower(), second.lower()) for first, second in pairs]
    return [(first.split(), second.split()) for first, second in pairs]


def _held_out(options: PreprocessOptions, source: Path, target: Path) -> list[tuple[Words, Words]]:
    pairs = _split(options, source, target)
    if not any(first and second for first, second in pairs):
        raise UserError(f"{source} and {target} have no pair without an empty line")
    return pairs


def _kept(options: PreprocessOptions, pairs: list[tuple[Words, Words]]) -> tuple[list[tuple[Words, Words]], str]:
    """The training pairs that are not empty or too long, cut if so wished, and a note of how many are not there."""
    empty = sum(not (source and target) for source, target in pairs)
    cut = [
        (source[: options.source_truncate or None], target[: options.target_truncate or None])
        for source, target in pairs
        if source and target
    ]
    kept = [pair for pair in cut if len(pair[0]) <= options.source_length and len(pair[1]) <= options.target_length]
    if not kept:
        raise UserError(
            f"no training pair is left: {empty:,} have an empty line, {len(cut):,} are longer than -src_seq_length "
            f"{options.source_length} or -tgt_seq_length {options.target_length}"
        )
    longer = len(cut) - len(kept)
    notes = [f"{empty:,} with an empty line"] * bool(empty) + [f"{longer:,} too long"] * bool(longer)
    return kept, f" ({' and '.join(notes)} left out)" if notes else ""


def _vocabularies(options: PreprocessOptions, train: list[tuple[Words, Words]]) -> tuple[Words, Words]:
    sources, targets = [source for source, _ in train], [target for _, target in train]
    if options.share_vocabulary:
        both = _vocabulary([*sources, *targets], options.source_vocabulary, True, options.source_vocabulary_size,
                           options.source_min_frequency)  # fmt: skip
        return both, both
    return (
        _vocabulary(sources, options.source_vocabulary, False, options.source_vocabulary_size,
                    options.source_min_frequency),
        _vocabulary(targets, options.target_vocabulary, True, options.target_vocabulary_size,
                    options.target_min_frequency),
    )  # fmt: skip


def _vocabulary(texts: Sequence[Words], given: Path | None, target: bool, largest: int, min_frequency: int) -> Words:
    if given is None:
        return build_vocabulary(texts, target=target, largest=largest, min_frequency=min_frequency)
    special = [UNKNOWN_WORD, PADDING_WORD, *([BEGIN_WORD, END_WORD] if target else [])]
    words = dict.fromkeys(word for line in read_lines(given) for word in line.split())
    return [*special, *[word for word in words if word not in special]][: largest + len(special)]
