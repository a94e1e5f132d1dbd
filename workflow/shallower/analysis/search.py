"""The search over learning rates: what each arm reaches at its own best rate.

An arm is a model without its learning rate, initialisation and steps. Everything is
scored on validation data: no number here is an estimate for the test split, and since
rates are chosen by the data that score them, the best of them flatter every arm alike.
"""

from __future__ import annotations

from math import lgamma
from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.runs import effect, paired, run_values
from shallower.config import Study
from shallower.files import write_text
from shallower.names import ModelName

ARM = ["arm", "init_std", "steps"]  # within which rates are compared
COLUMNS = [
    "arm",
    "variant",
    "depth",
    "init_std",
    "steps",
    "learning_rate",
    "seeds",
    "n",
    "cross_entropy",  # nats, validation: mean over seeds
    "low",  # lowest and
    "high",  # highest seed
    "best",
    "interior",
    "sensitivity",
    "bad_mode_share",
]
ENVELOPE_COLUMNS = [
    "arm",
    "baseline",
    "over",  # what the best is taken over: "rates", or "rates and initialisations"
    "steps",
    "init_std",
    "learning_rate",
    "baseline_init_std",
    "baseline_learning_rate",
    "seeds",
    "n",
    "effect",
    "ci_low",
    "ci_high",
]
# A run is in the bad mode if the first block's attention ends with less than this
# share of the entropy of uniform attention; with contexts of 128 (uniform: 3.88 nats)
# that is 3.30. The 60 searching runs of the reference study fall apart there in two
# quantities at once: 43 end at 3.39 or more, the heads' outputs with an RMS of .04 to
# .23, and 17 at 3.22 or less with .38 to 2.6.
BAD_MODE = 0.85


def search_runs(study: Study, units: pd.DataFrame) -> pd.DataFrame:
    """One row per run of the experiment, with its settings and its cross-entropy.

    Columns arm, variant, depth, init_std, steps, learning_rate, model, seed,
    cross_entropy (nats, validation).
    """
    runs = study.runs_of("learning_rate")
    values = run_values(units, runs, "validation", "cross_entropy")
    rows = []
    for (model, seed), value in values.items():
        settings = study.run(model, seed)
        name = study.models[model]
        kept = {
            key: option
            for key, option in name.options.items()
            if key not in ("lr", "steps", "init_std")
        }
        rows.append(
            {
                "arm": str(ModelName(name.variant, name.depth, kept)),
                "variant": name.variant,
                "depth": name.depth,
                "init_std": settings["initialisation"]["std"],
                "steps": settings["training"]["steps"],
                "learning_rate": settings["training"]["learning_rate"],
                "model": model,
                "seed": seed,
                "cross_entropy": value,
            }
        )
    return pd.DataFrame(rows, columns=[*COLUMNS[:6], "model", "seed", "cross_entropy"])


def uniform_entropy(context: int) -> float:
    """Nats of causal attention that is uniform: the mean of log t, t = 1..context."""
    return lgamma(context + 1) / context


def bad_modes(study: Study, diagnostics: pd.DataFrame) -> pd.Series:
    """Whether a run ended in the bad mode, by (model, seed).

    `diagnostics` has the columns of diagnostics.csv, and model and seed.
    """
    rows = diagnostics[
        (diagnostics["block"] == 0) & (diagnostics["quantity"] == "entropy")
    ]
    last = rows.sort_values("iteration").groupby(["model", "seed"])["value"].last()
    return last < BAD_MODE * uniform_entropy(study.model.context)


def search_table(
    study: Study, units: pd.DataFrame, diagnostics: pd.DataFrame
) -> pd.DataFrame:
    """One row per arm, initialisation, number of steps and learning rate.

    Within an arm and initialisation: `best` is the rate of the lowest mean;
    `interior` says that this is neither the lowest nor the highest rate tried;
    `sensitivity` is the mean over the rates of (loss - best loss), after Wortsman et
    al. (arXiv 2309.14322), who also cap losses at the initial one, which no run here
    comes near. NaN as `bad_mode_share` where no run was looked into.
    """
    runs = search_runs(study, units)
    if runs.empty:
        return pd.DataFrame(columns=COLUMNS)
    modes = bad_modes(study, diagnostics)
    keys = zip(runs["model"], runs["seed"], strict=True)
    runs = runs.assign(bad=[float(modes.get(key, float("nan"))) for key in keys])
    table = (
        runs.sort_values("seed")
        .groupby(COLUMNS[:6], sort=False)
        .agg(
            seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
            n=("seed", "size"),
            cross_entropy=("cross_entropy", "mean"),
            low=("cross_entropy", "min"),
            high=("cross_entropy", "max"),
            bad_mode_share=("bad", "mean"),
        )
        .reset_index()
    )
    arms = table.groupby(ARM, sort=False)
    rate = table["learning_rate"]
    table["best"] = table.index.isin(arms["cross_entropy"].idxmin())
    chosen = rate.where(table["best"]).groupby([table[key] for key in ARM])
    chosen_rate, rates = chosen.transform("max"), arms["learning_rate"]
    table["interior"] = (chosen_rate > rates.transform("min")) & (
        chosen_rate < rates.transform("max")
    )
    losses = arms["cross_entropy"]
    table["sensitivity"] = losses.transform("mean") - losses.transform("min")
    return table[COLUMNS].sort_values([*ARM, "learning_rate"], ignore_index=True)


def envelope_table(study: Study, units: pd.DataFrame) -> pd.DataFrame:
    """Every arm against the baseline arm of its depth, each at its own best rate.

    The best rate is that of the lowest mean over seeds; the differences are paired by
    seed (t interval). Once for each initialisation, and once with the best of them
    for either side.
    """
    runs = search_runs(study, units)
    rows: list[dict[str, Any]] = []
    for (_, steps), part in runs.groupby(["depth", "steps"], sort=False):
        parts = [("rates", p) for _, p in part.groupby("init_std", sort=False)]
        if len(parts) > 1:
            parts.append(("rates and initialisations", part))
        for over, chosen in parts:
            rows += [row | {"over": over, "steps": steps} for row in _against(chosen)]
    return pd.DataFrame(rows, columns=ENVELOPE_COLUMNS)


def _against(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Differences of the arms' best models to the best of the plain baseline."""
    means = runs.groupby(["arm", "model"], sort=False)["cross_entropy"].mean()
    best = {arm: group.idxmin()[1] for arm, group in means.groupby("arm", sort=False)}
    plain = str(ModelName("baseline", int(runs["depth"].iloc[0])))
    if plain not in best:
        return []
    values = runs.set_index(["model", "seed"])["cross_entropy"]
    settings = runs.drop_duplicates("model").set_index("model")
    rows = []
    for arm, model in best.items():
        differences = paired(values, model, best[plain])
        if arm != plain and not differences.empty:
            row = {"arm": arm, "baseline": plain} | effect(differences)
            for prefix, side in (("", model), ("baseline_", best[plain])):
                for key in ("init_std", "learning_rate"):
                    row[prefix + key] = settings.loc[side, key]
            rows.append(row)
    return rows


def read_diagnostics(results: Path, runs: list[tuple[str, int]]) -> pd.DataFrame:
    """Rows of diagnostics.csv of these runs, with model and seed."""
    frames = [
        pd.read_csv(
            results / "runs" / model / f"seed{seed}" / "diagnostics.csv"
        ).assign(model=model, seed=seed)
        for model, seed in runs
    ]
    columns = ["iteration", "block", "quantity", "value", "model", "seed"]
    return pd.concat(frames) if frames else pd.DataFrame(columns=columns)


def write_search(results: Path, study: Study, output: Path | None = None) -> None:
    """Write `learning_rate.csv` and `learning_rate_envelope.csv` (into `output`)."""
    units = pd.read_csv(results / "by_seed.csv")
    diagnostics = read_diagnostics(results, study.runs_of("learning_rate"))
    tables = {
        "learning_rate": search_table(study, units, diagnostics),
        "learning_rate_envelope": envelope_table(study, units),
    }
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.10g")
        write_text((output or results) / f"{name}.csv", text)
