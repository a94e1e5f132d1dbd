"""One value per run, and differences between models seed by seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shallower.analysis.raw import Runs
from shallower.analysis.statistics import t_interval


def run_values(units: pd.DataFrame, runs: Runs, dataset: str, metric: str) -> pd.Series:
    """A metric of these runs as trained, by (model, seed), from by_seed.csv's rows.

    By model and seed, since experiments may share a model and not its seeds.
    """
    wanted = {
        "dataset": dataset,
        "metric": metric,
        "scale": "study",
        "form": "trained",
        "mode": "eager",
    }
    for column, value in wanted.items():
        units = units[units[column] == value]
    index = pd.MultiIndex.from_arrays(
        [units["model"], units["unit_id"].astype(int)], names=["model", "seed"]
    )
    values = pd.Series(units["value"].to_numpy(float), index)
    return values[[key in set(runs) for key in index]]


def paired(values: pd.Series, left: str, right: str) -> pd.Series:
    """left - right by seed, of the seeds that both models have.

    Runs with one seed share data order and common initial weights.
    """
    by_model = values.swaplevel()
    sides = [
        by_model[by_model.index.get_level_values("model") == m] for m in (left, right)
    ]
    a, b = (side.droplevel("model") for side in sides)
    return (a - b).dropna().sort_index()


def effect(differences: pd.Series) -> dict[str, Any]:
    """Mean of differences by seed with its t interval, and which seeds there are."""
    low, high = t_interval(differences.to_numpy())
    return {
        "seeds": " ".join(map(str, differences.index)),
        "n": len(differences),
        "effect": differences.mean(),
        "ci_low": low,
        "ci_high": high,
    }
