"""Implementations measured in turn, in one process, with every repeat recorded.

These machines are shared and noisy. A figure by itself says little; the ratio of two
implementations measured right after each other says something. The table shows the
median of several such ratios, with the lowest and the highest beside it.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = ["work", "case", "implementation", "repeat", "value", "unit"]
Row = dict[str, Any]
# Does its work once and returns the figure, in `unit`.
Implementation = Callable[[], float]


def alternate(
    work: str,
    case: str,
    implementations: Mapping[str, Implementation],
    repeats: int,
    unit: str,
    warmups: int = 1,
) -> list[Row]:
    """Rows of every implementation and repeat; in each repeat they take turns.

    Their order is shuffled anew, so that a drift of the machine meets all alike. What
    a warm-up returns is thrown away.
    """
    order, rows = random.Random(f"{work} {case}"), []
    for call in implementations.values():
        for _ in range(warmups):
            call()
    for repeat in range(repeats):
        for name in order.sample(list(implementations), len(implementations)):
            values = (work, case, name, repeat, implementations[name](), unit)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def shares(rows: Iterable[Row], limit: str) -> list[Row]:
    """How much of each implementation's time the limit's is, in percent.

    The limit is one of the implementations, measured in the same repeats.
    """
    rows = list(rows)
    limits = {r["repeat"]: r["value"] for r in rows if r["implementation"] == limit}
    return [
        row
        | {
            "case": f"{row['case']}, share of the {limit}",
            "value": 100 * limits[row["repeat"]] / row["value"],
            "unit": "percent",
        }
        for row in rows
        if row["implementation"] != limit
    ]


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def write(work: str, rows: Iterable[Row]) -> Path:
    """Write `results/<work>.csv`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{work}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"value": f"{row['value']:.6g}"})
    return path
