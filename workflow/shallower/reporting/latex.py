"""Text, numbers and tables as LaTeX."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

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
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "µ": r"\textmu{}",
    "×": r"\texttimes{}",
    "\n": " ",
    "\t": " ",
}
MISSING = "{--}"


def escape(text: str) -> str:
    """Any text, generated text above all, as harmless LaTeX.

    Characters outside Latin-1 lose their accents or become '?': pdfTeX has no glyphs
    for what a byte-fallback tokenizer may produce.
    """
    return "".join(SPECIAL.get(c) or _plain(c) for c in text)


def breakable(text: str) -> str:
    """Escaped text whose lines may break after punctuation: signatures, names."""
    parts = re.split(r"(?<=[|/:;,._-])", text)
    return r"\allowbreak{}".join(escape(part) for part in parts)


def _plain(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else "?"
    if "\u00a1" <= character <= "\u00ff" and character.isalpha():
        return character
    simple = unicodedata.normalize("NFKD", character)
    ascii_only = "".join(c for c in simple if c.isascii() and c.isprintable())
    return "".join(SPECIAL.get(c, c) for c in ascii_only) or "?"


def number(value: float, digits: int = 2) -> str:
    """A number with fixed decimals and thousands separators; a dash for NaN."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:,.{digits}f}"
    text = text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
    return text.replace(",", "{,}").replace("-", "$-$")


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
    exponent = math.floor(math.log10(abs(value))) if value else 0
    return rf"${value / 10**exponent:.1f}\cdot10^{{{exponent}}}$"


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
