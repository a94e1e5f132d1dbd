"""Rows by hand, and worlds whose truth is known.

The simulated worlds have four depths and four arms; seeds scatter by .05 nats in common
and .03 in paired differences, sessions by 5 % in common and 1.5 % in paired ratios.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from shallower.analysis.pareto import Measured, measured

DEPTHS = [f"baseline-{depth}" for depth in (5, 6, 7, 8)]
ARM = "proposed-5"
NAN = float("nan")


def rows(values: dict[str, list[float]], unit: str, **labels: str) -> pd.DataFrame:
    """As `by_unit` gives them; the units are counted from 0, NaN leaves one out."""
    found = [
        {"model": model, "unit_id": i, "value": value, "unit": unit}
        for model, by_unit in values.items()
        for i, value in enumerate(by_unit)
        if not np.isnan(value)
    ]
    return pd.DataFrame(found).assign(**{"scale": "study", **labels})


def of(quality: dict[str, list[float]], latency: dict[str, list[float]]) -> Measured:
    return measured(rows(quality, "nats"), rows(latency, "us"), "per_token")


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
    return Measured(frames[0], frames[1], "per_token", "study")
