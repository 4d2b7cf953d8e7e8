"""Token strings and their numbers."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnncore.errors import UserError

UNKNOWN = "<unk>"
END_OF_SENTENCE = "<eos>"

_ESCAPE = re.compile(r"\\(?:\\|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4}))")


class Vocabulary:
    """An ordered set of token strings; a token's id is its place.

    The file format (`save`, `load`) is UTF-8 text, one token a line, line number minus one is the id. A backslash is
    written ``\\\\``; a white-space or unprintable character is written ``\\uXXXX`` or ``\\UXXXXXXXX`` (hexadecimal),
    so that any string survives, a space, a line end or the empty string included.

    Args:
        tokens: distinct strings, in the order of their ids.

    Raises:
        UserError: a token stands twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens: tuple[str, ...] = tuple(tokens)
        self._ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self._ids) != len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self._ids[token] != i)
            raise UserError(f"the vocabulary holds the token {twice!r} twice; each token may stand once")
        self._unknown = self._ids.get(UNKNOWN)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def index(self, token: str) -> int:
        """The id of `token`, or that of ``<unk>`` where the token is not known.

        Raises:
            UserError: the token is not known and the vocabulary has no ``<unk>``.
        """
        found = self._ids.get(token, self._unknown)
        if found is None:
            raise UserError(
                f"the token {token!r} is not in the vocabulary, which has no {UNKNOWN}; use known tokens only"
            )
        return found

    def encode(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """Ids of `tokens` by `index`: int64 of shape [len(tokens)].

        Raises:
            UserError: as `index`.
        """
        return np.fromiter(map(self.index, tokens), np.int64, len(tokens))

    def decode(self, ids: ArrayLike) -> list[str]:
        """The token strings of `ids`, a flat sequence, array or CPU tensor of integers.

        Raises:
            UserError: an id is negative or not below the size of the vocabulary.
        """
        numbers: list[int] = np.asarray(ids, dtype=np.int64).ravel().tolist()
        for number in numbers:
            if not 0 <= number < len(self):
                raise UserError(f"the id {number} is outside the vocabulary of {len(self)} tokens; use its own ids")
        return [self.tokens[number] for number in numbers]

    def save(self, path: Path) -> None:
        """Write the file described in the class.

        Raises:
            OSError: the file cannot be written.
        """
        text = "".join(f"{_escape(token)}\n" for token in self.tokens)
        path.write_bytes(text.encode("utf-8"))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a file that `save` wrote.

        Raises:
            UserError: the file cannot be read, is not UTF-8, is cut off, or holds a bad escape or a token twice.
        """
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise UserError(
                f"{path}: cannot read the vocabulary ({error.strerror}); name a file that exists"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a vocabulary (invalid UTF-8 at byte {error.start}); save it again") from error
        if text and not text.endswith("\n"):
            raise UserError(f"{path}: the vocabulary is cut off (its last line has no end); save it again")
        lines = text.split("\n")[:-1]
        try:
            return cls([_unescape(line) if "\\" in line else line for line in lines] if "\\" in text else lines)
        except UserError as error:
            raise UserError(f"{path}: {error.message}") from error


def _escape(token: str) -> str:
    if token.isprintable() and "\\" not in token and " " not in token:
        return token
    return "".join(map(_escape_character, token))


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() and not character.isspace():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescape(line: str) -> str:
    if "\\" in _ESCAPE.sub("", line):
        raise UserError(f"the line {line!r} holds a backslash that is no escape; save the vocabulary again")
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)) if found[1] or found[2] else "\\", line)
