"""Numbers of the text about all methods in one plane."""

from __future__ import annotations

from collections.abc import Iterator

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.interventions import AXES, against_curve
from shallower.analysis.results import Results
from shallower.reporting.labels import SYSTEMS, printed
from shallower.reporting.latex import MISSING, number
from shallower.reporting.numbers.sentences import VERDICTS, listed, spread


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Who is on the front, how surely; who gains over fewer blocks, more training."""
    fact = results.fact
    for key in ("models", "depth", *SYSTEMS):
        yield f"front.{key}", number(fact(f"front.{key}"), 0)
    for axis in AXES:
        for key in ("size", "depths", "near"):
            yield f"front.{axis}.{key}", number(fact(f"front.{axis}.{key}"), 0)
        yield f"front.{axis}.models", _on_front(results, axis)
        yield from _best(results, axis)
    for axis in (*AXES, "training"):
        for key in (*VERDICTS, "compared"):
            name = f"front.{axis}.gains.{key.replace(' ', '_')}"
            yield name, number(fact(name), 0)
    yield from _interactions(results)


def _on_front(results: Results, axis: str) -> str:
    """The models on the front with their probabilities, fastest first."""
    table, names = results.pareto, results.study.names
    rows = table[(table["axis"] == axis) & table["on_front"].astype(bool)]
    shown = [
        f"{printed(names[row['label']])} ({number(row['on_front_probability'])})"
        for row in rows.sort_values("latency").to_dict("records")
    ]
    return listed(shown, ";") if shown else MISSING


def _best(results: Results, axis: str) -> Iterator[tuple[str, str]]:
    """The largest gain over fewer blocks."""
    asked: Comparison = against_curve("", "depth", axis)
    found = results.estimates_of(kind="gain", right="depth", metric=asked.metric)
    known = [one for one in found if one.effect == one.effect]
    best = min(known, key=lambda one: one.effect, default=Estimate.missing(asked))
    names = results.study.names
    yield f"has.front.{axis}.best", "yes" if known else ""
    yield f"front.{axis}.best", printed(names[best.left]) if known else MISSING
    yield from spread(f"front.{axis}.best.gain", best, 3)


def _interactions(results: Results) -> Iterator[tuple[str, str]]:
    """How many pairs of changes there are, and which do not add up."""
    found = results.estimates_of(kind="interaction")
    yield "has.interactions", "yes" if found else ""
    for key in ("", ".better", ".worse"):
        count = results.fact(f"front.interactions{key}")
        yield f"front.interactions{key}", number(count, 0)
    names = results.study.names
    for key, chosen in (
        ("better", [one.left for one in found if one.ci_high < 0]),
        ("worse", [one.left for one in found if one.ci_low > 0]),
    ):
        shown = listed((printed(names[label]) for label in chosen), ";")
        yield f"front.interactions.{key}.models", shown
