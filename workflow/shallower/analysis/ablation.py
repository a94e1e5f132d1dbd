"""Every variant of the head experiment against the baseline of its depth."""

from __future__ import annotations

import pandas as pd

from shallower.analysis.runs import paired, run_values
from shallower.config import Study
from shallower.names import ModelName

DIRECT, OTHER, EXPLORATORY = (
    "pre-registered",
    "pre-registered against another",
    "exploratory",
)


def head_differences(study: Study, units: pd.DataFrame) -> dict[str, pd.Series]:
    """Model - baseline in test cross-entropy (nats) by seed; lowest mean first.

    `units` are the rows of by_seed.csv. The baseline has the model's depth, options
    and seeds.
    """
    runs = study.runs_of("head")
    losses = run_values(units, runs, "text", "cross_entropy")
    found = {}
    for model in dict.fromkeys(model for model, _ in runs):
        plain = baseline_of(study, model)
        differences = paired(losses, model, plain)
        if model != plain and not differences.empty:
            found[model] = differences
    return dict(sorted(found.items(), key=lambda item: float(item[1].mean())))


def baseline_of(study: Study, model: str) -> str:
    """The baseline of a model's depth and options."""
    name = study.models[model]
    return str(ModelName("baseline", name.depth, name.options))


def registered(study: Study, model: str) -> str:
    """Whether a model's comparison with its baseline was decided on before the run.

    OTHER: the model stands in such contrasts, but only with models that are no
    baseline of it.
    """
    pairs = [{c.left, c.right} for c in study.contrasts if model in (c.left, c.right)]
    if not pairs:
        return EXPLORATORY
    direct = any(baseline_of(study, model) in pair for pair in pairs)
    return DIRECT if direct else OTHER
