"""`methods.csv`: one row a model, with all that it costs and all that it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from shallower.analysis.changes import phrase
from shallower.analysis.front_data import FrontData
from shallower.config import Study
from shallower.models.arithmetic import cache_bytes
from shallower.names import parse_name
from shallower.systems import system_of

NAN = float("nan")
FP32 = 4
AXES = ("per_token", "first_token")
ENDS = ("", "_ci_low", "_ci_high")
COLUMNS = [
    *("model", "system", "changes"),
    "parameters",  # as deployed
    "cache_bytes",  # fp32, of a prompt and its continuation
    "training_flops",  # of all that was trained for it
    "training_share",  # of the deepest baseline's
    *(f"quality{end}" for end in ENDS),  # nats
    *(f"{axis}{end}" for axis in AXES for end in ENDS),  # us
    *(f"on_front_{axis}" for axis in AXES),
    *(f"on_front_probability_{axis}" for axis in AXES),
    "axis",  # that the verdict is about
    "verdict",  # of the gain over depth; depth itself has none
]


def method_table(
    study: Study,
    data: FrontData,
    tables: Mapping[str, pd.DataFrame],
    parameters: pd.DataFrame,
) -> pd.DataFrame:
    """Every model of the front; `tables` are its pareto, gains and arms."""
    by_axis = {
        axis: rows.set_index("model") for axis, rows in tables["pareto"].groupby("axis")
    }
    gains = tables["gains"]
    verdicts = gains[gains["null"] == "depth"].set_index(["model", "axis"])["verdict"]
    sizes = parameters[parameters["scale"] == "study"].set_index("model")
    caches = _caches(study, data.models, tables["arms"])
    whole = data.flops.get(data.deepest, NAN)
    deepest, rows = parse_name(data.deepest).depth, []
    for model in [*data.models, *data.diverged]:
        flops = data.flops.get(model, NAN)
        row: dict[str, Any] = {
            "model": model,
            "system": system_of(model),
            "changes": phrase(parse_name(model), deepest),
            "parameters": sizes["parameters_deployed"].get(model, NAN),
            "cache_bytes": caches.get(model, NAN),
            "training_flops": flops,
            "training_share": flops / whole,
        }
        row["axis"] = purpose(model)
        row["verdict"] = verdicts.get((model, row["axis"]), "")
        if model in data.diverged:
            row["verdict"] = "not tested"
        for axis, points in by_axis.items():
            if model in points.index:
                row |= _places(str(axis), points.loc[model])
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def purpose(model: str) -> str:
    """The axis that a method is for: elimination shortens the prefill alone.

    So does tuning, which is for elimination.
    """
    return AXES[bool({"eliminate", "tuned"} & set(parse_name(model).options))]


def _places(axis: str, point: pd.Series) -> dict[str, Any]:
    """What a model's row of pareto.csv says, in the columns of its axis."""
    found: dict[str, Any] = {f"quality{end}": point[f"quality{end}"] for end in ENDS}
    found |= {f"{axis}{end}": point[f"latency{end}"] for end in ENDS}
    found[f"on_front_{axis}"] = point["on_front"]
    found[f"on_front_probability_{axis}"] = point["on_front_probability"]
    return found


def _caches(study: Study, models: list[str], arms: pd.DataFrame) -> dict[str, float]:
    """Bytes of keys and values by model; an arm's as it was evaluated."""
    tokens = study.prompt_tokens + study.evaluation.new_tokens
    found = {
        model: float(cache_bytes(study.run(model, 0)["model"], tokens, FP32))
        for model in models
        if model in study.models
    }
    by_arm = arms.groupby("model")["cache_bytes"].mean()
    return found | {str(arm): float(held) for arm, held in by_arm.items()}
