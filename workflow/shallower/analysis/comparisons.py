"""Paired differences between models, seed by seed or session by session.

Every comparison is made once and for all models of the depth experiment: the added
layer at each depth, and the shallowest proposed model against the deepest baseline.
Intervals are t intervals over seeds (over sessions for times); they describe, they
are not verdicts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.statistics import (
    holm,
    paired_t,
    ratio_interval,
    ratio_p,
    t_interval,
)
from shallower.analysis.summary import by_unit
from shallower.files import write_text
from shallower.models.variants import TWIN

COLUMNS = [
    "left",
    "right",
    "dataset",
    "metric",
    "unit",
    "seeds",
    "n",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "p_holm",
    "method",
    "scale",
    "form",
    "family",
]
QUALITY = [("text", "cross_entropy"), ("train", "training_loss")]
TIMES = [
    ("fixed", "time_per_output_token"),
    ("fixed", "time_to_first_token"),
    ("step", "step_time"),
]


def write_comparisons(results: Path, rows: pd.DataFrame) -> None:
    """Write `comparisons.csv` from a study's raw rows (see `summary.raw_rows`)."""
    text = compare(by_unit(rows)).to_csv(index=False, float_format="%.10g")
    write_text(results / "comparisons.csv", text)


def compare(units: pd.DataFrame) -> pd.DataFrame:
    """All comparisons of a study, from its rows by unit (see `summary.by_unit`)."""
    units = units[units["mode"] == "eager"]
    found: list[dict[str, Any]] = []
    for scale, part in units.groupby("scale", sort=False):
        names = list(part["model"].unique())
        for family, pairs in contrasts(names).items():
            for form in ("trained", "folded"):
                found += _differences(part, pairs, family, str(scale), form)
                found += _ratios(part, pairs, family, str(scale), form)
    table = pd.DataFrame(found, columns=COLUMNS)
    keys = ["family", "scale", "form", "dataset", "metric"]
    table["p_holm"] = table.groupby(keys)["p"].transform(lambda p: holm(list(p)))
    return table


def contrasts(models: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(left, right) pairs by family: equal depth, shallow against deep, A/A."""
    depths = {
        variant: sorted(
            int(model.removeprefix(f"{variant}-"))
            for model in models
            if model.startswith(f"{variant}-") and "__" not in model
        )
        for variant in ("baseline", "proposed")
    }
    both = [depth for depth in depths["proposed"] if depth in depths["baseline"]]
    families = {"layer": [(f"proposed-{d}", f"baseline-{d}") for d in both]}
    if depths["baseline"]:
        deep = f"baseline-{depths['baseline'][-1]}"
        shallow = [
            f"{v}-{d[0]}" for v, d in depths.items() if d and f"{v}-{d[0]}" != deep
        ]
        families["depth"] = [(model, deep) for model in shallow]
    twins = [m for m in models if m.endswith(TWIN)]
    families["twin"] = [(twin, twin.removesuffix(TWIN)) for twin in twins]
    return families


def unit_values(
    units: pd.DataFrame, model: str, dataset: str, metric: str, form: str
) -> pd.Series:
    """The value of each independent unit (seed or session), by its id."""
    chosen = units[
        (units["model"] == model)
        & (units["dataset"] == dataset)
        & (units["metric"] == metric)
        & (units["form"] == form)
    ]
    return chosen.set_index("unit_id")["value"]


def _differences(
    units: pd.DataFrame,
    pairs: list[tuple[str, str]],
    family: str,
    scale: str,
    form: str,
) -> list[dict[str, Any]]:
    """left - right of the quality metrics; seeds share data and initial weights."""
    found = []
    for dataset, metric in QUALITY:
        for left, right in pairs:
            a = unit_values(units, left, dataset, metric, form)
            b = unit_values(units, right, dataset, metric, form)
            difference = (a - b).dropna()
            if difference.empty:
                continue
            low, high = t_interval(difference.to_numpy())
            found.append(
                {
                    "effect": difference.mean(),
                    "ci_low": low,
                    "ci_high": high,
                    "p": paired_t(difference.to_numpy()),
                    "unit": "nats",
                    "n": len(difference),
                    "method": "difference, t over seeds",
                }
                | _labels(left, right, dataset, metric, family, scale, form, a.index)
            )
    return found


def _ratios(
    units: pd.DataFrame,
    pairs: list[tuple[str, str]],
    family: str,
    scale: str,
    form: str,
) -> list[dict[str, Any]]:
    """left / right of the times; a model that does not fold is taken as trained.

    In the family 'depth' the deep model stands on the left: its ratio is a speed-up.
    """
    found = []
    for dataset, metric in TIMES:
        for pair in pairs:
            left, right = reversed(pair) if family == "depth" else pair
            a, b = (unit_values(units, m, dataset, metric, form) for m in (left, right))
            if a.empty and b.empty:
                continue
            if a.empty:
                a = unit_values(units, left, dataset, metric, "trained")
            if b.empty:
                b = unit_values(units, right, dataset, metric, "trained")
            if a.empty or b.empty:
                continue
            ratio, low, high = ratio_interval(a.to_numpy(), b.to_numpy())
            found.append(
                {
                    "effect": ratio,
                    "ci_low": low,
                    "ci_high": high,
                    "p": ratio_p(ratio, low, len(a)),
                    "unit": "ratio",
                    "n": len(a),
                    "method": "ratio of means of session medians, t over sessions",
                }
                | _labels(left, right, dataset, metric, family, scale, form, a.index)
            )
    return found


def _labels(
    left: str,
    right: str,
    dataset: str,
    metric: str,
    family: str,
    scale: str,
    form: str,
    units: pd.Index,
) -> dict[str, Any]:
    return {
        "left": left,
        "right": right,
        "dataset": dataset,
        "metric": metric,
        "family": family,
        "scale": scale,
        "form": form,
        "seeds": " ".join(map(str, units)),
    }
