"""Tables, by topic: each module has `TABLES`, file name -> function that writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shallower.analysis.results import Results
from shallower.files import write_text
from shallower.reporting.contents import TABLES

Make = Callable[[Results], str]


def all_tables() -> dict[str, Make]:
    """Every table as a complete LaTeX tabular, by the name of its file."""
    from shallower.reporting.tables import (
        elimination,
        ffn,
        front,
        heads,
        skipping,
        study,
        t5,
    )

    topics = (study, heads, ffn, t5, skipping, elimination, front)
    return {name: make for topic in topics for name, make in topic.TABLES.items()}


def write_tables(directory: Path, output: Path | None = None) -> None:
    """Write every table of `contents.TABLES` into `tables/` of `output`."""
    results, makers = Results.read(directory), all_tables()
    for name in TABLES:
        path = (output or directory) / "tables" / f"{name}.tex"
        write_text(path, makers[name](results))
