"""Which split a document belongs to: a pure function of the document."""

from __future__ import annotations

from typing import Literal

from shallower.corpus.cleaning import Document, digest

Split = Literal["train", "validation", "test", "questions"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "questions")

_PARTS = 20
_HELD_OUT: dict[int, Split] = {0: "validation", 1: "test", 2: "questions"}


def split_of(document: Document) -> Split:
    """Three times one twentieth is held out, by the title or else by the id.

    By title, so that no later version of a page moves into another split, and parts
    of one page stay together; adding documents moves none.
    """
    number = int(digest(document.title or document.id), 16) % _PARTS
    return _HELD_OUT.get(number, "train")
