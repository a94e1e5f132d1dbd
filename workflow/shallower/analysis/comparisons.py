"""Paired differences between models, seed by seed or session by session.

Every comparison is made once and for all models of the depth experiment: the added
layer at each depth, and the shallowest proposed model against the deepest baseline.
Intervals are t intervals over seeds (over sessions for times); they describe, they
are not verdicts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class Pair:
    """Two models to be compared, and the labels under which that is recorded."""

    left: str
    right: str
    family: str  # layer | depth | twin
    scale: str
    form: str


def compare(units: pd.DataFrame) -> pd.DataFrame:
    """All comparisons of a study, from its rows by unit (see `summary.by_unit`)."""
    units = units[units["mode"] == "eager"]
    found: list[dict[str, Any] | None] = []
    for scale, part in units.groupby("scale", sort=False):
        for family, pairs in contrasts(list(part["model"].unique())).items():
            for form in ("trained", "folded"):
                chosen = [Pair(*pair, family, str(scale), form) for pair in pairs]
                found += [difference(part, *q, p) for q in QUALITY for p in chosen]
                found += [time_ratio(part, *t, p) for t in TIMES for p in chosen]
    table = pd.DataFrame([row for row in found if row is not None], columns=COLUMNS)
    # A family of hypotheses is one variant's comparisons over the depths.
    variant = table["left"].str.rpartition("-")[0]
    keys = [
        variant,
        *(table[k] for k in ("family", "scale", "form", "dataset", "metric")),
    ]
    table["p_holm"] = table.groupby(keys)["p"].transform(lambda p: holm(list(p)))
    return table


def contrasts(models: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(left, right) pairs by family.

    layer: every variant against the baseline of equal depth; depth: the shallowest
    model of every variant against the deepest baseline; twin: the A/A pair.
    """
    depths: dict[str, list[int]] = {}
    for model in models:
        variant, _, depth = model.rpartition("-")
        if "__" not in model:
            depths.setdefault(variant, []).append(int(depth))
    plain = sorted(depths.pop("baseline", []))
    families: dict[str, list[tuple[str, str]]] = {
        "layer": [
            (f"{variant}-{depth}", f"baseline-{depth}")
            for variant, found in depths.items()
            for depth in sorted(set(found) & set(plain))
        ]
    }
    if plain:
        shallow = {v: min(found) for v, found in depths.items()}
        shallow |= {"baseline": plain[0]} if len(plain) > 1 else {}
        families["depth"] = [
            (f"{variant}-{depth}", f"baseline-{plain[-1]}")
            for variant, depth in shallow.items()
        ]
    twins = [model for model in models if model.endswith(TWIN)]
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


def difference(
    units: pd.DataFrame, dataset: str, metric: str, pair: Pair
) -> dict[str, Any] | None:
    """left - right of a quality, seed by seed; None if there is nothing to compare.

    Runs with one seed share data order and common initial weights.
    """
    a = unit_values(units, pair.left, dataset, metric, pair.form)
    b = unit_values(units, pair.right, dataset, metric, pair.form)
    paired = (a - b).dropna()
    if paired.empty:
        return None
    low, high = t_interval(paired.to_numpy())
    return asdict(pair) | {
        "dataset": dataset,
        "metric": metric,
        "unit": "nats",
        "seeds": " ".join(map(str, paired.index)),
        "n": len(paired),
        "effect": paired.mean(),
        "ci_low": low,
        "ci_high": high,
        "p": paired_t(paired.to_numpy()),
        "method": "difference, t over seeds",
    }


def time_ratio(
    units: pd.DataFrame, dataset: str, metric: str, pair: Pair
) -> dict[str, Any] | None:
    """left / right of a time over the sessions that have both; None if none has.

    A model that does not fold is taken as trained. In the family 'depth' the deep
    model stands on the left: its ratio is a speed-up.
    """
    if pair.family == "depth":
        pair = replace(pair, left=pair.right, right=pair.left)
    names = (pair.left, pair.right)
    times = [unit_values(units, m, dataset, metric, pair.form) for m in names]
    if all(values.empty for values in times):
        return None
    for index, name in enumerate(names):
        if times[index].empty:
            times[index] = unit_values(units, name, dataset, metric, "trained")
    a, b = times[0].align(times[1], join="inner")
    if a.empty:
        return None
    ratio, low, high = ratio_interval(a.to_numpy(), b.to_numpy())
    return asdict(pair) | {
        "dataset": dataset,
        "metric": metric,
        "unit": "ratio",
        "seeds": " ".join(map(str, a.index)),
        "n": len(a),
        "effect": ratio,
        "ci_low": low,
        "ci_high": high,
        "p": ratio_p(ratio, low, len(a)),
        "method": "ratio of means of session medians, t over sessions",
    }
