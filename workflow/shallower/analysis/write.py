"""The rule `estimates`: collects comparisons, claims, tables and facts of all topics.

What a topic's module may have is said in `claims`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from shallower.analysis import front, intervention_facts
from shallower.analysis.claims import elimination, ffn, heads, skipping, t5
from shallower.analysis.claims.base import COLUMNS, Claim, Context, Fact, judged
from shallower.analysis.comparisons import comparisons
from shallower.analysis.estimates import adjusted, write_estimates
from shallower.analysis.results import Results
from shallower.analysis.verdicts import Verdict
from shallower.files import write_text

TOPICS: tuple[Any, ...] = (
    heads,
    ffn,
    t5,
    skipping,
    elimination,
    intervention_facts,
    front,
)


def write_analysis(directory: Path, output: Path | None = None) -> None:
    """Write estimates.csv, claims.csv, facts.csv and the topics' tables.

    `directory` is a study's folder; summaries, sizes and latency are read from it. The
    tables are written there, or to `output`.
    """
    output = output or directory
    results = Results.read(directory)
    context = Context(results)
    for comparison in comparisons(results.study, results):
        context.estimate(comparison)
    for topic in TOPICS:
        for comparison in _asked(topic, "comparisons", results.study):
            context.estimate(comparison)
    claims = judged(all_claims(context), context)
    tables: dict[str, pd.DataFrame] = {}
    for topic in TOPICS:
        tables |= _asked(topic, "tables", context)
    facts = [fact for topic in TOPICS for fact in _asked(topic, "facts", context)]
    facts += counted(claims)
    variants = {label: name.variant for label, name in results.names.items()}
    estimates = adjusted(context.used.values(), variants)
    write_estimates(output / "estimates.csv", estimates)
    tables["claims"] = pd.DataFrame(claims, columns=COLUMNS)
    tables["facts"] = pd.DataFrame([asdict(fact) for fact in facts])
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.10g")
        write_text(output / f"{name}.csv", text)


def all_claims(context: Context) -> Iterator[Claim]:
    """The claims of every topic, and the study's pre-registered contrasts."""
    for topic in TOPICS:
        yield from getattr(topic, "CLAIMS", ())
    yield from heads.contrasts(context.study)


def counted(claims: Iterable[dict[str, Any]]) -> Iterator[Fact]:
    """How many claims of each source have each verdict; contrasts are not counted."""
    sources = Counter(row["source"] for row in claims if not row["registered"])
    verdicts = Counter(
        (row["source"], row["verdict"]) for row in claims if not row["registered"]
    )
    for source, count in sources.items():
        yield Fact(f"claims.{source}", count)
        for verdict in get_args(Verdict):
            key = f"claims.{source}.{verdict.replace(' ', '_')}"
            yield Fact(key, verdicts[source, verdict])


def _asked(topic: Any, name: str, argument: Any) -> Any:
    """What a topic's function answers; nothing where the topic has no such function."""
    function = getattr(topic, name, None)
    return function(argument) if function else {}
