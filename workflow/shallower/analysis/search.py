"""`learning_rate.csv`: the search over learning rates, on validation data alone.

One row per variant, initialisation and rate. A comparison at one rate confounds an
architecture with how well that rate suits it; the envelope compares each variant at
its own best rate. Sensitivity to the rate follows Wortsman et al., arXiv 2309.14322:
the mean over the rates of loss(rate) - best loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis.statistics import t_interval
from shallower.config import Study
from shallower.files import write_text

# Attention entropy of the first block, in nats, below which a run is in the bad mode:
# even attention over 128 tokens has 3.87 on average. In the reference study's search
# healthy runs end above 3.15 and the others at 2.95 or, mostly, far below.
BAD_MODE = 3.0
ARM = ["variant", "depth", "init_std"]
COLUMNS = [
    *ARM,
    *("learning_rate", "n", "cross_entropy", "minimum", "maximum", "best", "interior"),
    *("sensitivity", "bad_mode_share"),
]

# Of a variant against the baseline, each at its own best: the same in all its rows.
ENVELOPE = ["envelope", "envelope_low", "envelope_high"]


def write_search(results: Path, study: Study, output: Path | None = None) -> None:
    """Write `learning_rate.csv` from by_seed.csv and the runs' diagnostics."""
    units = pd.read_csv(results / "by_seed.csv")
    runs = search_runs(study, units, results / "runs")
    table = search_table(runs)
    envelopes = {v: envelope(runs, v) for v in table["variant"].unique()}
    for index, column in enumerate(ENVELOPE):
        table[column] = [envelopes[variant][index] for variant in table["variant"]]
    text = table.to_csv(index=False, float_format="%.10g")
    write_text((output or results) / "learning_rate.csv", text)


def search_runs(study: Study, units: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """One row per run of the search: its settings, loss, and first block's entropy."""
    chosen = (units["dataset"] == "validation") & (units["metric"] == "cross_entropy")
    chosen &= units["form"] == "trained"
    losses = units[chosen].set_index(["model", "unit_id"])["value"]
    rows = []
    for model, seed in study.runs_of("learning_rate"):
        spec, name = study.run(model, seed), study.models[model]
        seen = pd.read_csv(runs / model / f"seed{seed}" / "diagnostics.csv")
        rows.append(
            {
                "variant": name.variant,
                "depth": name.depth,
                "init_std": spec["initialisation"]["std"],
                "learning_rate": spec["training"]["learning_rate"],
                "seed": seed,
                "loss": losses[model, seed],
                "entropy": last(seen, "entropy"),
            }
        )
    columns = [*ARM, "learning_rate", "seed", "loss", "entropy"]
    return pd.DataFrame(rows, columns=columns)


def last(diagnostics: pd.DataFrame, quantity: str, block: int = 0) -> float:
    """A quantity of a block when it was last looked at."""
    rows = diagnostics[diagnostics["quantity"] == quantity]
    rows = rows[rows["block"] == block].sort_values("iteration")
    return float(rows["value"].iloc[-1]) if len(rows) else float("nan")


def search_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of COLUMNS from the rows of `search_runs`."""
    rows = []
    for arm, part in runs.groupby(ARM, sort=False):
        by_rate = part.groupby("learning_rate")["loss"]
        means = by_rate.mean()
        best = means.idxmin()
        for rate, group in part.groupby("learning_rate"):
            rows.append(
                dict(zip(ARM, arm, strict=True))
                | {
                    "learning_rate": rate,
                    "n": len(group),
                    "cross_entropy": group["loss"].mean(),
                    "minimum": group["loss"].min(),
                    "maximum": group["loss"].max(),
                    "best": rate == best,
                    "interior": means.index.min() < best < means.index.max(),
                    "sensitivity": (means - means.min()).mean(),
                    "bad_mode_share": (group["entropy"] < BAD_MODE).mean(),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def envelope(runs: pd.DataFrame, variant: str) -> tuple[float, float, float]:
    """Best loss over rates and starts, minus the baseline's: effect, low, high.

    Each seed's own best over the grid, paired by seed; NaN if either was not searched.
    """
    best = runs.groupby(["variant", "seed"])["loss"].min().unstack("seed")
    if variant not in best.index or "baseline" not in best.index:
        return float("nan"), float("nan"), float("nan")
    differences = (best.loc[variant] - best.loc["baseline"]).dropna().to_numpy()
    if not len(differences):
        return float("nan"), float("nan"), float("nan")
    return float(np.mean(differences)), *t_interval(differences)
