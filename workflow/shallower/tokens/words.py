"""Texts encoded a word at a time, so that a word seen before is only looked up.

SentencePiece's BPE writes a space as U+2581 and merges neighbours only if the result
is a piece. Where no piece has a U+2581 behind another character, nothing is merged
across the start of a word, and a text's ids are those of its words in a row. Most words
of natural text have been seen before. Texts come in batches: what is done for each word
of a text is left to Arrow, and Python sees each of a batch's words once.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from shallower.tokens.tokenizer import Tokenizer

SPACE = "\u2581"  # what SentencePiece writes for one
# Words of a generation, of which there are two: tens of megabytes. Longer ones hardly
# recur.
CAPACITY, LONGEST = 1 << 17, 32

# A space that a word follows and that follows a word. Further ones belong to the word,
# since a piece may be a run of spaces.
_BETWEEN = re.compile(r"(?<=[^ ]) (?!\Z)")
_CROSSING = re.compile(f"[^{SPACE}]{SPACE}| ")


class WordEncoder:
    """A tokenizer's ids as bytes: `Tokenizer.encode`'s, but faster.

    With a tokenizer whose words do not stand alone each text is encoded as a whole.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self._tokenizer, self._typecode = tokenizer, dtype.char
        self._alone = words_stand_alone(tokenizer)
        # Two generations of words. When one is full it becomes the elder and a new one
        # begins, into which the elder's words move as they are met: frequent ones stay,
        # and memory has a bound.
        self._known: dict[str, bytes] = {}
        self._elder: dict[str, bytes] = {}

    def encode(self, texts: list[str]) -> list[bytes]:
        """Piece ids of each text as raw integers, without BOS and EOS."""
        parts, offsets = self._parts(texts)
        distinct = parts.dictionary_encode()
        ids = np.array(self._ids(distinct.dictionary.to_pylist()), object)
        in_order = ids[distinct.indices.to_numpy()].tolist()
        return [b"".join(in_order[start:end]) for start, end in pairwise(offsets)]

    def _parts(self, texts: list[str]) -> tuple[pyarrow.Array, list[int]]:
        """What can be encoded one by one, of all texts, and where each text starts."""
        if self._alone and not any(map(_unusual, texts)):
            split = pyarrow.compute.split_pattern(_strings(texts), " ")
            return split.values, split.offsets.to_pylist()
        rows = [words(text) if self._alone else [text] for text in texts]
        offsets = list(accumulate(map(len, rows), initial=0))
        return _strings(list(chain.from_iterable(rows))), offsets

    def _ids(self, distinct: list[str]) -> list[bytes | None]:
        """Ids of words, all different: looked up, or made and kept."""
        found = list(map(self._known.get, distinct))
        lacking = [i for i, ids in enumerate(found) if ids is None]
        new = []
        for i in lacking:
            found[i] = self._elder.get(distinct[i])
            if found[i] is None:
                new.append(i)
        encoded = self._tokenizer.encode_all([distinct[i] for i in new])
        for i, ids in zip(new, encoded, strict=True):
            found[i] = array(self._typecode, ids).tobytes()
        if len(self._known) >= CAPACITY:
            self._known, self._elder = {}, self._known
        for i in lacking:
            word, raw = distinct[i], found[i]
            if len(word) <= LONGEST and raw is not None:
                self._known[word] = raw
        return found


def _strings(texts: list[str]) -> pyarrow.Array:
    return pyarrow.array(texts, pyarrow.large_string())  # a batch may exceed 2 GiB


def _unusual(text: str) -> bool:
    """Whether to split `text` at its spaces would not do."""
    odd = "  " in text or text.startswith(" ") or text.endswith(" ")
    return odd or SPACE in text


def words(text: str) -> list[str]:
    """Parts that a space joins to `text`, and that can be encoded one by one.

    A U+2581 in the text itself looks like a space to SentencePiece; such a text remains
    whole.
    """
    if SPACE in text:
        return [text]
    return _BETWEEN.split(text) if _unusual(text) else text.split(" ")


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
