"""More or fewer tokens: what each budget reaches, where depth pays, and the trade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.runs import effect, paired, run_values
from shallower.analysis.statistics import t_interval
from shallower.config import Study
from shallower.files import write_text
from shallower.names import ModelName

COLUMNS = [
    "model",
    "variant",
    "depth",
    "width",
    "tokens",  # of training
    "parameters_trained",
    "tokens_per_parameter",
    "seeds",
    "n",
    "cross_entropy",  # nats, test: mean over seeds
    "ci_low",  # 95 % t interval of the mean
    "ci_high",
    "training_loss",  # nats, mean over seeds
]
PAIR_COLUMNS = [
    "width",
    "tokens",
    "tokens_per_parameter",  # of the larger model
    "question",
    "left",
    "right",
    "seeds",
    "n",
    "effect",  # left - right in test cross-entropy, nats
    "ci_low",
    "ci_high",
    "outcome",
]
# What is asked at every budget, as (variant, depth) of left and right.
QUESTIONS = {
    "depth": (("baseline", "deep"), ("baseline", "shallow")),  # does depth pay?
    "layer": (("proposed", "shallow"), ("baseline", "shallow")),
    "trade": (("proposed", "shallow"), ("baseline", "deep")),  # what is advertised
}
EXPERIMENTS = ("depth", "head", "budget")
OPTIONS = {"steps", "width"}  # of a model that belongs to the tables


def budget_runs(study: Study) -> list[tuple[str, int]]:
    """Runs that differ by variant, depth, width and number of steps alone."""
    runs = [run for experiment in EXPERIMENTS for run in study.runs_of(experiment)]
    plain = [run for run in runs if set(study.models[run[0]].options) <= OPTIONS]
    return list(dict.fromkeys(plain))


def tokens(study: Study, model: str) -> int:
    """Tokens a run of this model is trained on."""
    training = study.training_of(model)
    return training.steps * training.batch_size * study.model.context


def budget_table(
    study: Study, units: pd.DataFrame, parameters: pd.DataFrame
) -> pd.DataFrame:
    """One row per variant, depth, width and number of training tokens.

    `units` are the rows of by_seed.csv, `parameters` those of parameters.csv.
    """
    runs = budget_runs(study)
    losses = run_values(units, runs, "text", "cross_entropy")
    training = run_values(units, runs, "train", "training_loss")
    sizes = parameters[parameters["scale"] == "study"].set_index("model")
    rows = []
    for model, values in losses.groupby("model", sort=False):
        name, trained_on = study.models[model], tokens(study, model)
        by_seed = values.droplevel("model").sort_index()
        size = int(sizes.loc[model, "parameters_trained"])
        low, high = t_interval(by_seed.to_numpy())
        rows.append(
            {
                "model": model,
                "variant": name.variant,
                "depth": name.depth,
                "width": name.options.get("width", study.model.width),
                "tokens": trained_on,
                "parameters_trained": size,
                "tokens_per_parameter": trained_on / size,
                "seeds": " ".join(map(str, by_seed.index)),
                "n": len(by_seed),
                "cross_entropy": by_seed.mean(),
                "ci_low": low,
                "ci_high": high,
                "training_loss": training[training.index.isin(values.index)].mean(),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    keys = ["width", "variant", "depth", "tokens"]
    return table.sort_values(keys, ignore_index=True)


def pair_table(
    study: Study, units: pd.DataFrame, parameters: pd.DataFrame
) -> pd.DataFrame:
    """Every question of QUESTIONS at every width and budget with both models.

    The depths are those of the depth experiment; differences are paired by seed.
    """
    runs = budget_runs(study)
    losses = run_values(units, runs, "text", "cross_entropy")
    sizes = parameters[parameters["scale"] == "study"].set_index("model")
    depths = {"shallow": study.depths[0], "deep": study.depths[-1]}
    budgets = {
        str(sorted(options.items())): options
        for options in (study.models[model].options for model, _ in runs)
    }
    rows: list[dict[str, Any]] = []
    for options in budgets.values():
        for question, sides in QUESTIONS.items():
            left, right = (
                str(ModelName(variant, depths[end], options)) for variant, end in sides
            )
            differences = paired(losses, left, right)
            if differences.empty or tokens(study, left) != tokens(study, right):
                continue
            found, seen = effect(differences), tokens(study, left)
            largest = sizes.loc[[left, right], "parameters_trained"].max()
            rows.append(
                {
                    "width": options.get("width", study.model.width),
                    "tokens": seen,
                    "tokens_per_parameter": seen / largest,
                    "question": question,
                    "left": left,
                    "right": right,
                    "outcome": outcome(found["ci_low"], found["ci_high"]),
                }
                | found
            )
    table = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    order = ["width", "tokens", "question"]
    return table.sort_values(order, ignore_index=True)


def outcome(low: float, high: float) -> str:
    """Where the interval of left - right lies, in a word about left."""
    if high < 0:
        return "better"
    return "worse" if low > 0 else "undecided"


def write_budgets(results: Path, study: Study, output: Path | None = None) -> None:
    """Write `budget.csv` and `budget_pairs.csv` (into `output`)."""
    units = pd.read_csv(results / "by_seed.csv")
    parameters = pd.read_csv(results / "parameters.csv")
    tables = {
        "budget": budget_table(study, units, parameters),
        "budget_pairs": pair_table(study, units, parameters),
    }
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.10g")
        write_text((output or results) / f"{name}.csv", text)
