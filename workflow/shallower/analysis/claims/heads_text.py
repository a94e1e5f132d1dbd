"""Claim C8: text metrics out of distribution do not drop. First, can they drop?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shallower.analysis.claims.base import Context, plain, scaled
from shallower.analysis.estimates import Comparison, Estimate, mean_difference
from shallower.analysis.verdicts import (
    NAN,
    Finding,
    absent,
    conjunction,
    equivalence,
    superiority,
)
from shallower.evaluation.units import MISMATCHED, unit_of

SETS = ("chat", "qa")  # out of distribution, as the original has it
METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL", "fuzzy")
TEXT_MARGIN = 0.25  # share of the half-trained -> trained difference of a text metric


def text_metrics(context: Context) -> Finding:
    """C8: equivalence of the shallowest proposed model and the deepest baseline.

    Only for metrics that pass both controls (see `sensitive`); without one, the
    claim counts as not tested: a metric that cannot fall proves nothing.
    """
    if not all(context.at_steps("baseline", context.deep, s) for s in (0.25, 0.5)):
        return absent("baselines at a quarter and half of the tokens")
    fit = [(s, m) for s in SETS for m in METRICS if sensitive(context, s, m)]
    count = f"{len(fit)} of {len(SETS) * len(METRICS)} metrics pass both controls"
    if not fit:
        return Finding(NAN, NAN, NAN, NAN, NAN, "not tested", count)
    judged = conjunction([_equivalent(context, *key) for key in fit])
    names = ", ".join(f"{metric} on {name}" for name, metric in fit)
    return replace(judged, note=f"{count}: {names}")


def sensitive(context: Context, dataset: str, metric: str) -> bool:
    """Whether a metric can tell a good answer from a bad one at this scale.

    It scores real references above those of other prompts, and rises over models
    trained on a quarter, half and all of the tokens, each on its own schedule: from
    step to step in the mean, and beyond doubt (95 % interval) from first to last.
    """
    where: dict[str, Any] = {"dataset": dataset, "metric": metric}
    labels = [context.at_steps("baseline", context.deep, s) for s in (0.25, 0.5, 1)]
    quarter, half, full = labels
    if quarter is None or half is None or full is None:
        return False
    matters = superiority(_over_mismatched(context, full, dataset, metric), False)
    rises = superiority(context.difference(full, quarter, **where), False)
    means = [context.results.values(m, dataset, metric).mean() for m in labels if m]
    ascending = means[0] < means[1] < means[2]
    return ascending and matters.verdict == rises.verdict == "supported"


def _over_mismatched(
    context: Context, label: str, dataset: str, metric: str
) -> Estimate:
    """Scores against the prompts' own references less those against others'."""
    right = context.results.values(label, dataset, metric)
    wrong = context.results.values(label, dataset, metric + MISMATCHED)
    asked = Comparison(label, f"{label} mismatched", dataset, metric)
    return context.keep(mean_difference(asked, (right - wrong).dropna(), "seeds"))


def _equivalent(context: Context, dataset: str, metric: str) -> Finding:
    where: dict[str, Any] = {"dataset": dataset, "metric": metric}
    deep = plain("baseline", context.deep)
    half = context.at_steps("baseline", context.deep, 0.5)
    assert half is not None
    gain = context.difference(deep, half, **where).effect
    shallow = plain("proposed", context.shallow)
    found = context.difference(shallow, deep, one_sided=True, **where)
    judged = equivalence(found, context.factor * TEXT_MARGIN * abs(gain))
    # All metrics on the scale that the claim's unit says, 0 to 100.
    return scaled(judged, 1.0 if unit_of(metric) == "percent" else 100.0)
