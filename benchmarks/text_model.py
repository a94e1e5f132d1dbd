"""Text of any size with a corpus' statistics, seeded; new words come as in the corpus.

A repeated corpus, or words drawn from a fixed list, would flatter whatever remembers
words. Here each word continues a Pitman-Yor process that the corpus began: it copies a
word drawn from all earlier ones, but where it would copy a word's first occurrence, it
is, with probability d, a word never seen before. New words then come at the rate
d V / n after n words, V of them distinct, which is Heaps' law with exponent d, and d is
what the corpus has. A new word's characters are drawn by the two before them, as in the
words that the corpus has once.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shallower.corpus.parquet import Writer, read_texts

BLOCK = 1 << 18  # words drawn at once; none copies from its own block
START, END = "\x02", "\x03"


class Row(NamedTuple):
    """A document, as the corpus stage writes it, without its origin."""

    id: str
    text: str


class WordModel:
    """What a corpus says about its words: continues it, in documents of its lengths."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        texts = random.Random(seed).sample(texts, len(texts))  # as if without topics
        self._draw = np.random.default_rng(seed)
        number: dict[str, int] = {}
        ids = [number.setdefault(w, len(number)) for t in texts for w in t.split(" ")]
        self.lengths = np.array([text.count(" ") + 1 for text in texts])
        self.words = list(number)
        self.ids = np.array(ids, np.int32)
        self.exponent = _heaps_exponent(self.ids)
        counts = Counter(ids)
        self._new = _Characters(
            [word for word, i in number.items() if counts[i] == 1], self._draw
        )
        self._known = {"", *number}

    def documents(self, size: int) -> Iterator[str]:
        """Documents of `size` bytes of UTF-8 in all, or a little more."""
        words, done = self._stream(), 0
        waiting: list[str] = []
        while done < size:
            length = int(self._draw.choice(self.lengths))
            while len(waiting) < length:
                waiting += next(words)
            # From the end, which is cheap; the order of words is by chance anyway.
            text = " ".join(waiting[-length:])
            del waiting[-length:]
            done += len(text.encode())
            yield text

    def _stream(self) -> Iterator[list[str]]:
        """Words without end, a block at a time."""
        total = len(self.ids)
        history = np.empty(2 * total, np.int32)
        history[:total] = self.ids
        first = np.zeros(2 * total, bool)
        first[np.unique(self.ids, return_index=True)[1]] = True
        while True:
            if total + BLOCK > len(history):
                history.resize(2 * len(history) + BLOCK, refcheck=False)
                first.resize(len(history), refcheck=False)
            source = self._draw.integers(total, size=BLOCK)
            new = first[source] & (self._draw.random(BLOCK) < self.exponent)
            ids = history[source]
            ids[new] = len(self.words) + np.arange(new.sum())
            self.words += self._unseen(int(new.sum()))
            history[total : total + BLOCK] = ids
            first[total : total + BLOCK] = new
            total += BLOCK
            yield list(map(self.words.__getitem__, ids.tolist()))

    def _unseen(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            drawn = dict.fromkeys(self._new.words(count))
            chosen = [word for word in drawn if word not in self._known]
            found += chosen[: count - len(found)]
            self._known.update(found)
        return found


class _Characters:
    """Makes words, each character drawn by the two before it."""

    def __init__(self, words: Sequence[str], draw: np.random.Generator) -> None:
        self._draw = draw
        trigrams: Counter[tuple[str, str, str]] = Counter()
        for word in words:
            marked = f"{START}{START}{word}{END}"
            trigrams.update(zip(marked, marked[1:], marked[2:], strict=False))
        entries = sorted(trigrams)
        contexts = sorted({(a, b) for a, b, _ in entries})
        number = {context: i for i, context in enumerate(contexts)}
        counts = np.array([trigrams[entry] for entry in entries], float)
        context = np.array([number[a, b] for a, b, _ in entries])
        sums = np.cumsum(counts)
        totals = np.bincount(context, counts)
        before = np.concatenate([[0.0], np.cumsum(totals)[:-1]])
        # An entry ends at its context's number plus its share so far: one search finds
        # the context and, in it, the entry.
        self._ends = context + (sums - before[context]) / totals[context]
        self._ends[np.flatnonzero(np.diff(context, append=-1))] = np.arange(
            1, len(contexts) + 1
        )
        self._next = np.array([number.get((b, c), -1) for _, b, c in entries])
        self._characters = np.array([ord(c) for _, _, c in entries], np.uint32)
        self._start = number[START, START]

    def words(self, count: int, longest: int = 40) -> list[str]:
        """`count` words, by chance also known ones or one twice; those too long cut."""
        state = np.full(count, self._start)
        rows = np.zeros((count, longest), np.uint32)
        running = np.arange(count)
        for column in range(longest):
            spot = state[running] + self._draw.random(len(running))
            entry = np.searchsorted(self._ends, spot, side="right")
            going = self._next[entry] >= 0
            running, entry = running[going], entry[going]
            rows[running, column] = self._characters[entry]
            state[running] = self._next[entry]
        # Fixed-width text, from which numpy drops the zeros at the end.
        return rows.view(f"<U{longest}")[:, 0].tolist()


def _heaps_exponent(ids: np.ndarray) -> float:
    """Of V ~ n^d, between half of the words and all of them."""
    half = len(np.unique(ids[: len(ids) // 2]))
    return math.log(len(np.unique(ids)) / half) / math.log(2)


def write_text(corpus: Path, size: int, path: Path, seed: int = 0) -> int:
    """Write a Parquet file as the corpus stage would; return its text's bytes."""
    written = 0
    with Writer(path, Row._fields) as writer:
        model = WordModel(list(read_texts(corpus)), seed)
        for index, text in enumerate(model.documents(size)):
            writer.add(Row(str(index), text))
            written += len(text.encode())
    return written
