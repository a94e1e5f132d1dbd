"""Figures, by topic: each module has `FIGURES`, file name -> function that draws it."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from shallower.analysis.results import Results

Draw = Callable[[Results], Figure]


def all_figures() -> dict[str, Draw]:
    """Every figure, by the name of its file."""
    from shallower.reporting.figures import (
        elimination,
        ffn,
        front,
        heads,
        roofline,
        search,
        skipping,
    )

    topics = (heads, search, roofline, ffn, skipping, elimination, front)
    return {name: draw for topic in topics for name, draw in topic.FIGURES.items()}
