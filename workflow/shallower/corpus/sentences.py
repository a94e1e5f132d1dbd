"""A small sentence splitter for encyclopedic English."""

from __future__ import annotations

import re

# An end mark, closing quotes or brackets, and white space.
_BOUNDARY = re.compile(r"[.!?][\"'”’)\]]*(\s+)")
_FIRST_LETTER = re.compile(r"[\"'“‘(\[]*([^\W_])")
# Whatever stands before a full stop, back to white space or an opening bracket.
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # "U.S", "e.g", "J"
_TITLE = re.compile(
    r"dr|mrs?|ms|prof|st|sr|sen|rep|gov|gen|col|lt|capt|maj|sgt|cmdr|rev|hon|mt|ft|fr"
    r"|messrs|vs|approx|ca|cf|viz|eds?|trans",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"nos?|vol|pp|fig|eq|op", re.IGNORECASE)  # "No. 5"
_SHORTENED = re.compile(
    r"jr|inc|ltd|co|corp|bros|etc|dept|univ|assn|ph\.d"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
# After an abbreviation that may end a sentence, these words mean that it did.
_STARTER = re.compile(
    r"[^\w]*(?:the|its?|he|his|she|her|they|their|this|these|that|those|in|on|at|from"
    r"|since|after|although|as|an|and|but|by|during|for|however|when|while|with|many"
    r"|most|some|other|one|two|there)\b",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """Split prose into sentences; abbreviations and initials do not end one."""
    found, start = [], 0
    for match in _BOUNDARY.finditer(text):
        first = _FIRST_LETTER.match(text, match.end())
        if not first or first[1].islower():
            continue
        if text[match.start()] == "." and not _ends(text, match.start(), match.end()):
            continue
        found.append(text[start : match.start(1)].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends(text: str, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` ends a sentence, and not only a word."""
    last = _LAST_WORD.search(text, max(0, stop - 40), stop)
    word = last.group() if last else ""
    if _TITLE.fullmatch(word):
        return False
    if _NUMBERED.fullmatch(word):
        return not text[following].isdigit()
    if _INITIALS.fullmatch(word) or _SHORTENED.fullmatch(word):
        return bool(_STARTER.match(text, following))
    return True
