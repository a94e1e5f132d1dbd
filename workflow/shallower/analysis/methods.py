"""methods.csv: every model that was scored, what it costs, and its verdict."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shallower.analysis.claims.base import Context
from shallower.analysis.front import gain_over, gated, identity, training_flops
from shallower.analysis.gains import Measured
from shallower.analysis.interventions import (
    AXES,
    checkpoints,
    curve_of,
    intervention_table,
    measured,
    predicted,
    profile_table,
    quality_of,
    sublayers,
)
from shallower.analysis.results import Results
from shallower.study.names import ModelName

NAN = float("nan")
FP32 = 4  # bytes
METHOD_COLUMNS = [
    *("model", "intervention", "system"),
    "cache_bytes",  # single precision, for a prompt and its continuation
    "cache_share",  # of that of the run without the intervention
    "training_flops",  # of all that was trained for it
    "training_share",  # of the deepest baseline's
    *("predicted_decode", "predicted_prefill"),  # speed-ups, means over seeds
    "axis",  # that the method is for, and that the verdict is about
    "verdict",  # on the gain over fewer blocks, which themselves have none
]


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """methods.csv, interventions.csv and profiles.csv."""
    chosen = intervention_table(context.results)
    return {
        "methods": _method_table(context, chosen),
        "interventions": chosen,
        "profiles": profile_table(context.results),
    }


def purpose(name: ModelName) -> str:
    """The axis that a method is for: elimination shortens the prefill alone.

    So does fine-tuning for elimination.
    """
    first = bool({"eliminate", "tuned"} & set(name.options))
    return "first_token" if first else "per_token"


def _method_table(context: Context, chosen: pd.DataFrame) -> pd.DataFrame:
    """A row for every model that was scored: what it costs, and its verdict.

    But for checkpoints without single sublayers, which are a profile.
    """
    results, study = context.results, context.study
    flops = training_flops(results, list(quality_of(results)))
    keys = [chosen["model"], chosen["intervention"]]
    means = chosen.groupby(keys).mean(numeric_only=True)
    shown = {*study.front, *study.checkpoints, *study.pooled} - {*sublayers(study)}
    rows = []
    for base in (study.deepest_baseline, *checkpoints(study)):
        by_axis = {axis: measured(results, axis, base) for axis in AXES}
        for label in quality_of(results, base):
            if label in shown:
                row = _costs(results, label, means)
                row["training_flops"] = flops.get(label, NAN)
                whole = flops.get(study.deepest_baseline, NAN)
                row["training_share"] = row["training_flops"] / whole
                row["verdict"] = _verdict(context, by_axis[row["axis"]], label)
                rows.append(row)
    return pd.DataFrame(rows, columns=METHOD_COLUMNS)


def _costs(results: Results, label: str, means: pd.DataFrame) -> dict[str, Any]:
    """What a model is, and the memory and speed that were predicted of it."""
    study, name = results.study, results.study.names[label]
    row = identity(name) | {"axis": purpose(name), "cache_bytes": NAN}
    unhealed = name.without("healed", "by")
    key = (str(unhealed.run), str(unhealed.intervention))
    if key in means.index:
        row |= means.loc[key, ["predicted_decode", "predicted_prefill"]].to_dict()
        row["cache_bytes"] = means.loc[key, "cache_bytes"]
        row["cache_share"] = row["cache_bytes"] / means.loc[key, "run_cache_bytes"]
    elif label in study.models:
        row["cache_bytes"] = _cache_bytes(results, label)
    elif label in study.pooled:
        for column in ("predicted_decode", "predicted_prefill"):
            row[column] = predicted(results, column).get(label, NAN)
    return row


def _verdict(context: Context, data: Measured, label: str) -> str:
    """On the gain over fewer blocks, or over blocks left out of the checkpoint.

    These themselves have none.
    """
    name = context.study.names[label]
    curve = "blocks" if name.pretrained else "depth"
    if name.is_depth_baseline or label in curve_of(context.study, data, curve):
        return ""
    if label not in data.models:
        return "not tested"
    return gated(context, gain_over(context, data, label, curve)[0]).verdict


def _cache_bytes(results: Results, label: str) -> float:
    """Of a run: keys and values of a prompt and its continuation."""
    study = results.study
    tokens = study.prompt_tokens + study.evaluation.new_tokens
    model = study.spec(label, 0).model
    blocks = results.size(label, "attending_blocks")
    return float(2 * blocks * tokens * model.inner * FP32)
