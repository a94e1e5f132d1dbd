"""Documents: one normal form for their text, and the split each belongs to."""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from shallower.errors import UserError

Split = Literal["train", "validation", "test", "questions"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "questions")

_PARTS = 20
_HELD_OUT: dict[int, Split] = {0: "validation", 1: "test", 2: "questions"}
_INVISIBLE = "\u200b\u2060\ufeff"  # zero-width space, word joiner, byte order mark
_SPACES = "\u00a0\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_KEPT = "\t\n"
_TABLE: dict[int, str | None] = {
    # Control characters, except tab and newline, belong to no text.
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], None),
    **{ord(kept): kept for kept in _KEPT},
    **dict.fromkeys(map(ord, _INVISIBLE), None),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **dict.fromkeys(map(ord, "\u0085\u2028\u2029"), "\n"),
}
_IN_TABLE = re.compile(
    "[" + "".join(c for c in map(chr, _TABLE) if c not in _KEPT) + "]"
)
_LINE_END = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


class Document(NamedTuple):
    """A cleaned document; `id` is the SHA-256 of its text."""

    id: str
    text: str
    domain: str
    title: str


def clean(text: str, *, collapse: bool = False) -> str:
    """Normalise a text. Cleaning twice changes nothing more.

    Unicode NFC; invisible and control characters go, special spaces become spaces.
    With `collapse`, all white space (newlines too) becomes single spaces: right for
    prose. Without, the layout stays, since indentation carries meaning in code: only
    trailing spaces, runs of blank lines, and blank lines around the text go.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _IN_TABLE.search(text):  # several times as fast as to translate
        text = text.translate(_TABLE)
    text = unicodedata.normalize("NFC", text)
    if collapse:
        return " ".join(text.split())
    # The patterns try every space; most texts have nothing for them.
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = _LINE_END.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def digest(text: str) -> str:
    """The SHA-256 of a text, hexadecimal: ids, splits and orders are made of it."""
    return hashlib.sha256(text.encode()).hexdigest()


def documents(
    rows: Iterable[Mapping[str, str]],
    minimum_characters: int,
    dropped: Counter[str],
    seen: set[bytes] | None = None,
) -> Iterator[Document]:
    """Clean rows of `text, domain, title`; drop short texts and repeated ones.

    What is dropped is counted in `dropped` as `too_short` and `duplicate`. `seen` has
    the digests of texts that came before these rows, and takes up those of these.
    """
    # Digests, about 100 bytes a document: the texts themselves may not fit in memory.
    seen = set() if seen is None else seen
    for row in rows:
        text = clean(row["text"])
        if len(text) < minimum_characters:
            dropped["too_short"] += 1
            continue
        identity = digest(text)
        if bytes.fromhex(identity) in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(bytes.fromhex(identity))
        domain = clean(row["domain"], collapse=True)
        title = clean(row["title"], collapse=True)
        yield Document(identity, text, domain, title)


# --- splits ---------------------------------------------------------------------------


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
