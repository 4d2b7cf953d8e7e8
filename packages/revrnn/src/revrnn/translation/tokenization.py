"""Tokenisation as Moses does it, hyphens split off, nothing escaped (``tokenizer.perl -a -no-escape``)."""

from collections.abc import Iterable, Iterator

from rnncore.errors import UserError


def tokenized(lines: Iterable[str], language: str) -> Iterator[str]:
    """Each line's tokens, joined by single spaces. Raises UserError where sacremoses is not installed."""
    try:
        from sacremoses import MosesTokenizer  # a second to import; only this needs it
    except ImportError:
        raise UserError("tokenising needs the package sacremoses: install it") from None
    tokenizer = MosesTokenizer(lang=language)
    for line in lines:
        yield tokenizer.tokenize(line, aggressive_dash_splits=True, escape=False, return_str=True)
