"""Arms of the third and the fourth system: which there are, and what each changes.

A change is against the model that nothing was done to: the run before it was healed,
tuned, or had parts and tokens taken away. Quality is cross-entropy on continuations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from shallower.analysis.runs import effect
from shallower.analysis.statistics import ratio_interval
from shallower.models.choices import (
    EliminationChoice,
    SkipChoice,
    parse_elimination,
    parse_skip,
)
from shallower.names import ModelName
from shallower.reporting.results import Results

QUALITY = "continuation"  # data set and workload of everything on the front
AXES = {"per_token": "time_per_output_token", "first_token": "time_to_first_token"}
DONE = ("tuned", "skip", "healed", "by", "eliminate")


class Skipped(NamedTuple):
    """A model with sublayers left out, healed or not."""

    model: str
    name: ModelName
    choice: SkipChoice


class Eliminated(NamedTuple):
    """An arm with tokens eliminated and nothing left out, of a tuned run or not."""

    model: str
    name: ModelName
    choice: EliminationChoice


class Ratio(NamedTuple):
    """A quotient of two times with its interval over sessions."""

    value: float
    low: float
    high: float


NO_RATIO = Ratio(*(float("nan"),) * 3)


def untouched(name: ModelName) -> str:
    """The model that nothing was done to."""
    return str(name.without(*DONE))


def deepest(results: Results) -> str:
    """The baseline that the third and the fourth system start from."""
    return f"baseline-{results.study.depths[-1]}"


def names(results: Results) -> dict[str, ModelName]:
    """Runs and arms by name."""
    return results.study.models | results.study.arms


def skips(results: Results) -> list[Skipped]:
    """Models with parts left out and every token kept, in the study's order."""
    return [
        Skipped(model, name, parse_skip(str(name.options["skip"])))
        for model, name in names(results).items()
        if "skip" in name.options and "eliminate" not in name.options
    ]


def eliminations(results: Results) -> list[Eliminated]:
    """Arms with tokens eliminated and every part kept, in the study's order."""
    return [
        Eliminated(model, name, parse_elimination(str(name.options["eliminate"])))
        for model, name in results.study.arms.items()
        if "eliminate" in name.options and "skip" not in name.options
    ]


def tuned_runs(results: Results) -> list[str]:
    """Runs that were trained with tokens eliminated."""
    found = results.study.models.items()
    return [m for m, n in found if "tuned" in n.options and "skip" not in n.options]


# --- what an arm changes --------------------------------------------------------------


def change(results: Results, model: str, base: str) -> dict[str, Any]:
    """Cross-entropy of the model less the base's, paired by seed, with its interval."""
    return effect(differences(results, model, base))


def differences(results: Results, model: str, base: str) -> pd.Series:
    """The same seed by seed, nats."""
    left, right = (results.by_seed(name, QUALITY) for name in (model, base))
    return (left - right).dropna()


def speedup(
    results: Results,
    model: str,
    base: str,
    metric: str,
    dataset: str = QUALITY,
    scale: str = "study",
) -> Ratio:
    """Time of the base over that of the model, over the sessions that have both."""
    sides = [results.times(name, dataset, metric, scale) for name in (base, model)]
    left, right = sides[0].align(sides[1], join="inner")
    if left.empty:
        return NO_RATIO
    return Ratio(*ratio_interval(left.to_numpy(float), right.to_numpy(float)))


def fact(results: Results, model: str, column: str) -> float:
    """A column of arms.csv, mean over the seeds; that of a healed run's arm. Or NaN."""
    name = names(results)[model]
    arm = model if name.is_arm else str(name.without("healed", "by"))
    rows = results.arms[results.arms["model"] == arm]
    return float(rows[column].mean()) if len(rows) else float("nan")


def cache_share(results: Results, model: str) -> float:
    """Cached bytes over those of the run without the arm."""
    whole = fact(results, model, "run_cache_bytes")
    return fact(results, model, "cache_bytes") / whole


def gain(results: Results, axis: str, model: str, null: str = "depth") -> pd.Series:
    """The one row of gains.csv; all NaN where there is none."""
    table = results.gains
    rows = table[(table["axis"] == axis) & (table["model"] == model)]
    rows = rows[rows["null"] == null]
    return rows.iloc[0] if len(rows) else pd.Series(np.nan, index=table.columns)
