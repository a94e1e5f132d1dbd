"""Arms measured side by side: alternating, in one process, every repeat kept.

These machines are shared and noisy. A figure by itself says little; the ratio of two
arms that ran right behind each other says something, and the median of several such
ratios is what the table shows, with the lowest and the highest beside it.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = ["work", "case", "arm", "repeat", "value", "unit"]
Row = dict[str, Any]
Arm = Callable[[], float]  # does its work once and returns the figure, in `unit`


def alternate(
    work: str,
    case: str,
    arms: Mapping[str, Arm],
    repeats: int,
    unit: str,
    warmups: int = 1,
) -> list[Row]:
    """Rows of every arm and repeat; in each repeat the arms take turns.

    Their order is shuffled anew, so that a drift of the machine meets all alike. What
    a warm-up returns is thrown away.
    """
    order, rows = random.Random(f"{work} {case}"), []
    for arm in arms.values():
        for _ in range(warmups):
            arm()
    for repeat in range(repeats):
        for name in order.sample(list(arms), len(arms)):
            values = (work, case, name, repeat, arms[name](), unit)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


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
