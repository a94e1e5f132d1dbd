"""The search over learning rates: what each group of models reaches at its best rate.

A group is a model without its learning rate, initialisation and steps. Everything is
scored on validation data: no number here is an estimate for the test split, and since
rates are chosen by the data that score them, the best of them flatter all groups alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lgamma

import pandas as pd

from shallower.analysis.claims.base import Context, Fact
from shallower.analysis.estimates import Comparison
from shallower.analysis.results import Results
from shallower.study.names import T5_PREFIX, ModelName
from shallower.study.study import SEARCHES

GROUP = ["group", "init_std", "steps"]  # within which rates are compared
COLUMNS = [
    "group",
    "model",
    "variant",
    "depth",
    "init_std",
    "steps",
    "learning_rate",
    "n",
    "cross_entropy",  # nats, validation: mean over seeds; of a T5's gaps
    "low",  # lowest and
    "high",  # highest seed
    "best",  # of the rates, with this initialisation
    "best_of_all",  # of the rates and initialisations
    "interior",
    "sensitivity",
    "bad_mode_share",
    "bad_mode_share_of_group",  # of the runs at all rates, with this initialisation
]
# A run is in the bad mode if the first block's attention ends with less than this
# share of the entropy of uniform attention; with contexts of 128 (uniform: 3.88 nats)
# that is 3.30. The 60 searching runs of the first reference run fall apart there in two
# quantities at once: 43 end at 3.39 or more, the heads' outputs with an RMS of .04 to
# .23, and 17 at 3.22 or less with .38 to 2.6.
BAD_MODE = 0.85
VALIDATION = ("validation", "cross_entropy")


def uniform_entropy(context: int) -> float:
    """Nats of causal attention that is uniform: the mean of log t, t = 1..context."""
    return lgamma(context + 1) / context


def bad_modes(results: Results) -> pd.Series:
    """Whether a searching run ended in the bad mode, by (model, seed)."""
    rows = results.diagnostics(results.study.runs_of("learning_rate"))
    rows = rows[(rows["block"] == 0) & (rows["quantity"] == "entropy")]
    last = rows.sort_values("iteration").groupby(["model", "seed"])["value"].last()
    return last < BAD_MODE * uniform_entropy(results.study.model.context)


def search_table(results: Results) -> pd.DataFrame:
    """learning_rate.csv: a row per group, initialisation, number of steps and rate.

    Within a group and initialisation: `best` is the rate of the lowest mean;
    `interior` says that this is neither the lowest nor the highest rate tried;
    `sensitivity` is the mean over the rates of (loss - best loss), after Wortsman et
    al. (arXiv 2309.14322), who also cap losses at the initial one, which no run here
    comes near. `bad_mode_share` is NaN where no run has diagnostics.
    """
    study = results.study
    runs = [run for experiment in SEARCHES for run in study.runs_of(experiment)]
    values, modes = results.run_values(runs, *VALIDATION), bad_modes(results)
    rows = []
    for model, losses in values.groupby("model", sort=False):
        name, spec = study.models[model], study.spec(model, 0)
        start = spec.initialisation or study.initialisation
        bad = modes[modes.index.isin(losses.index)].astype(float)
        rows.append(
            {
                "group": str(name.without("lr", "init_std", "steps")),
                "model": model,
                "variant": name.variant,
                "depth": name.depth,
                "init_std": start.std,
                "steps": spec.training.steps,
                "learning_rate": spec.training.learning_rate,
                "n": len(losses),
                "cross_entropy": losses.mean(),
                "low": losses.min(),
                "high": losses.max(),
                "bad_mode_share": bad.mean(),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table.empty:
        return table
    table = table.sort_values([*GROUP, "learning_rate"], ignore_index=True)
    losses, rates = table["cross_entropy"], table["learning_rate"]
    by_group = [table[key] for key in GROUP]
    table["best"] = table.index.isin(losses.groupby(by_group).idxmin())
    all_starts = losses.groupby([table["group"], table["steps"]])
    table["best_of_all"] = table.index.isin(all_starts.idxmin())
    chosen = rates.where(table["best"]).groupby(by_group).transform("max")
    tried = rates.groupby(by_group)
    inside = (chosen > tried.transform("min")) & (chosen < tried.transform("max"))
    lowest = losses.groupby(by_group)
    sensitivity = lowest.transform("mean") - lowest.transform("min")
    bad = (table["bad_mode_share"] * table["n"]).groupby(by_group).transform("sum")
    diagnosed = table["n"].where(table["bad_mode_share"].notna())
    runs = diagnosed.groupby(by_group).transform("sum")  # 0 of T5: then NaN
    bad_share = bad / runs.where(runs > 0)
    return table.assign(
        interior=inside, sensitivity=sensitivity, bad_mode_share_of_group=bad_share
    )


def plain_group(variant: str, depth: int) -> str:
    """The group that others are compared with: the plain baseline, or the plain T5."""
    own = variant.startswith(T5_PREFIX)
    return str(ModelName(variant if own else "baseline", depth))


def comparisons(table: pd.DataFrame) -> Iterator[Comparison]:
    """Every group against the plain baseline of its depth, by validation loss.

    Each side at its own best rate, for each initialisation and for the best of all; and
    both at each rate that both have.
    """
    for row in table.to_dict("records"):
        group = plain_group(row["variant"], row["depth"])
        if row["group"] == group:
            continue
        plain = table[(table["group"] == group) & (table["steps"] == row["steps"])]
        same_start = plain["init_std"] == row["init_std"]
        sides = [plain[same_start & (plain["learning_rate"] == row["learning_rate"])]]
        sides += [plain[plain["best"] & same_start]] if row["best"] else []
        sides += [plain[plain["best_of_all"]]] if row["best_of_all"] else []
        for side in sides:
            for right in side["model"]:
                yield Comparison(row["model"], right, *VALIDATION, family="rates")


def facts(context: Context, table: pd.DataFrame) -> Iterator[Fact]:
    """Shares of runs in the bad mode (percent), and what counts as one (nats)."""
    uniform = uniform_entropy(context.study.model.context)
    yield Fact("heads.bad_mode.uniform", uniform, "nats")
    yield Fact("heads.bad_mode.limit", BAD_MODE * uniform, "nats")
    table = table[table["bad_mode_share"].notna()]  # T5 has no diagnostics
    if len(table):
        bad = (table["bad_mode_share"] * table["n"]).sum() / table["n"].sum()
        yield Fact("heads.search.bad_mode", 100 * bad, "percent")
    for group, part in table.groupby("group"):
        runs = part["n"].sum()
        bad = 100 * (part["bad_mode_share"] * part["n"]).sum() / runs
        yield Fact(f"heads.search.bad_mode.{group}", bad, "percent")
