"""A combined study made by hand, for tests of its tables.

Depth pays .1 nats a block and costs 100 us a token and 1 ms of prefill; seeds and
sessions scatter in common by much, and in differences by little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from made_up import grid, study_of
from shallower.analysis.front_data import FrontData
from shallower.analysis.front_tables import gain_table
from shallower.config import Study

SKIP, BLOCK = "baseline-4__skip=attention.latter.", "baseline-4__skip=block.latter."
HEALED = f"{SKIP}1__healed=0.1__by=self"
TUNED = "baseline-4__tuned=0.1__eliminate=acc.2"
STUDENT = "proposed-2__teacher=baseline-4"
SHARED = np.array([0.3, -0.2, 0.05])  # of seeds, nats
MOOD = np.array([1.1, 0.95, 1.0])  # of sessions
SMALL = np.array([0.001, -0.002, 0.001])

# Nats above 5, and us a token: blocks skipped are as bad as depth and worse.
TRUTH: dict[str, tuple[float, float]] = {
    "baseline-2": (0.2, 200),
    "baseline-3": (0.1, 300),
    "baseline-4": (0.0, 400),
    "proposed-2": (0.1, 205),  # .095 better than depth
    "proposed-4": (-0.1, 395),
    "three_matrices-4": (0.07, 300),
    "proposed-4__ffn=three_matrices": (-0.05, 310),  # together .02 worse than the sum
    f"{SKIP}1": (0.05, 350),  # what depth gives at 350 us: no gain
    f"{SKIP}2": (0.2, 320),
    f"{BLOCK}1": (0.4, 310),
    f"{BLOCK}2": (0.9, 220),
    HEALED: (0.0, 350),
    "baseline-4__tuned=0.1": (0.0, 400),
    TUNED: (0.02, 404),  # slower a token: the first is what it is for
    STUDENT: (0.05, 205),
    "baseline-2__teacher=baseline-4": (0.15, 200),
}


def combined(configuration: dict) -> Study:
    depth = grid("baseline proposed", 2, [0, 1, 2])
    depth["depths"] = [2, 3, 4]
    return study_of(
        configuration,
        depth=[depth],
        budget=[grid("baseline", 4, [0, 1, 2], steps=[5, 20])],
        ffn=[
            grid("three_matrices", 4, [0, 1, 2]),
            grid("proposed", 4, [0, 1, 2], ffn=["three_matrices"]),
        ],
        distillation=[grid("baseline", 2, [0, 1, 2], teacher=["baseline-4"])],
        skip=[
            grid(
                "baseline",
                4,
                [0, 1, 2],
                skip=[
                    f"{p}.latter.{k}" for p in ("attention", "block") for k in (1, 2)
                ],
            ),
            grid(
                "baseline",
                4,
                [0, 1, 2],
                skip=["attention.latter.1"],
                healed=[0.1],
                by=["self"],
            ),
        ],
        elimination=[grid("baseline", 4, [0, 1, 2], tuned=[0.1], eliminate=["acc.2"])],
        combined=[grid("proposed", 2, [0, 1, 2], teacher=["baseline-4"])],
    )


def rows_of(model: str, metric: str, values: Any, **more: str) -> list[dict[str, Any]]:
    unit = "nats" if metric == "cross_entropy" else "us"
    labels = {"scale": "study", "form": "trained", "mode": "eager", "unit": unit}
    labels |= {"model": model, "dataset": "continuation", "metric": metric} | more
    return [labels | {"unit_id": i, "value": v} for i, v in enumerate(values)]


def times(model: str, us: float, index: int, **more: str) -> list[dict[str, Any]]:
    moved = us * MOOD * (1 + np.roll(SMALL, index))
    eliminated = 0.5 if "eliminate" in model else 1.0
    first = rows_of(model, "time_to_first_token", 10 * eliminated * moved, **more)
    return [*rows_of(model, "time_per_output_token", moved, **more), *first]


def units_of(truth: dict[str, tuple[float, float]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for index, (model, (nats, us)) in enumerate(truth.items()):
        values = 5 + nats + SHARED + np.roll(SMALL, index)
        rows += rows_of(model, "cross_entropy", values)
        rows += times(model, us, index)
    for steps, nats in ((5, 0.3), (20, -0.2)):  # log-linear: 5, 10, 20 -> .3, 0, -.2
        values = 5 + nats + SHARED
        rows += rows_of(f"baseline-4__steps={steps}", "cross_entropy", values)
    return pd.DataFrame(rows)


# Training FLOPs: 40 for baseline-4 with 10 steps.
FLOPS = {m: 10.0 * int(m.partition("__")[0][-1]) for m in TRUTH}
FLOPS |= {"baseline-4__steps=5": 20.0, "baseline-4__steps=20": 80.0}


def made(truth: dict[str, tuple[float, float]]) -> FrontData:
    return FrontData(units_of(truth), list(TRUTH | FLOPS), "baseline-4", FLOPS)


def changed(**truth: Any) -> FrontData:
    return made(TRUTH | truth)


def gains_of(data: FrontData, null: str, axis: str = "per_token") -> pd.DataFrame:
    table = gain_table(data)
    chosen = table[(table["null"] == null) & (table["axis"] == axis)]
    return chosen.set_index("model")
