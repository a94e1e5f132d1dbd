"""Numbers of the text about all methods in one plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.interactions import IDLE
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
        yield from _best(results, axis, f"front.{axis}", "depth")
    for axis in (*AXES, "training"):
        for key in (*VERDICTS, "compared"):
            name = f"front.{axis}.gains.{key.replace(' ', '_')}"
            yield name, number(fact(name), 0)
    yield from _interactions(results)
    yield from _checkpoint(results)


def _checkpoint(results: Results) -> Iterator[tuple[str, str]]:
    """The same of the first checkpoint, over blocks left out of it; both together."""
    study, fact = results.study, results.fact
    base = study.timed_on if study.scored else ""
    yield "has.pretrained", "yes" if base else ""
    yield "has.trained", "yes" if study.models else ""
    yield "pretrained.name", printed(study.names[base]) if base else MISSING
    count = fact("pretrained.models")
    yield "has.pretrained.front", "yes" if count > 0 else ""
    yield "pretrained.models", number(count, 0)
    for axis in AXES:
        key = f"pretrained.{axis}"
        for each in ("size", "depths", "near"):
            yield f"{key}.{each}", number(fact(f"{key}.{each}"), 0)
        yield f"{key}.models", _on_front(results, axis, base) if base else MISSING
        for each in (*VERDICTS, "compared"):
            name = f"{key}.gains.{each.replace(' ', '_')}"
            yield name, number(fact(name), 0)
        yield from _best(results, axis, key, "blocks", base)
    found = results.estimates_of(kind="interaction", scale="pretrained")
    judged = study.intervened_on  # several checkpoints are pooled
    own = [one for one in found if str(study.names[one.left].run) == judged]
    own = [one for one in own if IDLE not in one.note]
    yield "has.pretrained.interactions", "yes" if own else ""
    for each in ("", ".idle", ".better", ".worse"):
        key = f"pretrained.interactions{each}"
        yield key, number(fact(key), 0)
    empty = Estimate.missing(Comparison(""))
    most = max(own, key=lambda one: abs(one.effect), default=empty)
    shown = printed(study.names[most.left]) if own else MISSING
    yield "pretrained.interactions.largest.model", shown
    yield from spread("pretrained.interactions.largest", most, 3)


def _on_front(results: Results, axis: str, base: str = "") -> str:
    """The models on the front with their probabilities, fastest first.

    Of what is trained, or of a checkpoint.
    """
    table, names = results.pareto, results.study.names
    rows = table[(table["axis"] == axis) & table["on_front"].astype(bool)]
    rows = rows[rows["scale"] == results.scale_of(base)]
    rows = rows[rows["model"] == base] if base else rows
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


def _best(
    results: Results, axis: str, key: str, curve: str, base: str = ""
) -> Iterator[tuple[str, str]]:
    """The largest gain over a curve: fewer blocks; of a checkpoint, left out ones."""
    asked = against_curve("", curve, axis)
    found = results.estimates_of(kind="gain", right=curve, metric=asked.metric)
    names = results.study.names
    known = [one for one in found if one.effect == one.effect]
    if curve == "blocks":
        known = [one for one in known if str(names[one.left].run) == base]
    best = min(known, key=lambda one: one.effect, default=Estimate.missing(asked))
    yield f"has.{key}.best", "yes" if known else ""
    yield f"{key}.best", printed(names[best.left]) if known else MISSING
    yield from spread(f"{key}.best.gain", best, 3)


def _interactions(results: Results) -> Iterator[tuple[str, str]]:
    """How many pairs of changes there are, and which do not add up."""
    found = results.estimates_of(kind="interaction", scale="study")
    found = [one for one in found if IDLE not in one.note]
    yield "has.interactions", "yes" if found else ""
    for key in ("", ".idle", ".better", ".worse"):
        count = results.fact(f"front.interactions{key}")
        yield f"front.interactions{key}", number(count, 0)
    names = results.study.names
    for key, chosen in (
        ("better", [one.left for one in found if one.ci_high < 0]),
        ("worse", [one.left for one in found if one.ci_low > 0]),
    ):
        shown = listed((printed(names[label]) for label in chosen), ";")
        yield f"front.interactions.{key}.models", shown
