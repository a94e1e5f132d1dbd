"""Which split a document belongs to: a pure function of the document."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import Literal

from shallower.corpus.cleaning import Document, digest
from shallower.errors import UserError

Split = Literal["train", "validation", "test", "questions"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "questions")

_PARTS = 20
_HELD_OUT: dict[int, Split] = {0: "validation", 1: "test", 2: "questions"}


def split_of(document: Document, unused: Collection[Split] = ()) -> Split:
    """Three times one twentieth is held out, by the title or else by the id.

    By title, so that no later version of a page moves into another split, and parts
    of one page stay together; adding documents moves none. What would be held out for
    an `unused` split trains.
    """
    split = _HELD_OUT.get(_number(document) % _PARTS, "train")
    return "train" if split in unused else split


def _number(document: Document) -> int:
    return int(digest(document.title or document.id), 16)


class Held:
    """Documents held out in memory, at most `limit`: those with the smallest hashes.

    Which are kept depends on the documents, not on their order. All parts of a page
    (documents of one title) are kept or none is, which may leave a few fewer.
    """

    # With their runs of words, 12 bytes a character: well below 2 GiB with all else.
    CHARACTERS = 60_000_000

    def __init__(self, limit: int | None, key: str) -> None:
        """`key` is the source in the configuration, for the error message."""
        self._limit, self._key = limit, key
        self._heap: list[tuple[int, int, Document]] = []  # largest hash first
        self._bound: int | None = None  # hashes from here on are over the limit
        self._added = self._characters = 0

    def add(self, document: Document) -> list[Document]:
        """Take a document; give back those that are over the limit thereby.

        Raises UserError if more text is to be held than fits in memory.
        """
        number = _number(document)
        if self._bound is not None and number >= self._bound:
            return [document]
        heapq.heappush(self._heap, (-number, self._added, document))
        self._added += 1
        self._characters += len(document.text)
        over: list[Document] = []
        if self._limit is not None and len(self._heap) > self._limit:
            self._bound = -self._heap[0][0]
            while self._heap and -self._heap[0][0] == self._bound:
                over.append(heapq.heappop(self._heap)[2])
        self._characters -= sum(len(each.text) for each in over)
        if self._characters > self.CHARACTERS:
            raise UserError(
                f"{self._key}: more than {self.CHARACTERS:,} characters in a held-out "
                f"split, after {len(self._heap):,} documents, expected fewer, since "
                "they are held in memory; set corpus.held_out_documents"
            )
        return over

    @property
    def documents(self) -> list[Document]:
        """What is kept, in the order it came."""
        by_place = sorted((place, document) for _, place, document in self._heap)
        return [document for _, document in by_place]
