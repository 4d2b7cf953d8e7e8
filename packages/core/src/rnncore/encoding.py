"""Text to token ids, a piece at a time.

Memory is bounded by the vocabulary and one piece of text, whatever the length of the file. The work on each word is one
`bytes.split`, one dictionary look-up and one store, all in loops of C code over a whole piece. (A hash table in numpy
halves the time, which is paid once per corpus, for a hundred lines more.)
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rnncore.errors import UserError
from rnncore.id_files import write_ids
from rnncore.vocabulary import END_OF_SENTENCE

BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACED_END = f" {END_OF_SENTENCE} ".encode()


class Encoder(Protocol):
    """Gives each new token the next free id."""

    def encode(self, piece: bytes) -> NDArray[np.int32]:
        """Ids of the tokens of `piece`: valid UTF-8 that ends between two tokens."""

    def tokens(self) -> list[str]:
        """All tokens so far, in the order of their ids."""


class WordEncoder:
    """Tokens are the runs between ASCII white space (space, tab, CR, VT, FF); a line end is the token ``<eos>``."""

    def __init__(self) -> None:
        self._ids: defaultdict[bytes, int] = defaultdict()
        self._ids.default_factory = self._ids.__len__

    def encode(self, piece: bytes) -> NDArray[np.int32]:
        """Ids of the words of `piece`."""
        words = piece.replace(b"\n", _SPACED_END).split()
        return np.fromiter(map(self._ids.__getitem__, words), np.int32, len(words))

    def tokens(self) -> list[str]:
        """All words so far, in the order of their ids."""
        return [word.decode("utf-8") for word in self._ids]


class CharacterEncoder:
    """Tokens are Unicode characters; a line end (LF or CR LF) is the token ``<eos>``."""

    def __init__(self) -> None:
        self._tokens: list[str] = []
        self._id_of_code = np.full(0x110000, -1, np.int32)

    def encode(self, piece: bytes) -> NDArray[np.int32]:
        """Ids of the characters of `piece`."""
        codes = np.frombuffer(piece.replace(b"\r\n", b"\n").decode("utf-8").encode("utf-32-le"), "<u4")
        ids: NDArray[np.int32] = self._id_of_code[codes]
        if (ids < 0).any():
            new = list(dict.fromkeys(codes[ids < 0].tolist()))
            self._id_of_code[new] = np.arange(len(self._tokens), len(self._tokens) + len(new), dtype=np.int32)
            self._tokens += [END_OF_SENTENCE if code == 0x0A else chr(code) for code in new]
            ids = self._id_of_code[codes]
        return ids

    def tokens(self) -> list[str]:
        """All characters so far, in the order of their ids."""
        return list(self._tokens)


def encode_file(source: Path, encoder: Encoder, target: Path, advance: Callable[[int], object]) -> str:
    """Write the ids of the text `source` to the id file `target` (`rnncore.id_files`).

    Args:
        source: UTF-8 text. A leading byte-order mark is dropped; a last line without a line end counts as a line.
        encoder: gives the ids, and remembers those of the new tokens.
        target: file to write.
        advance: is told the number of bytes read, block by block.

    Returns:
        The SHA-256 of the bytes of `source`, in hexadecimal.

    Raises:
        UserError: `source` cannot be read, is not valid UTF-8 (names the line), or holds nothing but white space.
        OSError: `target` cannot be written.
    """
    digest = hashlib.sha256()

    def blocks() -> Iterator[bytes]:
        for block in read_blocks(source):
            digest.update(block)
            advance(len(block))
            yield block

    def ids() -> Iterator[NDArray[np.int32]]:
        holds_text = False
        for piece in cut_pieces(blocks(), source):
            holds_text = holds_text or bool(piece.strip())
            yield encoder.encode(piece)
        if not holds_text:
            raise UserError(f"{source} holds no text; put at least one line of text in it")

    write_ids(target, ids())
    return digest.hexdigest()


def read_blocks(source: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a file, `size` at a time.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with source.open("rb") as file:
            while block := file.read(size):
                yield block
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}); check the path and its permissions") from error


def cut_pieces(blocks: Iterable[bytes], source: Path) -> Iterator[bytes]:
    """Cut the text in `blocks` anew, so that each piece ends after a line end or, in a long line, after a space.

    A leading byte-order mark is dropped and a missing last line end is added. A line without any space is one piece,
    however long. `source` is the file's name in messages.

    Raises:
        UserError: the text is not valid UTF-8 (names the file and the line).
    """
    last, line = b"\n", 1
    for piece in _cut(blocks):
        _check_utf8(piece, source, line)
        line += piece.count(b"\n")
        last = piece
        yield piece
    if not last.endswith(b"\n"):
        yield b"\n"


def _cut(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest, begun = b"", False
    for block in blocks:
        cut = (block.rfind(b"\n") + 1) or (block.rfind(b" ") + 1)
        if not cut:
            rest += block
            continue
        piece, rest = rest + block[:cut], block[cut:]
        yield piece if begun else piece.removeprefix(_BYTE_ORDER_MARK)
        begun = True
    if rest:
        yield rest if begun else rest.removeprefix(_BYTE_ORDER_MARK)


def _check_utf8(piece: bytes, source: Path, first_line: int) -> None:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + piece.count(b"\n", 0, error.start)
        raise UserError(
            f"{source}, line {line}: invalid UTF-8 ({error.reason}, byte 0x{piece[error.start]:02x}); save it as UTF-8"
        ) from error
