"""Decoding times against the time in which the weights alone can be read.

At batch 1 a token needs every weight once, so bytes over bandwidth is a floor. What a
model takes beyond it is the cost of running its operations, which in eager mode is
paid per block whatever the block's size. A deeper model has more of both; this says
how much of its extra time is weights and how much is the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis.raw import latency_rows
from shallower.analysis.sessions import judge, used
from shallower.analysis.statistics import ratio_interval, t_interval
from shallower.files import write_text
from shallower.models.choices import parse_skip
from shallower.names import split_name

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
WORKLOADS = ["fixed", "decode"]  # those whose length does not depend on the answer
KEYS = ["scale", "model", "form", "mode", "workload"]

Sizes = dict[str, dict[str, int]]  # scale -> width, vocabulary


def write_roofline(results: Path, sizes: Sizes, output: Path | None = None) -> None:
    """Write `roofline.csv` (a row a model) and `roofline_pairs.csv` (deep, shallow).

    Disturbed sessions are left out, as everywhere.
    """
    latency = pd.read_parquet(results / "latency.parquet")
    reads = pd.read_parquet(results / "bandwidth.parquet")
    parameters = pd.read_csv(results / "parameters.csv")
    kept = used(judge(latency))
    latency, reads = (t[t["session"].isin(kept)] for t in (latency, reads))
    table = by_session(latency, reads, parameters, sizes)
    for name, rows in (("roofline", points(table)), ("roofline_pairs", pairs(table))):
        text = rows.to_csv(index=False, float_format="%.10g")
        write_text((output or results) / f"{name}.csv", text)


def by_session(
    latency: pd.DataFrame, reads: pd.DataFrame, parameters: pd.DataFrame, sizes: Sizes
) -> pd.DataFrame:
    """Bytes, floor and measured time (median of the repeats) of each session.

    Only models that `parameters` knows, and only steps behind a key-value cache.
    """
    chosen = latency["workload"].isin(WORKLOADS) & (latency["mode"] != "uncached")
    times = latency_rows(latency[chosen])
    times = times[times["metric"] == "time_per_output_token"]
    times = times.rename(columns={"dataset": "workload", "unit_id": "session"})
    table = times.groupby([*KEYS, "session"])["value"].median()
    lengths = (
        latency[chosen]
        .groupby([*KEYS, "session"], as_index=False)[
            ["prompt_tokens", "generated_tokens", "dtype"]
        ]
        .first()
    )
    table = lengths.merge(table.rename("measured_us").reset_index())
    names = ["scale", "model", "variant", "depth"]
    counts = ["parameters_trained", "parameters_deployed"]
    table = table.merge(parameters[names + counts], on=["scale", "model"])
    table["bytes_per_token"] = [
        bytes_per_token(row, sizes[row["scale"]]) for _, row in table.iterrows()
    ]
    curves = {s: bandwidth_curve(part) for s, part in reads.groupby("session")}
    table["bandwidth"] = [
        interpolate(curves[session], size)
        for session, size in zip(
            table["session"], table["bytes_per_token"], strict=True
        )
    ]
    table["floor_us"] = table["bytes_per_token"] / table["bandwidth"] / 1000
    return table


def bytes_per_token(row: Any, sizes: dict[str, int]) -> float:
    """Bytes that one step reads: weights without the input embedding, keys and values.

    Of the embedding a step reads one row. The cache is read up to the mean position
    of the steps, or whole where it is static and a mask hides the rest.
    """
    kind = "trained" if row["form"] == "trained" else "deployed"
    weights = row[f"parameters_{kind}"] - sizes["vocabulary"] * sizes["width"]
    prompt, generated = row["prompt_tokens"], row["generated_tokens"]
    # Steps 1 to n - 1 see prompt + 1 to prompt + n - 1 tokens.
    static = row["workload"] == "decode"
    held = prompt + (generated if static else generated / 2)
    cached = 2 * attending(row["model"]) * sizes["width"] * held
    return float((weights + cached) * BYTES[row["dtype"]])


def attending(model: str) -> int:
    """Blocks with keys and values: all whose attention is not skipped."""
    _, depth, options = split_name(model)
    if "skip" not in options:
        return depth
    choice = parse_skip(options["skip"])
    return depth if choice.part == "ffn" else depth - choice.k


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


def points(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model, form, mode and workload, with 95 % intervals over sessions."""
    rows = []
    keys = [*KEYS, "variant", "depth"]
    for key, group in table.groupby(keys, sort=False):
        floor, measured = group["floor_us"], group["measured_us"]
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "sessions": len(group),
                "bytes_per_token": group["bytes_per_token"].mean(),
                "bandwidth_gb_s": group["bandwidth"].mean(),
                "floor_us": floor.mean(),
            }
            | _mean("measured_us", measured)
            | _ratio("share_of_floor", floor, measured)
        )
    return pd.DataFrame(rows)


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Deepest against shallowest of each variant: ratios, and the difference's parts.

    `weights_us` is the difference of the floors and `rest_us` what remains of the
    measured difference, per additional block in `rest_per_block_us`.
    """
    rows = []
    table = table[~table["model"].str.contains("__")]  # options are not depths
    keys = ["scale", "variant", "form", "mode", "workload"]
    for key, group in table.groupby(keys, sort=False):
        shallow, deep = group["depth"].min(), group["depth"].max()
        wide = group.pivot(index="session", columns="depth").loc[:, FIELDS].dropna()
        if shallow == deep or wide.empty:
            continue
        low, high = (wide.xs(d, axis=1, level="depth") for d in (shallow, deep))
        extra = high - low
        rest = extra["measured_us"] - extra["floor_us"]
        rows.append(
            dict(zip(keys, key, strict=True))
            | {"shallow": shallow, "deep": deep, "sessions": len(wide)}
            | _ratio("ratio", high["measured_us"], low["measured_us"])
            | {
                "ratio_of_blocks": deep / shallow,
                "ratio_of_bytes": high["bytes_per_token"].mean()
                / low["bytes_per_token"].mean(),
            }
            | _ratio("ratio_of_floors", high["floor_us"], low["floor_us"])
            | _mean("difference_us", extra["measured_us"])
            | _mean("weights_us", extra["floor_us"])
            | _mean("rest_us", rest)
            | _mean("rest_per_block_us", rest / (deep - shallow))
            | _ratio("weights_share", extra["floor_us"], extra["measured_us"])
        )
    return pd.DataFrame(rows)


FIELDS = ["bytes_per_token", "floor_us", "measured_us"]


def _mean(name: str, values: pd.Series) -> dict[str, float]:
    """Mean and interval over sessions, as three columns."""
    return _columns(name, float(values.mean()), *t_interval(values.to_numpy()))


def _ratio(name: str, top: pd.Series, bottom: pd.Series) -> dict[str, float]:
    """Ratio of means and interval over sessions, as three columns."""
    return _columns(name, *ratio_interval(top.to_numpy(), bottom.to_numpy()))


def _columns(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
