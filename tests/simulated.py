"""Studies whose truth is known, for gains and fronts.

Seeds scatter by .05 nats in common and .03 in paired differences, sessions by 5 % in
common and 1.5 % in paired ratios.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from shallower.analysis.gains import Measured

DEPTHS = [f"baseline-{depth}" for depth in (5, 6, 7, 8)]
METHOD = "proposed-5"
NAN = float("nan")


def of(quality: dict[str, list[float]], latency: dict[str, list[float]]) -> Measured:
    """By hand, seeds and sessions counted from 0; NaN leaves one out."""
    frames = [
        pd.DataFrame({k: pd.Series(v, dtype=float) for k, v in values.items()})
        for values in (quality, latency)
    ]
    return Measured(frames[0], frames[1][list(quality)])


def study(
    random: np.random.Generator,
    models: list[str],
    quality: np.ndarray,
    latency: np.ndarray,
    units: int,
    session_sd: float = 0.015,
) -> Measured:
    """What `units` seeds and sessions show of these truths (see the module)."""
    shape = (units, len(models))
    nats = quality + random.normal(0, 0.05, (units, 1))
    nats = nats + random.normal(0, 0.03 / np.sqrt(2), shape)
    noise = random.normal(0, 0.05, (units, 1))
    noise = noise + random.normal(0, session_sd / np.sqrt(2), shape)
    tables = nats, latency * np.exp(noise)
    frames = [pd.DataFrame(table, columns=models) for table in tables]
    return Measured(frames[0], frames[1])
