"""Tables, by topic: each module has `TABLES`, file name -> function that writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shallower.analysis.results import Results
from shallower.files import write_text
from shallower.reporting.contents import TABLES
from shallower.reporting.numbers import all_numbers

Make = Callable[[Results], str]


def all_tables() -> dict[str, Make]:
    """Every table as a complete LaTeX tabular, by the name of its file."""
    from shallower.reporting.tables import (
        ffn,
        front,
        heads,
        interventions,
        study,
    )

    topics = (study, heads, ffn, interventions, front)
    return {name: make for topic in topics for name, make in topic.TABLES.items()}


def write_tables(directory: Path, output: Path | None = None) -> None:
    r"""Write every table of `contents.TABLES` into `tables/` of `output`; numbers.tex.

    The latter has every number of the paper's text, by key. Each line is
    `\setresult{key}{text}`; the text asks for it by `\result{key}`, and an unknown key
    stops the build.
    """
    results, makers = Results.read(directory), all_tables()
    for name in TABLES:
        path = (output or directory) / "tables" / f"{name}.tex"
        write_text(path, makers[name](results))
    numbers = all_numbers(results)
    lines = [rf"\setresult{{{key}}}{{{text}}}" for key, text in numbers.items()]
    write_text((output or directory) / "numbers.tex", "\n".join(lines) + "\n")
