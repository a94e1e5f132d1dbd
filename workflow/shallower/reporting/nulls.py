"""The null of every method: the plain baseline at fewer blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shallower.analysis.changes import is_plain
from shallower.names import parse_name


def plain(model: str) -> bool:
    """Whether it is the baseline at some depth, and nothing was done to it."""
    return is_plain(parse_name(model))


def null_curve(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Times and cross-entropies of the null's curve, from rows of pareto.csv.

    As `analysis.gains` has it: straight between depths that no other dominates, and
    held at the best from there to the slowest depth. Empty without baselines.
    """
    rows = table[table["model"].map(plain)].sort_values(["latency", "quality"])
    times, nats = rows["latency"].to_numpy(float), rows["quality"].to_numpy(float)
    best = np.minimum.accumulate(nats) if len(nats) else nats
    kept = np.flatnonzero(np.diff(best, prepend=np.inf) < 0)
    if len(kept) == 0:
        return times, nats
    x, y = times[kept], nats[kept]
    return np.append(x, times[-1]), np.append(y, y[-1])
