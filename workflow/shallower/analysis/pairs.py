"""Any two runs or models side by side: values, differences and their intervals.

Two models with several seeds are compared as the paper compares them: paired by seed,
over seeds (`estimates.csv` has the same numbers where the paper needs them). Two single
runs are compared sample by sample: that interval is about these two sets of weights on
text like this, and says nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis.estimates import Comparison, Kind, crossed, estimate
from shallower.analysis.results import Results
from shallower.analysis.statistics import LEVEL, t_interval
from shallower.errors import UserError
from shallower.evaluation.units import TIME, unit_of

FIRST = ("cross_entropy", "bits_per_byte")  # metrics, in this order before all others
COLUMNS = [
    *("dataset", "metric", "scale", "unit", "left", "right"),
    *("effect", "ci_low", "ci_high", "kind", "replicates", "n"),
]


@dataclass(frozen=True)
class Side:
    """One run: a study's folder, a model's label, a seed."""

    study: Path
    model: str
    seed: int

    def __str__(self) -> str:
        return f"{self.model} seed {self.seed}"


def compare_models(
    results: Results, left: str, right: str, level: float = LEVEL
) -> pd.DataFrame:
    """A row for each data set and metric that both models of a study have.

    `left` and `right` are means over seeds (of times over sessions, us), `effect` is
    left - right, or left / right of times (`kind`), with its interval at `level`.
    """
    summary = results.summary
    usual = summary[(summary["mode"] == "eager") & (summary["form"] == "trained")]
    rows = []
    sides = [usual[usual["label"] == label] for label in (left, right)]
    for label, side in zip((left, right), sides, strict=True):
        if side.empty:
            raise UserError(f"{label}: no such model in {results.directory}")
    both = sides[0].merge(sides[1], on=["dataset", "metric", "unit", "scale"])
    for row in both.to_dict("records"):
        kind: Kind = "ratio" if row["unit"] == TIME else "difference"
        asked = Comparison(
            *(left, right, row["dataset"], row["metric"]),
            kind=kind,
            scale=row["scale"],
            level=level,
        )
        made = crossed(results, estimate(results, asked))
        values = row["mean_x"], row["mean_y"], made.effect, made.ci_low, made.ci_high
        place = [row[key] for key in COLUMNS[:4]]
        rows.append([*place, *values, kind, made.replicates, made.n])
    return _ordered(rows)


def compare_runs(left: Side, right: Side, level: float = LEVEL) -> pd.DataFrame:
    """A row for each data set and metric that both runs were scored on.

    Values are means over the samples that both have, each weighted as in its study (by
    tokens for cross-entropy). The interval is over samples, of the weighted mean of
    their differences. Raises UserError if the two were scored on other text or with
    another tokenizer.
    """
    tables = [_scores(side) for side in (left, right)]
    keys = ["dataset", "group", "sample", "metric"]
    both = tables[0].merge(tables[1], on=keys, suffixes=("_x", "_y"))
    if both.empty:
        raise UserError(f"{left} and {right}: scored on no common sample")
    rows = []
    for (dataset, metric), part in both.groupby(["dataset", "metric"], sort=False):
        if not np.array_equal(part["weight_x"], part["weight_y"]):
            raise UserError(
                f"{left} and {right}: samples of {dataset!r} differ in "
                "length, so these runs have different tokenizers or texts"
            )
        x, y, weight = (
            part[name].to_numpy(float) for name in ("value_x", "value_y", "weight_x")
        )
        means = [float(np.average(values, weights=weight)) for values in (x, y)]
        low, high = weighted_interval(x - y, weight, level)
        place, kind = (
            [dataset, metric, "study", unit_of(metric)],
            ("difference", "samples"),
        )
        rows.append([*place, *means, means[0] - means[1], low, high, *kind, len(part)])
    return _ordered(rows)


def weighted_interval(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    level: float = LEVEL,
) -> tuple[float, float]:
    """A t interval of a weighted mean over independent samples (delta method).

    With equal weights it is the usual one. NaN for fewer than two samples.
    """
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    center = float(np.average(values, weights=weights))
    # What each sample adds to the ratio of two means.
    parts = weights * (values - center) / weights.mean()
    low, high = t_interval(parts, level)
    return center + low, center + high


def _scores(side: Side) -> pd.DataFrame:
    """The samples of a run as trained, one row for each metric."""
    folder = side.study / "evaluations" / side.model
    path = folder / f"seed{side.seed}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file: this run is not scored yet")
    rows = pd.read_parquet(path)
    chosen = (rows["form"] == "trained") & (rows["intervention"] == "")
    return rows.loc[chosen, ["dataset", "group", "sample", "metric", "value", "weight"]]


def _ordered(rows: Iterable[list[object]]) -> pd.DataFrame:
    """The table: cross-entropy first, of the test text before all other sets."""
    table = pd.DataFrame(list(rows), columns=COLUMNS)
    metrics = [*FIRST, *sorted({*table["metric"]} - {*FIRST})]
    rank = table["metric"].map(metrics.index)
    text = (table["dataset"] != "text").astype(int)
    table = table.assign(rank=rank, other=text).sort_values(
        ["rank", "other", "dataset", "scale"], kind="stable"
    )
    return table[COLUMNS].reset_index(drop=True)
