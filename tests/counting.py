"""Counts of what the tests of faults tried, for docs/reliability.md.

A test that gets through calls `tried` at its end. `python tests/counting.py COUNTS
PAGE` puts what all of them said between the page's markers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shallower.reporting.markdown import with_block

COUNTS = "FAULTS_COUNTS"  # names a file that counts are added to, a line each
MARKERS = ("<!-- counts -->", "<!-- end of counts -->")
Tried = Callable[[str, int, str], None]  # what, how often, what happened


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """Say what was tried, how often, and what happened: at the end of a test."""

    def note(what: str, times: int, happened: str) -> None:
        path = os.environ.get(COUNTS)
        if path:
            row = {"test": request.node.nodeid, "tried": what, "times": times}
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | {"happened": happened}) + "\n")

    return note


def table(rows: list[dict[str, str | int]]) -> str:
    """A line for each thing that was tried; the same things are added up."""
    times: dict[tuple[str, str], int] = {}
    for row in rows:
        key = str(row["tried"]), str(row["happened"])
        times[key] = times.get(key, 0) + int(row["times"])
    lines = ["| tried | times | what happened |", "|---|---:|---|"]
    lines += [f"| {what} | {n:,} | {end} |" for (what, end), n in sorted(times.items())]
    return "\n".join(lines) + "\n"


def main(counts: Path, page: Path) -> None:
    rows = [json.loads(line) for line in counts.read_text("utf-8").splitlines()]
    text = with_block(page.read_text("utf-8"), table(rows), MARKERS)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
