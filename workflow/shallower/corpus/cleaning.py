"""One normal form for text, so that equal texts are equal strings."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

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
