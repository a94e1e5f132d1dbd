"""Contamination: runs of words or characters that also occur in the training text.

A bare substring says nothing ("Yes." occurs everywhere), so only runs count: 8 words
or 50 characters. The texts under suspicion are held as hashes of their runs, and the
training text streams past them once, whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

WORDS = 8
CHARACTERS = 50

Hashes = NDArray[np.uint64]
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd and large, so that high bits are mixed
_MARKER = re.compile(r"\n\n(?:Human|Assistant):")
_WORD = re.compile(r"\w+")


def word_runs(text: str) -> Hashes:
    """Hashes of all runs of 8 words; case and punctuation do not count."""
    words = _WORD.findall(_comparable(text))
    # Python's hash of a string differs between processes, which is well: only equality
    # within this one matters.
    values = np.fromiter((hash(word) for word in words), np.int64, len(words))
    return _runs(values.view(np.uint64), WORDS)


def character_runs(text: str) -> Hashes:
    """Hashes of all runs of 50 characters; case and sort of space do not count."""
    encoded = " ".join(_comparable(text).split()).encode("utf-32-le")
    return _runs(np.frombuffer(encoded, np.uint32).astype(np.uint64), CHARACTERS)


def _comparable(text: str) -> str:
    """Without the speakers of a conversation, which all conversations share."""
    return _MARKER.sub(" ", text).casefold()


def _runs(values: Hashes, size: int) -> Hashes:
    """A polynomial hash modulo 2**64 of every window of `size` values."""
    count = max(0, len(values) - size + 1)
    result = np.zeros(count, np.uint64)
    for offset in range(size):
        result *= _BASE
        result += values[offset : offset + count]
    return result


class Overlap:
    """How much of each text occurs in what was `see`n."""

    def __init__(
        self, texts: Iterable[str], runs: Callable[[str], Hashes] = word_runs
    ) -> None:
        self._runs = runs
        self._own = [np.unique(runs(text)) for text in texts]
        nothing = np.zeros(0, np.uint64)
        self._known = np.unique(np.concatenate([nothing, *self._own]))
        self._seen = np.zeros(len(self._known), bool)

    def see(self, text: str) -> None:
        """Compare with one more training document."""
        if not len(self._known):
            return
        runs = self._runs(text)
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
