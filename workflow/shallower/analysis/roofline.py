"""Decoding times against the time in which the weights alone can be read.

At batch 1 a token needs every weight once, so bytes over bandwidth is a floor. What a
model takes beyond it is the cost of running its operations, which in eager mode is
paid per block whatever the block's size. A deeper model has more of both; this says
how much of its extra time is weights and how much is the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.claims.base import Fact
from shallower.analysis.estimates import (
    Comparison,
    Estimate,
    mean_difference,
    mean_level,
    ratio_of_means,
)
from shallower.analysis.results import Results
from shallower.analysis.statistics import ratio_interval, t_interval

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
WORKLOADS = ["fixed", "decode"]  # those whose length does not depend on the answer
KEYS = ["scale", "label", "form", "mode", "workload"]
NAMES = ["model", "intervention", "variant", "depth"]
METRIC = "time_per_output_token"
# Metrics of estimates that by_seed.csv does not have: two times, and a share.
FLOOR, REST, WEIGHTS = "floor", "time_beyond_floor", "share_of_weights"
BYTES = "bytes_per_token"
UNEXPLAINED = "more than the difference: reading alone does not explain it"


def by_session(results: Results) -> pd.DataFrame:
    """Bytes, floor and measured time (median of the repeats) of each session.

    No model is faster than the floor: where one reads faster than any benchmark of its
    session did, the bandwidths of its scale are raised by as much (`raised`).

    Only models that parameters.csv knows, and only steps behind a key-value cache.
    Disturbed sessions are left out, as everywhere.
    """
    rows = results.by_seed
    rows = rows[(rows["metric"] == METRIC) & rows["dataset"].isin(WORKLOADS)]
    rows = rows[rows["mode"] != "uncached"].rename(
        columns={"dataset": "workload", "unit_id": "session", "value": "measured_us"}
    )
    rows = rows.assign(session=rows["session"].astype(int))
    lengths = results.latency[
        [*KEYS, "session", "prompt_tokens", "generated_tokens", "dtype"]
    ].drop_duplicates([*KEYS, "session"])
    table = rows[[*KEYS, "session", "measured_us"]].merge(lengths)
    sizes = results.parameters.reset_index(drop=True)
    counts = ["parameters_trained", "parameters_deployed", "attending_blocks"]
    columns = ["scale", "label", *NAMES, *counts, "width", "vocabulary"]
    table = table.merge(sizes[columns], on=["scale", "label"])
    table[BYTES] = bytes_per_token(table)
    reads = results.bandwidth
    curves = {s: bandwidth_curve(part) for s, part in reads.groupby("session")}
    table["bandwidth"] = [
        interpolate(curves[session], size)
        for session, size in zip(table["session"], table[BYTES], strict=True)
    ]
    # What a model reads faster than the benchmark was possible: it is the bandwidth.
    rates = table[BYTES] / table["measured_us"] / 1000  # GB/s
    places = [table["session"], table["scale"]]
    excess = (rates / table["bandwidth"]).groupby(places).transform("max")
    table["raised"] = excess.clip(lower=1.0)
    table["bandwidth"] *= table["raised"]
    table["floor_us"] = table[BYTES] / table["bandwidth"] / 1000
    return table


def bytes_per_token(table: pd.DataFrame) -> pd.Series:
    """Bytes that one step reads: weights without the input embedding, keys and values.

    Of the embedding a step reads one row. The cache is read up to the mean position
    of the steps, or whole where it is static and a mask hides the rest.
    """
    trained, deployed = table["parameters_trained"], table["parameters_deployed"]
    weights = trained.where(table["form"] == "trained", deployed)
    weights = weights - table["vocabulary"] * table["width"]
    prompt, generated = table["prompt_tokens"], table["generated_tokens"]
    # Steps 1 to n - 1 see prompt + 1 to prompt + n - 1 tokens.
    static = table["workload"] == "decode"
    held = prompt + generated.where(static, generated / 2)
    cached = 2 * table["attending_blocks"] * table["width"] * held
    return (weights + cached) * table["dtype"].map(SIZES)


def bandwidth_curve(reads: pd.DataFrame) -> pd.Series:
    """Bytes per nanosecond (GB/s) by working set: of the fastest way to read it.

    Of each way the median of a session's repeats.
    """
    ways = reads.groupby(["bytes", "way"])["nanoseconds"].median()
    times = ways.groupby("bytes").min()
    return pd.Series(times.index / times, index=times.index)


def interpolate(curve: pd.Series, size: float) -> float:
    """Bandwidth at a working set, linear in its logarithm; constant beyond the ends."""
    return float(np.interp(np.log(size), np.log(curve.index), curve.to_numpy()))


def roofline_table(table: pd.DataFrame) -> pd.DataFrame:
    """roofline.csv: a row per model, form, mode and workload, with 95 % intervals.

    `table` is that of `by_session`; intervals are over sessions.
    """
    keys = ["scale", *NAMES, "form", "mode", "workload"]
    rows = []
    for key, group in table.groupby(keys, sort=False):
        floor, measured = group["floor_us"], group["measured_us"]
        low, high = t_interval(measured)
        share, share_low, share_high = ratio_interval(floor, measured)
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        row |= {
            "sessions": len(group),
            "bytes_per_token": group["bytes_per_token"].mean(),
            "bandwidth_gb_s": group["bandwidth"].mean(),
            "floor_us": floor.mean(),
            "measured_us": measured.mean(),
            "measured_us_ci_low": low,
            "measured_us_ci_high": high,
            "share_of_floor": share,
            "share_of_floor_ci_low": share_low,
            "share_of_floor_ci_high": share_high,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def estimates(results: Results, table: pd.DataFrame) -> Iterator[Estimate]:
    """Deepest against shallowest of each variant: ratios, and the difference's parts.

    Ratios of the times, of `floor` and of `bytes_per_token`. Differences of the times,
    of `floor` and of `time_beyond_floor`, what remains; of that the slope per block
    too. The ratio `share_of_weights` is the floors' part of the difference of times.
    """
    table = table[[not results.names[label].options for label in table["label"]]]
    keys = ["scale", "variant", "form", "mode", "workload"]
    for key, group in table.groupby(keys, sort=False):
        scale, _, form, mode, workload = map(str, key)
        ends = [
            group[group["depth"] == depth].set_index("session")
            for depth in (group["depth"].max(), group["depth"].min())
        ]
        deep, shallow = ends[0].align(ends[1], join="inner", axis=0)
        if deep.empty or deep["depth"].iloc[0] == shallow["depth"].iloc[0]:
            continue
        sides = deep["label"].iloc[0], shallow["label"].iloc[0]
        where = {"scale": scale, "form": form, "mode": mode}
        yield from _pair(sides, workload, where, deep, shallow)


def _pair(
    sides: tuple[str, str],
    workload: str,
    where: dict[str, Any],
    deep: pd.DataFrame,
    shallow: pd.DataFrame,
) -> Iterator[Estimate]:
    """All estimates of one pair, from its rows by session."""

    def asked(metric: str, kind: Any) -> Comparison:
        return Comparison(*sides, workload, metric, kind, **where)

    columns = {METRIC: "measured_us", FLOOR: "floor_us", BYTES: BYTES}
    for metric, column in columns.items():
        ratio = asked(metric, "ratio")
        yield ratio_of_means(ratio, deep[column], shallow[column], "sessions")
    measured = deep["measured_us"] - shallow["measured_us"]
    floor = deep["floor_us"] - shallow["floor_us"]
    rest, blocks = measured - floor, deep["depth"] - shallow["depth"]
    for metric, values in ((METRIC, measured), (FLOOR, floor), (REST, rest)):
        difference = asked(metric, "difference")
        yield mean_difference(difference, values, "sessions", unit="us")
    slope, unit = asked(REST, "slope"), "us per block"
    yield mean_level(slope, rest / blocks, "sessions", unit=unit)
    share = ratio_of_means(asked(WEIGHTS, "ratio"), floor, measured, "sessions")
    yield replace(share, note=UNEXPLAINED) if share.effect > 1 else share


def facts(table: pd.DataFrame) -> Iterator[Fact]:
    """By how much a model read faster than the benchmark, at most; `by_session`'s."""
    most = float(table["raised"].max()) if len(table) else 1.0
    yield Fact("heads.bandwidth.raised", 100 * (most - 1), "percent")
