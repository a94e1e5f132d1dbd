"""Contamination: runs of words or characters that also occur in the training text.

A bare substring says nothing ("Yes." occurs everywhere), so only runs count: 8 words
or 50 characters. The texts under suspicion are held as hashes of their runs, and the
training text streams past them once, whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WORDS = 8
CHARACTERS = 50

Hashes = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15  # odd and large, so that high bits are mixed
_SLOTS = 64  # of the filter, per known run: few unknown runs share one
_MOST_SLOTS = 1 << 27  # one byte each
_MARKER = re.compile(r"\n\n(?:Human|Assistant):")
_WORD = re.compile(r"\w+")


def word_runs(text: str) -> Hashes:
    """Hashes of all runs of 8 words; case and punctuation do not count."""
    words = _WORD.findall(_comparable(text))
    # Python's hash of a string differs between processes, which is well: only equality
    # within this one matters.
    values = np.fromiter(map(hash, words), np.int64, len(words))
    return _runs(values.view(np.uint64), WORDS)


def character_runs(text: str) -> Hashes:
    """Hashes of all runs of 50 characters; case and sort of space do not count."""
    encoded = " ".join(_comparable(text).split()).encode("utf-32-le")
    return _runs(np.frombuffer(encoded, np.uint32).astype(np.uint64), CHARACTERS)


@lru_cache(maxsize=1)  # words and characters of one text are asked for in turn
def _comparable(text: str) -> str:
    """Without the speakers of a conversation, which all conversations share."""
    return _MARKER.sub(" ", text).casefold()


def _runs(values: Hashes, size: int) -> Hashes:
    """A polynomial hash modulo 2**64 of every window of `size` values.

    By doubling, since it is made of the hashes of its parts: that of 50 values takes 7
    passes over the text, not 50.
    """
    if len(values) < size:
        return np.zeros(0, np.uint64)
    result, length = values, 1  # of windows of one value, each its own hash
    for bit in bin(size)[3:]:
        shift = np.uint64(pow(_BASE, length, 2**64))
        result = result[:-length] * shift + result[length:]
        length *= 2
        if bit == "1":
            result = result[:-1] * np.uint64(_BASE) + values[length:]
            length += 1
    return result


class Overlap:
    """How much of each text occurs in the training documents given to `see`."""

    def __init__(
        self, texts: Iterable[str], runs: Callable[[str], Hashes] = word_runs
    ) -> None:
        self._runs = runs
        self._own = [np.unique(runs(text)) for text in texts]
        nothing = np.zeros(0, np.uint64)
        self._known = np.unique(np.concatenate([nothing, *self._own]))
        self._seen = np.zeros(len(self._known), bool)
        # Nearly every run of the training text is unknown: its leading bits say so
        # without a search among millions.
        slots = min(_MOST_SLOTS, max(2, _SLOTS * len(self._known)))
        self._shift = np.uint64(65 - slots.bit_length())
        self._filter = np.zeros(2**64 >> int(self._shift), bool)
        self._filter[self._known >> self._shift] = True

    def see(self, text: str) -> None:
        """Compare with one more training document."""
        if not len(self._known):
            return
        runs = self._runs(text)
        runs = runs[self._filter[runs >> self._shift]]
        places = np.searchsorted(self._known, runs)
        places[places == len(self._known)] = 0
        self._seen[places[self._known[places] == runs]] = True

    def shares(self) -> list[float]:
        """For each text, the part of its different runs that was seen, 0 to 1.

        A text too short to have any run shares nothing.
        """
        return [
            float(self._seen[np.searchsorted(self._known, own)].mean())
            if len(own)
            else 0.0
            for own in self._own
        ]
