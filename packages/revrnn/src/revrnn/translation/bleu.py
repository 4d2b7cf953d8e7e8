"""BLEU on the given tokenisation (Papineni et al. 2002), as sacrebleu computes it (Post 2018, arXiv 1804.08771)."""

from collections.abc import Sequence
from typing import NamedTuple

from rnncore.errors import UserError


class Bleu(NamedTuple):
    """``score`` from 0 to 100, and the ``signature`` that says how it was computed."""

    score: float
    signature: str


def bleu(translations: Sequence[str], references: Sequence[str]) -> Bleu:
    """Of tokenised texts, line by line. Raises UserError where sacrebleu is not installed, or for unequal lengths."""
    if len(translations) != len(references):
        raise UserError(f"there are {len(translations):,} translations and {len(references):,} references")
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError("BLEU needs the package sacrebleu: install it") from None
    # The text is tokenised already; force keeps sacrebleu from warning that it looks so.
    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score(list(translations), [list(references)])
    return Bleu(float(score.score), str(metric.get_signature()))
