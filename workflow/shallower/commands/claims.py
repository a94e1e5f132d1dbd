"""The verdict table on the terminal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shallower.commands.terminal import say
from shallower.errors import UserError
from shallower.reporting.contents import VERDICTS
from shallower.terminal.numbers import STYLES, effect

Row = Mapping[str, str]


def read_claims(results: Path) -> list[Row]:
    """Rows of claims.csv. Raises UserError if the study has none yet."""
    path = results / "claims.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with `make paper`")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def show(
    claims: list[Row], console: Console, only: list[str] | None, notes: bool
) -> None:
    """Print the claims with effects, intervals and verdicts, and a count of verdicts.

    `only` are verdicts and ids: of each kind that is given one must fit.
    """
    known = {row["id"] for row in claims} | {*VERDICTS}
    for word in only or []:
        if word not in known:
            raise UserError(
                f"{word}: no such claim or verdict; verdicts are {', '.join(VERDICTS)}"
            )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("claim", ratio=1)
    table.add_column("effect, interval", max_width=30)
    table.add_column("verdict", no_wrap=True)
    for row in claims:
        if only and not {row["id"], row["verdict"]} & {*only}:
            continue
        verdict = Text(row["verdict"], STYLES.get(row["verdict"], "dim"))
        claim = Text(row["claim"])
        if notes and row["note"]:
            claim.append(f"\n{row['note']}", "dim")
        table.add_row(Text(row["id"]), claim, Text(effect(row)), verdict)
    console.print(table)
    counts = Counter(row["verdict"] for row in claims)
    shown = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    say(console, f"{len(claims)} claims: {shown}")
