"""Paired differences between models, seed by seed or session by session.

Every comparison is made once and for all models of the depth experiment: the added
layer at each depth, and the shallowest proposed model against the deepest baseline.
Intervals are t intervals over seeds (over sessions for times); they describe, they
are not verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from shallower.analysis.deployed import FORMS
from shallower.analysis.statistics import (
    LEVEL,
    crossed_interval,
    holm,
    holm_levels,
    paired_t,
    pairing_correlation,
    ratio_interval,
    ratio_p,
    t_interval,
)
from shallower.analysis.summary import by_unit
from shallower.files import write_text
from shallower.models.registry import FFNS
from shallower.models.variants import TWIN
from shallower.names import split_name

Families = Mapping[str, Sequence[tuple[str, str]]]
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
QUALITY = [
    ("text", "cross_entropy"),
    ("continuation", "cross_entropy"),
    ("train", "training_loss"),
]
TIMES = [
    ("continuation", "time_per_output_token"),
    ("continuation", "time_to_first_token"),
    ("fixed", "time_per_output_token"),
    ("fixed", "time_to_first_token"),
    ("step", "step_time"),
]


def write_comparisons(
    results: Path,
    rows: pd.DataFrame,
    registered: Sequence[tuple[str, str]] = (),
    families: Families | None = None,
) -> None:
    """Write `comparisons.csv` from a study's raw rows (see `summary.raw_rows`).

    `registered` are the (left, right) that were decided on before the run, `families`
    further ones that belong together (see `Study.families`).
    """
    table = compare(by_unit(rows), registered, families)
    text = crossed(table, rows).to_csv(index=False, float_format="%.10g")
    write_text(results / "comparisons.csv", text)


@dataclass(frozen=True)
class Pair:
    """Two models to be compared, and the labels under which that is recorded."""

    left: str
    right: str
    family: str  # layer | depth | twin | contrast, and those of `Study.families`
    scale: str
    form: str


def compare(
    units: pd.DataFrame,
    registered: Sequence[tuple[str, str]] = (),
    others: Families | None = None,
) -> pd.DataFrame:
    """All comparisons of a study, from its rows by unit (see `summary.by_unit`)."""
    units = units[units["mode"] == "eager"]
    found: list[dict[str, Any] | None] = []
    for scale, part in units.groupby("scale", sort=False):
        families: dict[str, Sequence[tuple[str, str]]] = {
            **contrasts(list(part["model"].unique())),
            **(others or {}),
        }
        known = {pair for pairs in families.values() for pair in pairs}
        families["contrast"] = [pair for pair in registered if pair not in known]
        for family, pairs in families.items():
            for form in FORMS:
                chosen = [Pair(a, b, family, str(scale), form) for a, b in pairs]
                found += [difference(part, *q, p) for q in QUALITY for p in chosen]
                found += [time_ratio(part, *t, p) for t in TIMES for p in chosen]
    table = pd.DataFrame([row for row in found if row is not None], columns=COLUMNS)
    # A family of hypotheses is one variant's comparisons over the depths.
    variant = table["left"].map(lambda model: split_name(model)[0])
    keys = [
        variant,
        *(table[k] for k in ("family", "scale", "form", "dataset", "metric")),
    ]
    table["p_holm"] = table.groupby(keys)["p"].transform(lambda p: holm(list(p)))
    levels = table.groupby(keys)["p"].transform(lambda p: holm_levels(list(p)))
    # The interval that goes with the adjusted p: the two never disagree.
    usual = stats.t.ppf((1 + LEVEL) / 2, table["n"] - 1)
    wider = stats.t.ppf((1 + levels) / 2, table["n"] - 1) / usual
    half = (table["ci_high"] - table["effect"]) * wider
    known = set(registered)
    sides = list(zip(table["left"], table["right"], strict=True))
    status = ["pre-registered" if p in known else "exploratory" for p in sides]
    return table.assign(
        holm_low=table["effect"] - half,
        holm_high=table["effect"] + half,
        status=status,
    )


def crossed(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Beside the interval over seeds one over seeds and documents, both random.

    For the cross-entropy of the test text, where every seed scores the same
    documents; and the correlation over seeds that pairing by seed makes use of.
    """
    chosen = rows[(rows["dataset"] == "text") & (rows["metric"] == "cross_entropy")]
    documents = {
        key: part.pivot(index="unit_id", columns="sample", values="value")
        for key, part in chosen.groupby(["model", "form"])
    }
    weights = chosen.drop_duplicates("sample").set_index("sample")["weight"]
    extra = []
    for _, row in table.iterrows():
        left, right = (
            documents.get((row[side], row["form"])) for side in ("left", "right")
        )
        if row["dataset"] != "text" or left is None or right is None:
            extra.append([float("nan")] * 3)
        else:
            extra.append(_crossed(left, right, weights))
    columns = ["crossed_low", "crossed_high", "seed_correlation"]
    return table.join(pd.DataFrame(extra, columns=columns, index=table.index))


def _crossed(
    left: pd.DataFrame, right: pd.DataFrame, weights: pd.Series
) -> list[float]:
    a, b = left.align(right, join="inner")
    token_weights = weights[a.columns].to_numpy()
    _, low, high = crossed_interval((a - b).to_numpy(), token_weights)
    means = [np.average(side, axis=1, weights=token_weights) for side in (a, b)]
    return [low, high, pairing_correlation(*means)]


def contrasts(models: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(left, right) pairs by family.

    layer: every variant against the baseline of equal depth; depth: the shallowest
    model of every variant against the deepest baseline; twin: the A/A pair.
    """
    depths: dict[str, list[int]] = {}
    for model in models:
        variant, depth, options = split_name(model)
        if not options and variant not in FFNS:
            depths.setdefault(variant, []).append(depth)
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
