"""Claims and contrasts with their verdicts: two tables, and numbers for the text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pandas as pd

from shallower.reporting.labels import label
from shallower.reporting.latex import (
    MISSING,
    escape,
    interval,
    number,
    scientific,
    tabular,
)
from shallower.reporting.results import Results

DIGITS = {
    "nats": 3,
    "ratio": 2,
    "percent": 2,
    "correlation": 2,
}  # by unit; others are counts
SOURCES = {
    "verdicts": "claim of the original",
    "second": "claim of the thesis",
    "third": "claim on skipping",
    "fourth": "claim on elimination",
}
VALUE = r"(?:(?!__)[\w.-])*[a-z0-9]"
ARM = re.compile(rf"[a-z][a-z0-9_]*-\d+(?:__[a-z_]+={VALUE})+")  # a model with options
VERDICTS = ("supported", "not supported", "inconclusive", "not tested")


def claims_table(results: Results) -> str:
    """Every claim: effect with interval, threshold and verdict."""
    rows: list[list[str] | str] = []
    status = None
    for _, row in results.claims.iterrows():
        if status not in (None, row["status"]):
            rows.append(r"\midrule")
        status = row["status"]
        rows.append(
            [
                escape(row["id"]),
                escape(row["claim"]),
                shown(row, "effect"),
                _interval(row),
                shown(row, "threshold"),
                escape(str(row["unit"])),
                rf"\textbf{{{row['verdict']}}}"
                if row["verdict"] != "not tested"
                else "not tested",
            ]
        )
    header = ["", "claim", "effect", r"95\,\% interval", "threshold", "unit", "verdict"]
    return tabular(r"l>{\raggedright\arraybackslash}p{7.4cm}rrrll", [header], rows)


def notes_table(results: Results) -> str:
    """What stands behind each verdict."""
    rows = [
        [escape(row["id"]), row["verdict"], escape(with_labels(row["note"]))]
        for _, row in results.claims.fillna({"note": ""}).iterrows()
    ]
    layout = r"ll>{\raggedright\arraybackslash}p{12.4cm}"
    return tabular(layout, [["", "verdict", "behind it"]], rows)


def with_labels(note: str) -> str:
    """Models that something is done to, which have long names, in words."""
    return ARM.sub(lambda found: f"\u201c{label(found[0])}\u201d", note)


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`verdict.C5`, `claim.C5`, `claim.C5.low`, `.high`, `.threshold`; counts.

    `verdicts.*` counts those of the original, `second.*` those of the thesis, `third.*`
    and `fourth.*` those on skipping and on elimination.
    """
    table = results.claims
    for _, row in table.iterrows():
        key = f"claim.{row['id']}"
        yield f"verdict.{row['id']}", row["verdict"]
        yield key, shown(row, "effect")
        for part, column in (("low", "ci_low"), ("high", "ci_high")):
            yield f"{key}.{part}", shown(row, column)
        yield f"{key}.threshold", shown(row, "threshold")
    for key, status in SOURCES.items():
        chosen = table[table["status"] == status]
        yield f"{key}.claims", str(len(chosen))
        for verdict in VERDICTS:
            names = list(chosen.loc[chosen["verdict"] == verdict, "id"])
            yield f"{key}.{verdict.replace(' ', '_')}", str(len(names))
            listed = ", ".join(names) or "none"
            yield f"{key}.{verdict.replace(' ', '_')}.ids", listed


def shown(row: pd.Series, column: str) -> str:
    """A value in the digits of its unit; tiny ones as powers of ten."""
    value = row[column]
    if value is None or math.isnan(value):
        return MISSING
    if row["unit"] == "logits":
        return scientific(value)
    return number(value, DIGITS.get(row["unit"], 0))


def _interval(row: pd.Series) -> str:
    if row["unit"] == "logits":
        return MISSING
    return interval(row["ci_low"], row["ci_high"], DIGITS.get(row["unit"], 0))
