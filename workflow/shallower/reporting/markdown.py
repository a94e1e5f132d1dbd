"""Numbers, tables and marked blocks of Markdown, for the README and pages in docs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shallower.errors import UserError
from shallower.reporting.numbers.study import DIGITS


def marked_page(path: Path, markers: tuple[str, str]) -> str:
    """The text of a page that has both markers once. UserError for any other."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not all(text.count(line) == 1 for line in markers):
        raise UserError(
            f"{path}: expected a page with the lines {markers[0]} and {markers[1]}, "
            "once each"
        )
    return text


def with_block(text: str, block: str, markers: tuple[str, str]) -> str:
    """The text of a page with another block between the markers."""
    before, rest = text.split(markers[0])
    after = rest.split(markers[1])[1]
    return f"{before}{markers[0]}\n{block}{markers[1]}{after}"


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its header."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


def printed(value: float, digits: int) -> str:
    """A number for people, with a real minus sign and none before a zero."""
    text = f"{value:,.{digits}f}"
    zero = float(text.replace(",", "")) == 0
    return text.removeprefix("-") if zero else text.replace("-", "−")


def shown(row: dict[str, Any], digits: int) -> str:
    """An effect, with its interval if it has one."""
    effect = printed(row["effect"], digits)
    if math.isnan(row["ci_low"]):
        return effect
    low, high = printed(row["ci_low"], digits), printed(row["ci_high"], digits)
    return f"{effect} [{low}, {high}]"


def effect_of(claim: dict[str, Any], interval: bool = True) -> str:
    """The effect of a row of claims.csv, in its unit; empty where there is none."""
    unit = claim["unit"]
    if math.isnan(claim["effect"]):
        return ""
    if unit == "logits":
        return f"{claim['effect']:.0e} logits"
    digits = DIGITS.get(unit, 0)
    text = shown(claim, digits) if interval else printed(claim["effect"], digits)
    return text if unit == "ratio" else f"{text} {unit}"
