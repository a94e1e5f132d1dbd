"""Summaries: one row per model and metric, one file per data set and one of all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shallower.analysis.raw import (
    Runs,
    latency_rows,
    quality_rows,
    step_rows,
    training_rows,
)
from shallower.analysis.sessions import judge, used
from shallower.analysis.statistics import describe
from shallower.files import write_text
from shallower.names import split_name
from shallower.systems import system_of

KEYS = ["model", "scale", "form", "mode", "dataset", "metric", "unit"]
COLUMNS = [
    "model",
    "system",
    "scale",
    "form",
    "mode",
    "depth",
    "variant",
    "dataset",
    "metric",
    "unit",
    "n_seeds",
    "n",
    "mean",
    "median",
    "p5",
    "p95",
    "std",
    "ci_low",
    "ci_high",
]


def raw_rows(
    results: Path, runs: Runs, arms: Runs = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every sample of a study as the rows of `raw`, and its judged sessions.

    `arms` are scored and not trained. Times of disturbed sessions are left out.
    """
    latency = pd.read_parquet(results / "latency.parquet")
    steps = pd.read_parquet(results / "step_time.parquet")
    sessions = judge(latency)
    kept = used(sessions)
    parts = [
        training_rows(results / "runs", runs),
        quality_rows(results / "evaluations", [*runs, *arms]),
        latency_rows(latency[latency["session"].isin(kept)]),
        step_rows(steps[steps["session"].isin(kept)]),
    ]
    return pd.concat(parts, ignore_index=True), sessions


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, form, mode, data set and metric, over seeds and samples."""
    summary = []
    for key, group in rows.groupby(KEYS, sort=False):
        values = group["value"].to_numpy(float)
        weights = group["weight"].to_numpy(float)
        described = describe(values, weights, group["unit_id"].to_numpy())
        summary.append(
            dict(zip(KEYS, key, strict=True))
            | described
            | {"n_seeds": group["seed"].nunique()}
        )
    table = pd.DataFrame(summary)
    names = table["model"].map(split_name)
    table = table.assign(
        system=table["model"].map(system_of),
        variant=names.str[0],
        depth=names.str[1].astype(int),
    )
    return table[COLUMNS]


def write_summaries(
    results: Path, rows: pd.DataFrame, sessions: pd.DataFrame, sets: list[str]
) -> None:
    """Write `summary.csv`, `summaries/<dataset>.csv`, `by_seed.csv`, `sessions.csv`."""
    table = summarise(rows)
    for name in sets:
        _write(table[table["dataset"] == name], results / "summaries" / f"{name}.csv")
    _write(table, results / "summary.csv")
    _write(by_unit(rows), results / "by_seed.csv")
    _write(sessions, results / "sessions.csv")


def by_unit(rows: pd.DataFrame) -> pd.DataFrame:
    """One value per model, metric and independent unit: every seed is listed.

    `unit_id` is the seed, and the value a weighted mean; for times `unit_id` is the
    session (a process) and the value a median, since a machine that stops for a moment
    to do something else adds to one request what belongs to none.
    """
    keys = [*KEYS, "unit_id"]
    weighted = rows["value"] * rows["weight"]
    total = weighted.groupby([rows[key] for key in keys], sort=False).sum()
    grouped = rows.groupby(keys, sort=False)
    mean, median = total / grouped["weight"].sum(), grouped["value"].median()
    is_time = mean.index.get_level_values("unit") == "us"
    return mean.mask(is_time, median).rename("value").reset_index()


def _write(table: pd.DataFrame, path: Path) -> None:
    # Ten significant digits: more would differ between machines for no one's benefit.
    write_text(path, table.to_csv(index=False, float_format="%.10g"))
