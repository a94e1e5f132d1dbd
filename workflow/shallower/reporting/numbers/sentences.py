"""Pieces of sentences that several topics share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from shallower.analysis.estimates import Estimate
from shallower.analysis.results import Results
from shallower.analysis.verdicts import without_models
from shallower.reporting.latex import number

VERDICTS = ("supported", "not supported", "inconclusive", "not tested")
GAINS = {  # verdict on a gain -> in words
    "supported": "better",
    "not_supported": "worse",
    "inconclusive": "undecided",
    "not_tested": "not comparable",
}


def spread(key: str, found: Estimate, digits: int) -> Iterator[tuple[str, str]]:
    """An effect, its interval, and `.text`, both in words (see `measured`).

    A dash where it was not measured: the text asks for it by `ifresult` first.
    """
    yield key, number(found.effect, digits)
    yield f"{key}.low", number(found.ci_low, digits)
    yield f"{key}.high", number(found.ci_high, digits)
    yield f"{key}.text", measured(found, digits)


def measured(found: Estimate, digits: int) -> str:
    """An effect with unit and interval: `0.02 nats (0.01 to 0.03)`."""
    effect = number(found.effect, digits)
    if math.isnan(found.effect):
        return effect
    effect += "~nats" if found.unit == "nats" else ""
    if math.isnan(found.ci_low):
        return f"{effect} (no interval)"
    ends = (number(end, digits) for end in (found.ci_low, found.ci_high))
    return f"{effect} ({' to '.join(ends)})"


def counted_gains(results: Results, key: str) -> str:
    """How gains come out: `2 undecided and 1 not comparable`."""
    counts = {words: results.fact(f"{key}.gains.{v}") for v, words in GAINS.items()}
    return listed(f"{n:.0f} {words}" for words, n in counts.items() if n > 0)


def tally(results: Results, source: str) -> str:
    """Claims of a source by verdict: `2 supported (S3-2 and S3-4)`.

    Of those that the study has models for.
    """
    table = results.claims[results.claims["source"] == source]
    table = table[~without_models(table["note"])]
    parts = []
    for verdict in VERDICTS:
        ids = list(table.loc[table["verdict"] == verdict, "id"].astype(str))
        if ids:
            parts.append(f"{len(ids)} {verdict} ({listed(ids)})")
    return listed(parts)


def spanned(depths: list[int]) -> str:
    """Ascending numbers in words: `5`, `1 and 5`, `5 to 8`."""
    if len(depths) > 2:
        return f"{depths[0]} to {depths[-1]}"
    return listed(map(str, depths))


def by_rate(whose: Mapping[float, Iterable[str]]) -> str:
    """Learning rates and the models that have them: `0.002 for A and B; and ...`."""
    return listed(
        (f"{rate:g} for {listed(names)}" for rate, names in whose.items()), ";"
    )


def listed(items: Iterable[str], comma: str = ",") -> str:
    """a, b and c; empty for none. A semicolon as comma where items have commas."""
    *front, last = list(items) or [""]
    if not front:
        return last
    return f"{f'{comma} '.join(front)}{comma if comma != ',' else ''} and {last}"
