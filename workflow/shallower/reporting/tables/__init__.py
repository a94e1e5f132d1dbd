"""Tables, by topic: each module has `TABLES`, file name -> function that writes it."""

from __future__ import annotations

from collections.abc import Callable

from shallower.analysis.results import Results

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
