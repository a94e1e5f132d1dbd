"""What `evaluations/<run>/seed<k>.arms.json` say: choices, predictions, profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from shallower.analysis.raw import Runs
from shallower.files import read_json

PROFILE_COLUMNS = ["model", "seed", "block", "metric", "value"]
ARM_COLUMNS = [
    "model",
    "run",
    "seed",
    "predicted_decode",  # speed-up over the run as deployed, by weights read
    "predicted_prefill",  # by multiply-accumulates of the blocks
    "cache_bytes",  # fp32, at the prompt and its continuation
    "run_cache_bytes",
    "counts",  # tokens that each block leaves, K_1 .. K_L
]


def read_arms(evaluations: Path, runs: Runs) -> list[dict[str, Any]]:
    """The facts of every run that has arms; of those whose file is there."""
    paths = [evaluations / m / f"seed{seed}.arms.json" for m, seed in runs]
    return [read_json(path) for path in paths if path.is_file()]


def profile_table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each value of a block, counted from 0.

    Importance of attention, FFN and block (1 - cosine of what goes in and comes out),
    contribution (ACC), and the profile that is made of it.
    """
    rows = []
    for each in facts:
        values = {f"importance_{k}": v for k, v in each["importance"].items()}
        values |= {key: each[key] for key in ("contribution", "profile")}
        rows += [
            (each["model"], each["seed"], block, metric, value)
            for metric, by_block in values.items()
            for block, value in enumerate(by_block)
        ]
    return pd.DataFrame(rows, columns=PROFILE_COLUMNS)


def arm_table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each arm and seed."""
    rows = []
    for each in facts:
        for arm, found in each["arms"].items():
            row = {"model": arm, "run": each["model"], "seed": each["seed"]}
            row |= {key: found[key] for key in ARM_COLUMNS[3:6]}
            row["run_cache_bytes"] = each["run_cache_bytes"]
            row["counts"] = " ".join(map(str, found["counts"] or []))
            rows.append(row)
    return pd.DataFrame(rows, columns=ARM_COLUMNS)
