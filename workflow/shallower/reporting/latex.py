"""Text, numbers and tables as LaTeX."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # so that hyphens do not join to dashes
    "–": "--",
    "—": "---",
    # Not as in "``", which joins with what is before it: ?` is an inverted mark.
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\ldots{}",
    "µ": r"\textmu{}",
    "×": r"\texttimes{}",
    # Not at the beginning of a table's row, where they would belong to the row before.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\n": " ",
    "\t": " ",
}
MISSING = "{--}"
LONGEST_WORD = 24  # characters; a longer one is a path or the like


def escape(text: str) -> str:
    """Any text, generated text above all, as harmless LaTeX.

    pdfTeX has few glyphs: letters outside Latin-1 lose their accents, and what is left
    (other scripts, emoji, control characters) is counted in brackets.
    """
    joined = "".join(latex for _, latex in _pieces(text))
    return re.sub(",(?=,)", ",{}", joined)  # two commas would join to a low quote


def breakable(text: str) -> str:
    """Escaped text whose lines may break after punctuation, and within long words."""
    parts: list[str] = []
    length = 0  # of the word so far
    for last, latex in _pieces(text):
        length = 0 if last.isspace() else length + 1
        parts.append(latex)
        if last in "|/:;,._-" or length > LONGEST_WORD:
            parts.append(r"\allowbreak{}")
    return "".join(parts).removesuffix(r"\allowbreak{}")


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """The last character of each piece, and the piece as LaTeX."""
    for absent, run in groupby(unicodedata.normalize("NFC", text), _has_no_glyph):
        found = list(run)
        if absent:
            yield found[-1], rf"\textit{{[{_counted(found)}]}}"
        else:
            yield from ((c, SPECIAL.get(c) or _plain(c)) for c in found)


def _counted(characters: Sequence[str]) -> str:
    seen = [c for c in characters if unicodedata.category(c)[0] != "M"] or characters
    return "1 character" if len(seen) == 1 else f"{len(seen)} characters"


def _has_no_glyph(character: str) -> bool:
    return not (SPECIAL.get(character) or _plain(character) or _unseen(character))


def _unseen(character: str) -> bool:
    """Accents of their own and marks of layout are left out without a word."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _plain(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else ""
    if "\u00a1" <= character <= "\u00ff" and character.isalpha():
        return character
    simple = unicodedata.normalize("NFKD", character)
    ascii_only = "".join(c for c in simple if c.isascii() and c.isprintable())
    return "".join(SPECIAL.get(c, c) for c in ascii_only)


def number(value: float, digits: int = 2) -> str:
    """A number with fixed decimals and thousands separators; a dash for NaN."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:,.{digits}f}"
    text = text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
    return text.replace(",", "{,}").replace("-", "$-$")


def at_most(value: float, digits: int = 0) -> str:
    """A bound, which is never rounded down."""
    if math.isnan(value):
        return MISSING
    return number(math.ceil(value * 10**digits - 1e-9) / 10**digits, digits)


def significant(value: float, digits: int = 3) -> str:
    """A number with about `digits` significant digits, never in exponent form."""
    if value is None or math.isnan(value) or value == 0:
        return MISSING if value is None or math.isnan(value) else "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return number(value, decimals)


def scientific(value: float) -> str:
    """One digit and a power of ten, for errors; a dash for NaN."""
    if value is None or math.isnan(value):
        return MISSING
    digits, exponent = f"{value:.1e}".split("e")
    return rf"${digits}\cdot10^{{{int(exponent)}}}$"


def interval(low: float, high: float, digits: int = 2) -> str:
    """`[low, high]`, or a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return MISSING
    return f"[{number(low, digits)}, {number(high, digits)}]"


def tabular(
    columns: str,
    header: Sequence[Sequence[str] | str],
    rows: Sequence[Sequence[str] | str],
) -> str:
    """A booktabs tabular; a row given as a string is put in as it stands."""
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [_row(row) for row in header]
    lines.append(r"\midrule")
    lines += [_row(row) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def separated(
    rows: Iterable[tuple[object, Sequence[str]]], by: str = r"\addlinespace"
) -> list[Sequence[str] | str]:
    """Rows, each given with its group, and `by` wherever the group changes."""
    found: list[Sequence[str] | str] = []
    before: object = None
    for group, row in rows:
        if found and group != before:
            found.append(by)
        before = group
        found.append(row)
    return found


def absent_table() -> str:
    """A table that says that the study has no such experiment."""
    return tabular("l", [], [["not in this study"]])


def _row(row: Sequence[str] | str) -> str:
    return row if isinstance(row, str) else " & ".join(row) + r" \\"
