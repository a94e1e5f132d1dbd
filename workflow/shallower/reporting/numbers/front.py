"""Numbers of the text about all methods in one plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.interactions import IDLE
from shallower.analysis.interventions import AXES
from shallower.analysis.results import Results
from shallower.reporting.labels import printed
from shallower.reporting.latex import MISSING, number
from shallower.reporting.numbers.sentences import listed, spread


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """Who is on the front, and how surely; the sentences on gains are in `story`."""
    fact = results.fact
    for key in ("models", "depth"):
        yield f"front.{key}", number(fact(f"front.{key}"), 0)
    for axis in AXES:
        yield f"front.{axis}.size", number(fact(f"front.{axis}.size"), 0)
        yield f"front.{axis}.models", _on_front(results, axis)
    found = results.estimates_of(kind="interaction", scale="study")
    counted = any(IDLE not in one.note for one in found)
    yield "has.interactions", "yes" if counted else ""
    yield from _checkpoint(results)


def _checkpoint(results: Results) -> Iterator[tuple[str, str]]:
    """The same of the first checkpoint, over blocks left out of it; both together."""
    study, fact = results.study, results.fact
    base = study.timed_on if study.scored else ""
    yield "has.trained", "yes" if study.models else ""
    yield "pretrained.name", printed(study.names[base]) if base else MISSING
    count = fact("pretrained.models")
    yield "has.pretrained.front", "yes" if count > 0 else ""
    yield "pretrained.models", number(count, 0)
    for axis in AXES:
        key = f"pretrained.{axis}"
        for each in ("size", "depths"):
            yield f"{key}.{each}", number(fact(f"{key}.{each}"), 0)
    found = results.estimates_of(kind="interaction", scale="pretrained")
    judged = study.intervened_on  # several checkpoints are pooled
    own = [one for one in found if str(study.names[one.left].run) == judged]
    own = [one for one in own if IDLE not in one.note]
    yield "has.pretrained.interactions", "yes" if own else ""
    empty = Estimate.missing(Comparison(""))
    most = max(own, key=lambda one: abs(one.effect), default=empty)
    shown = printed(study.names[most.left]) if own else MISSING
    yield "pretrained.interactions.largest.model", shown
    yield from spread("pretrained.interactions.largest", most, 3)


def _on_front(results: Results, axis: str) -> str:
    """The trained models on the front with their probabilities, fastest first."""
    table, names = results.pareto, results.study.names
    rows = table[(table["axis"] == axis) & table["on_front"].astype(bool)]
    rows = rows[rows["scale"] == results.scale_of("")]
    shown = []
    for row in rows.sort_values("latency").to_dict("records"):
        chance = _chance(row)
        known = f" ({chance})" if chance != MISSING else ""
        shown.append(printed(names[row["label"]]) + known)
    return listed(shown, ";") if shown else MISSING


def _chance(row: dict[str, Any]) -> str:
    """How surely a model is on the front; the fastest one is whatever its quality."""
    if row["by_construction"]:
        return "the fastest, by construction"
    return number(row["on_front_probability"])
