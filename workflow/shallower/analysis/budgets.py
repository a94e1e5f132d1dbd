"""More or fewer tokens: what each budget reaches, where depth pays, and the trade."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from shallower.analysis.claims.base import Context
from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.analysis.statistics import t_interval
from shallower.study.names import ModelName
from shallower.study.study import Run, Study

COLUMNS = [
    "model",
    "variant",
    "depth",
    "width",
    "tokens",  # of training
    "parameters_trained",
    "tokens_per_parameter",
    "n",
    "cross_entropy",  # nats, test: mean over seeds
    "ci_low",  # 95 % t interval of the mean
    "ci_high",
    "training_loss",  # nats, mean over seeds
]
# What is asked at every budget, as (variant, depth) of left and right.
QUESTIONS = {
    "depth": (("baseline", "deep"), ("baseline", "shallow")),  # does depth pay?
    "layer": (("proposed", "shallow"), ("baseline", "shallow")),
    "trade": (("proposed", "shallow"), ("baseline", "deep")),  # what is advertised
}
# What else is asked there: parts of the added layer, and all of it in deep models.
PARTS = {
    "silu": (("silu", "shallow"), ("baseline", "shallow")),
    "linear": (("linear", "shallow"), ("baseline", "shallow")),
    "deep layer": (("proposed", "deep"), ("baseline", "deep")),
}
EXPERIMENTS = ("depth", "head", "budget")
OPTIONS = {"steps", "width", "lr"}  # of a model that belongs to the table


class Budget(NamedTuple):
    """A width and number of training tokens at which both depths were trained."""

    tokens: int
    tokens_per_parameter: float  # of the deep model
    shallow: str
    deep: str


def budget_runs(study: Study) -> list[Run]:
    """Runs that differ by variant, depth, width and number of steps alone.

    Of models that differ by the learning rate too the one without a rate in its label,
    or the first.
    """
    runs = [run for experiment in EXPERIMENTS for run in study.runs_of(experiment)]
    chosen = [run for run in runs if set(study.models[run[0]].options) <= OPTIONS]
    chosen.sort(key=lambda run: "lr" in study.models[run[0]].options)
    kept: dict[ModelName, str] = {}
    for model, _ in chosen:
        kept.setdefault(study.models[model].without("lr"), model)
    return [run for run in dict.fromkeys(chosen) if run[0] in kept.values()]


def budget_table(results: Results) -> pd.DataFrame:
    """budget.csv: a row per variant, depth, width and number of training tokens."""
    study = results.study
    runs = budget_runs(study)
    losses = results.run_values(runs, "text", "cross_entropy")
    training = results.run_values(losses.index, "train", "training_loss")
    rows = []
    for model, values in losses.groupby("model", sort=False):
        name, tokens = study.models[model], results.tokens_of(model)
        size = int(results.size(model, "parameters_trained"))
        low, high = t_interval(values)
        rows.append(
            {
                "model": model,
                "variant": name.variant,
                "depth": name.depth,
                "width": name.options.get("width", study.model.width),
                "tokens": tokens,
                "parameters_trained": size,
                "tokens_per_parameter": tokens / size,
                "n": len(values),
                "cross_entropy": values.mean(),
                "ci_low": low,
                "ci_high": high,
                "training_loss": training[model].mean(),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    keys = ["width", "variant", "depth", "tokens"]
    return table.sort_values(keys, ignore_index=True)


def depth_budgets(results: Results) -> list[Budget]:
    """Every budget of the plain baselines of both ends, by tokens per parameter."""
    budgets = []
    for asked in comparisons(results.study):
        if asked.family == "budget depth":
            tokens = results.tokens_of(asked.left)
            ratio = tokens / results.size(asked.left, "parameters_trained")
            budgets.append(Budget(tokens, ratio, asked.right, asked.left))
    return sorted(budgets, key=lambda budget: budget.tokens_per_parameter)


def tried(results: Results) -> list[int]:
    """Training tokens at which some question is asked, of the study's own width."""
    study = results.study
    tokens = {
        results.tokens_of(asked.left)
        for asked in comparisons(study)
        if asked.family.removeprefix("budget ") in QUESTIONS
        and "width" not in study.models[asked.left].options
    }
    return sorted(tokens)


def comparisons(study: Study) -> Iterator[Comparison]:
    """Every question at every width and budget at which both sides are trained."""
    ends = {"shallow": study.depths[0], "deep": study.depths[-1]}
    models = dict.fromkeys(model for model, _ in budget_runs(study))
    budgets = {
        tuple(sorted(study.models[model].options.items())): None for model in models
    }
    for budget in budgets:
        for question, sides in (QUESTIONS | PARTS).items():
            left, right = (
                str(ModelName(variant, ends[end], dict(budget)))
                for variant, end in sides
            )
            if {left, right} <= models.keys() and _equal_tokens(study, left, right):
                yield Comparison(left, right, family=f"budget {question}")


GAIN_COLUMNS = [
    "question",  # of QUESTIONS or PARTS
    *("left", "right", "width", "tokens"),
    "tokens_per_parameter",  # of the smaller model
    *("n", "effect", "ci_low", "ci_high"),  # nats, left - right, 95 %
]


def gain_table(context: Context) -> pd.DataFrame:
    """gain.csv: every question's answer at every budget, by tokens per parameter."""
    budget = budget_table(context.results).set_index("model")
    rows = []
    for asked in comparisons(context.study):
        found = context.estimate(asked)
        if not found.exists:
            continue
        sides = budget.loc[[asked.left, asked.right]]
        smaller = sides.loc[sides["parameters_trained"].idxmin()]
        rows.append(
            {
                "question": asked.family.removeprefix("budget "),
                "left": asked.left,
                "right": asked.right,
                "width": smaller["width"],
                "tokens": smaller["tokens"],
                "tokens_per_parameter": smaller["tokens_per_parameter"],
                "n": found.n,
                "effect": found.effect,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
            }
        )
    table = pd.DataFrame(rows, columns=GAIN_COLUMNS)
    return table.sort_values(["question", "width", "tokens"], ignore_index=True)


def _equal_tokens(study: Study, left: str, right: str) -> bool:
    """Whether two models see equally many tokens: settings may change that of one."""
    sides = [study.spec(label, 0).training for label in (left, right)]
    first, second = (side.steps * side.batch_size for side in sides)
    return first == second
