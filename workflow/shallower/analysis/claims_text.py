"""Claim C8: text metrics out of distribution do not drop. First, can they drop?"""

from __future__ import annotations

from dataclasses import replace

from shallower.analysis.evidence import TEXT_MARGIN, Evidence
from shallower.analysis.verdicts import Finding, conjunction, equivalence, superiority
from shallower.evaluation.metrics import UNITS

SETS = ("chat", "qa")  # out of distribution, as the original has it
METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL", "fuzzy")
MISMATCHED = ".mismatched"  # as `evaluation.evaluate` writes them


def text_metrics(evidence: Evidence) -> Finding:
    """C8: equivalence of the shallowest proposed model and the deepest baseline.

    Only for metrics that pass both controls (see `sensitive`); without one, the
    claim counts as not tested: a metric that cannot fall proves nothing.
    """
    fit = [(s, m) for s in SETS for m in METRICS if sensitive(evidence, s, m)]
    total = len(SETS) * len(METRICS)
    count = f"{len(fit)} of {total} metrics pass both controls"
    if not fit:
        nan = float("nan")
        return Finding(nan, nan, nan, nan, "not tested", count)
    parts = [_equivalent(evidence, *key) for key in fit]
    found = conjunction(parts)
    names = ", ".join(f"{metric} on {name}" for name, metric in fit)
    return replace(found, note=f"{count}: {names}")


def sensitive(evidence: Evidence, dataset: str, metric: str) -> bool:
    """Whether a metric can tell a good answer from a bad one at this scale.

    It scores real references above those of other prompts, and rises over models
    trained on a quarter, half and all of the tokens, each on its own schedule: from
    step to step in the mean, and beyond doubt (95 % interval) from first to last.
    """
    models = [evidence.at_steps("baseline", evidence.deep, s) for s in (0.25, 0.5, 1)]
    if None in models:
        return False
    quarter, half, whole = (str(model) for model in models)
    right = evidence.values(whole, dataset, metric)
    wrong = evidence.values(whole, dataset, metric + MISMATCHED)
    matters = superiority((right - wrong).dropna().to_numpy(), False)
    rises = superiority(evidence.paired(whole, quarter, dataset, metric), False)
    means = [evidence.values(m, dataset, metric).mean() for m in (quarter, half, whole)]
    ascending = means[0] < means[1] < means[2]
    return ascending and matters.verdict == rises.verdict == "supported"


def _equivalent(evidence: Evidence, dataset: str, metric: str) -> Finding:
    deep = f"baseline-{evidence.deep}"
    half = evidence.at_steps("baseline", evidence.deep, 0.5)
    assert half is not None
    # All metrics on the scale that the claim's unit says, 0 to 100.
    scale = 1.0 if UNITS[metric] == "percent" else 100.0
    gain = scale * evidence.paired(deep, half, dataset, metric).mean()
    differences = evidence.paired(f"proposed-{evidence.shallow}", deep, dataset, metric)
    return equivalence(scale * differences, TEXT_MARGIN * abs(gain))
