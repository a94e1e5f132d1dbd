"""Numbers of the text, by topic: each module has `numbers(results)`, key and text."""

from __future__ import annotations

from pathlib import Path

from shallower.analysis.results import Results
from shallower.files import write_text


def all_numbers(results: Results) -> dict[str, str]:
    """Every key with its text, ready for LaTeX."""
    from shallower.reporting import benchmarks
    from shallower.reporting.numbers import (
        elimination,
        ffn,
        front,
        heads,
        skipping,
        study,
        t5,
    )

    topics = (study, heads, ffn, t5, skipping, elimination, front)
    found = {key: text for topic in topics for key, text in topic.numbers(results)}
    return found | dict(benchmarks.numbers())


def write_numbers(directory: Path, output: Path | None = None) -> None:
    r"""Write numbers.tex: every number of the paper's text, by key.

    Each line is `\setresult{key}{text}`; the text asks for it by `\result{key}`, and an
    unknown key stops the build.
    """
    numbers = all_numbers(Results.read(directory))
    lines = [rf"\setresult{{{key}}}{{{text}}}" for key, text in numbers.items()]
    write_text((output or directory) / "numbers.tex", "\n".join(lines) + "\n")
