"""Numbers of the text, by topic: each module has `numbers(results)`, key and text."""

from __future__ import annotations

from shallower.analysis.results import Results


def all_numbers(results: Results) -> dict[str, str]:
    """Every key with its text, ready for LaTeX."""
    from shallower.reporting.numbers import (
        ffn,
        front,
        gates,
        heads,
        interventions,
        story,
        study,
    )

    topics = (study, gates, story, heads, ffn, interventions, front)
    found = {key: text for topic in topics for key, text in topic.numbers(results)}
    return found | dict(study.benchmarks())
