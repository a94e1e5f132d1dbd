"""Numbers of the text about elimination (S4)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shallower.analysis.estimates import Estimate
from shallower.analysis.interventions import (
    PROMPT,
    change,
    eliminations,
    fine_tuned,
    source,
    speedup,
)
from shallower.analysis.results import Results
from shallower.reporting.latex import number
from shallower.reporting.numbers.sentences import counted_gains, spread, tally


def numbers(results: Results) -> Iterator[tuple[str, str]]:
    """`elimination.<rule>` at `elimination.speedup`; ACC's ends; measured times."""
    base, fact = results.study.deepest_baseline, results.fact
    yield "has.elimination", "yes" if fact("elimination.models") > 0 else ""
    yield "has.tuning", "yes" if fine_tuned(results.study) else ""
    yield "elimination.models", number(fact("elimination.models"), 0)
    yield "elimination.speedup", _short(fact("elimination.speedup"))
    yield "elimination.blind", "yes" if fact("elimination.blind") == 1 else ""
    for key in ("acc", "random", "recent", "tuned"):
        label = _label(results, key)
        yield f"has.elimination.{key}", "yes" if label else ""
        yield from spread(
            f"elimination.{key}", results.estimate(change(label, base)), 3
        )
        faster = results.estimate(speedup(base, label, "first_token"))
        yield from spread(f"elimination.{key}.faster", faster, 2)
    for key in ("most", "most.tuned"):
        there = fact(f"elimination.{key}") > 0
        yield f"has.elimination.{key}", "yes" if there else ""
        yield f"elimination.{key}", _short(fact(f"elimination.{key}"))
        percent = fact(f"elimination.{key}.perplexity")
        yield f"elimination.{key}.perplexity", number(percent, 1)
    known = fact("elimination.contribution.first") >= 0
    yield "has.elimination.contribution", "yes" if known else ""
    for key in ("first", "last"):
        share = fact(f"elimination.contribution.{key}")
        yield f"elimination.contribution.{key}", number(share, 0)
    yield "elimination.depth", counted_gains(results, "elimination")
    for scale in ("study", "original"):
        length = fact(f"elimination.{scale}.length")
        yield f"has.elimination.{scale}", "yes" if length > 0 else ""
        yield f"elimination.{scale}.length", number(length, 0)
        yield (
            f"elimination.{scale}.error",
            number(fact(f"elimination.{scale}.error"), 0),
        )
        due = fact(f"elimination.{scale}.predicted")
        yield f"elimination.{scale}.predicted", number(due)
    yield from spread("elimination.original.faster", _at_original(results), 2)
    yield "S4.verdicts", tally(results, "S4")


def _short(value: float) -> str:
    """A speed-up as it was asked for: 2, 1.5."""
    return number(value) if math.isnan(value) else f"{value:g}"


def _label(results: Results, key: str) -> str:
    """The elimination of a rule at the speed-up of the text; '' without one."""
    study, asked = results.study, results.fact("elimination.speedup")
    for label, choice in eliminations(study).items():
        name = study.names[label]
        rule = "acc" if key == "tuned" else key
        same = (choice.rule, choice.speedup) == (rule, asked)
        tuned = ("tuned" in name.options) == (key == "tuned")
        if same and tuned and source(name) == study.deepest_baseline:
            return label
    return ""


def _at_original(results: Results) -> Estimate:
    """At the longest prompt, of the largest predicted speed-up."""
    table = results.predictions.dropna(subset=["predicted_prefill"])
    where = ("first_token", f"{PROMPT}0", "original")
    chosen = results.estimate(speedup("", "", *where))
    for row in table.sort_values(["prompt_tokens", "predicted_prefill"]).to_dict(
        "records"
    ):
        where = ("first_token", f"{PROMPT}{int(row['prompt_tokens'])}", "original")
        found = results.estimate(speedup(row["model"], row["label"], *where))
        chosen = found if found.exists else chosen
    return chosen
