"""Texts encoded a word at a time, so that a word seen before is only looked up.

SentencePiece's BPE writes a space as U+2581 and merges neighbours only if the result
is a piece. Where no piece has a U+2581 behind another character, nothing is merged
across the start of a word, and a text's ids are those of its words in a row. Most words
of natural text have been seen before, and SentencePiece takes a hundred times as long
as a dictionary.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from shallower.tokens.tokenizer import Tokenizer

SPACE = "\u2581"  # what SentencePiece writes for one
# Of each generation, and there are two: tens of megabytes. Longer words hardly recur.
CAPACITY, LONGEST = 1 << 17, 32

# A space that a word follows and that follows a word. Further ones belong to the word,
# since a piece may be a run of spaces.
_BETWEEN = re.compile(r"(?<=[^ ]) (?!\Z)")
_CROSSING = re.compile(f"[^{SPACE}]{SPACE}| ")


class WordEncoder:
    """A tokenizer's ids as bytes: `Tokenizer.encode`'s, but faster.

    With a tokenizer whose words do not stand alone it is that method.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self._ids = _Words(tokenizer.encode, dtype.char).__getitem__
        self._words = words if words_stand_alone(tokenizer) else _whole

    def encode(self, text: str) -> bytes:
        """Piece ids of `text` as raw integers, without BOS and EOS."""
        return b"".join(map(self._ids, self._words(text)))


class _Words(dict[str, bytes]):
    """Words' ids; makes what it lacks, and keeps two generations of it.

    When one is full it becomes the elder and a new one begins, into which the elder's
    words move as they are met: frequent ones stay, and memory has a bound.
    """

    def __init__(self, encode: Callable[[str], list[int]], typecode: str) -> None:
        super().__init__()
        self._encode, self._typecode = encode, typecode
        self._elder: dict[str, bytes] = {}

    def __missing__(self, word: str) -> bytes:
        ids = self._elder.get(word)
        if ids is None:
            ids = array(self._typecode, self._encode(word)).tobytes()
        if len(word) <= LONGEST:
            if len(self) >= CAPACITY:
                self._elder = dict(self)
                self.clear()
            self[word] = ids
        return ids


def words(text: str) -> list[str]:
    """Parts that a space joins to `text`, and that can be encoded one by one.

    A U+2581 in the text itself looks like a space to SentencePiece; such a text remains
    whole.
    """
    if SPACE in text:
        return [text]
    if "  " in text or text.startswith(" ") or text.endswith(" "):
        return _BETWEEN.split(text)
    return text.split(" ")


def _whole(text: str) -> list[str]:
    return [text]


def words_stand_alone(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are those of its `words`, each encoded by itself.

    BPE must see the text as it is, each word with a space before it, and no piece may
    reach from one word into the next, nor may unknown characters, runs of which
    SentencePiece makes one: the space has to be known.
    """
    pieces = tokenizer.pieces
    model = _fields(pieces.serialized_model_proto())
    # A part that comes twice is one: its bytes in a row.
    trainer, normalizer = (_fields(b"".join(model.get(part, []))) for part in (2, 3))
    space = pieces.piece_to_id(SPACE)
    return (
        _last(trainer, 3) == 2  # model_type: BPE
        and not _last(trainer, 24)  # treat_whitespace_as_suffix
        and not _last(normalizer, 2)  # precompiled_charsmap: none is identity
        and _last(normalizer, 3, 1) == 1  # add_dummy_prefix
        and _last(normalizer, 4, 1) == 0  # remove_extra_whitespaces
        and _last(normalizer, 5, 1) == 1  # escape_whitespaces
        and space != tokenizer.unknown
        and not pieces.is_unused(space)
        and not any(map(_CROSSING.search, pieces.id_to_piece(list(range(len(pieces))))))
    )


def _last(fields: dict[int, list[Any]], number: int, default: int = 0) -> Any:
    return fields.get(number, [default])[-1]


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Fields of a protocol buffer, each an int or bytes, in their order by number.

    The names stand in SentencePiece's sentencepiece_model.proto, whose numbers are kept
    for good. To read it by its own means would take the package protobuf.
    """
    fields: dict[int, list[Any]] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        number, kind = divmod(varint(), 8)
        found: int | bytes = varint() if kind in (0, 2) else {1: 8, 5: 4}[kind]
        if kind:  # it is a size
            position, start = position + int(found), position
            found = message[start:position]
        fields.setdefault(number, []).append(found)
    return fields
