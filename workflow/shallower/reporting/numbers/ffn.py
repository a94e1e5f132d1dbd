"""Numbers of the text about FFN variants and distillation."""

from __future__ import annotations

from collections.abc import Iterator

from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.models.registry import FFNS
from shallower.reporting.latex import number, scientific
from shallower.reporting.numbers.sentences import measured, tally
from shallower.reporting.tables.ffn import decoding_time
from shallower.study.names import ModelName

TIMED = ("none", "three_matrices")  # at the original's size, beside the baseline


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`ffn.<variant>`: effect at the largest depth; sizes, times, collapse errors."""
    depth, fact = results.study.depths[-1], results.fact
    yield "has.ffn", "yes" if fact("ffn.models") > 0 else ""
    yield "has.students", "yes" if fact("ffn.students") > 0 else ""
    yield "ffn.models", number(fact("ffn.models"), 0)
    yield "ffn.students", number(fact("ffn.students"), 0)
    yield "ffn.depth", str(depth)
    base = str(ModelName("baseline", depth))
    for ffn in FFNS:
        found = results.estimate(Comparison(str(ModelName(ffn, depth)), base))
        yield f"has.ffn.{ffn}", "yes" if found.exists else ""
        yield f"ffn.{ffn}", measured(found, 3)
    yield from _at_original(results)
    for metric in ("float64", "float32"):
        name = f"collapse_error_{metric}"
        largest = Comparison("all models", metric=name, kind="maximum")
        found = results.estimate(largest)
        if metric == "float64":
            yield "has.collapse", "yes" if found.exists else ""
        yield f"collapse.{metric}", scientific(found.effect)
    yield "S2.verdicts", tally(results, "S2")


def _at_original(results: Results) -> Iterator[tuple[str, str]]:
    """What a smaller FFN saves in parameters, and times per token (us)."""
    deep = results.study.original.depths[-1]
    yield "ffn.original.depth", str(deep)
    for ffn in ("baseline", *TIMED):
        label = str(ModelName(ffn, deep))
        less = results.fact(f"ffn.original.{ffn}.less")
        if ffn != "baseline":
            yield f"has.ffn.original.{ffn}", "yes" if less >= 0 else ""
            yield f"ffn.original.{ffn}.less", number(less, 0)
        yield f"ffn.original.{ffn}.time", decoding_time(results, label, "original")
