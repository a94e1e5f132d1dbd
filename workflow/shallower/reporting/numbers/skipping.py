"""Numbers of the text about skipping (S3)."""

from __future__ import annotations

from collections.abc import Iterator

from shallower.analysis.interventions import change, skips, source, speedup
from shallower.analysis.results import Results
from shallower.interventions.skip import Skip
from shallower.reporting.labels import printed
from shallower.reporting.latex import MISSING, number
from shallower.reporting.numbers.sentences import counted_gains, listed, spread, tally
from shallower.study.names import ModelName

KINDS = {  # in the text -> part and rule
    "attention": ("attention", "last"),
    "first": ("attention", "first"),
    "ffn": ("ffn", "last"),
    "block": ("block", "last"),
}


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`skipping.<kind>` at `skipping.k` blocks, with its speed-up; gains over depth."""
    study, base = results.study, results.study.deepest_baseline
    fact = results.fact
    yield "has.skipping", "yes" if fact("skipping.models") > 0 else ""
    yield "has.healing", "yes" if fact("skipping.healed.models") > 0 else ""
    yield "skipping.models", number(fact("skipping.models"), 0)
    yield "skipping.unhealed", number(fact("skipping.unhealed"), 0)
    k = fact("skipping.k")
    yield "skipping.k", number(k, 0)
    for kind, (part, rule) in KINDS.items():
        wanted = Skip(part, rule, int(k)) if k > 0 else None  # type: ignore[arg-type]
        label = str(study.names[base].replace(skip=str(wanted)))
        yield f"has.skipping.{kind}", "yes" if label in study.names else ""
        yield from spread(f"skipping.{kind}", results.estimate(change(label, base)), 3)
        faster = results.estimate(speedup(base, label, "per_token"))
        yield from spread(f"skipping.{kind}.faster", faster, 2)
        yield f"skipping.{kind}.predicted", number(fact(f"skipping.{kind}.predicted"))
    yield "has.skipping.error", "yes" if fact("skipping.error") >= 0 else ""
    yield "skipping.error", number(fact("skipping.error"), 0)
    yield "skipping.depth", counted_gains(results, "skipping")
    yield "skipping.blocks", counted_gains(results, "skipping.blocks")
    shown = _at_original(results)
    yield "has.skipping.original", "yes" if shown else ""
    yield "skipping.original", listed(shown)
    yield from _healed(results)
    yield "S3.verdicts", tally(results, "S3")


def _at_original(results: Results) -> list[str]:
    """Speed-ups at the original's size with what is skipped."""
    study, shown = results.study, []
    deepest = ModelName("baseline", study.original.depths[-1])
    for text in (
        study.latency.interventions.skips if study.latency.interventions else []
    ):
        label = str(deepest.replace(skip=text))
        where = ("per_token", "fixed", "original")
        found = results.estimate(speedup(str(deepest), label, *where))
        if found.exists:
            skip = Skip.parse(text)
            shown.append(f"{number(found.effect)} ({skip.part}, {skip.k} blocks)")
    return shown


def _healed(results: Results) -> Iterator[tuple[str, str]]:
    """The healed model that skips most: before and after."""
    study, base = results.study, results.study.deepest_baseline
    healed = [
        label
        for label in skips(study)
        if "healed" in study.names[label].options and source(study.names[label]) == base
    ]
    label = max(healed, key=lambda m: skips(study)[m].k, default="")
    yield "skipping.healed.model", printed(study.names[label]) if label else MISSING
    before = str(study.names[label].without("healed", "by")) if label else ""
    for key, model in (("", label), (".before", before)):
        found = results.estimate(change(model, base))
        yield from spread(f"skipping.healed{key}", found, 3)
        if not key:
            several = found.n > 1
            yield "has.skipping.healed.interval", "yes" if several else ""
    yield "skipping.healed.depth", counted_gains(results, "skipping.healed")
