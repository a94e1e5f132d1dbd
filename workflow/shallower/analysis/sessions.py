"""Which latency sessions can be trusted: the A/A pair and the neighbours decide.

A session (one process) times the deepest baseline under two names. It is disturbed if
that ratio is off by more than `TOLERANCE` while its interval excludes one, or if others
kept more than `NEIGHBOURS` cores busy meanwhile. Disturbed sessions are not used.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from shallower.analysis.statistics import t_interval
from shallower.models.variants import TWIN

TOLERANCE = 0.02  # of the A/A ratio: effects of this size are claimed to be resolved
NEIGHBOURS = 0.25  # cores kept busy by others, on average over the session
FEWEST = 2  # sessions without which there is no interval
COLUMNS = ["session", "scale", "ratio", "ci_low", "ci_high", "neighbours", "disturbed"]


def judge(latency: pd.DataFrame) -> pd.DataFrame:
    """One row per session and scale: A/A ratio with interval, neighbours, verdict."""
    fixed = latency[(latency["workload"] == "fixed") & (latency["mode"] == "eager")]
    fixed = fixed[(fixed["form"] == "trained") & (fixed["token_index"] > 0)]
    keys = ["session", "scale", "model", "repeat"]
    times = fixed.groupby(keys)["nanoseconds"].mean().unstack("model")
    rows = []
    for (session, scale), group in times.groupby(["session", "scale"]):
        ratio = aa_log_ratios(group)
        low, high = np.exp(t_interval(ratio))
        mean = float(np.exp(ratio.mean()))
        busy = latency.loc[latency["session"] == session, "neighbours"].iloc[0]
        off = abs(mean - 1) > TOLERANCE and not low <= 1 <= high
        disturbed = bool(off or busy > NEIGHBOURS)
        rows.append([session, scale, mean, low, high, busy, disturbed])
    return pd.DataFrame(rows, columns=COLUMNS)


def aa_log_ratios(times: pd.DataFrame) -> np.ndarray:
    """log(second name / first name) of each repeat; columns are models."""
    twin = next(m for m in times if m.endswith(TWIN) and times[m].notna().any())
    ratios = np.log(times[twin] / times[twin.removesuffix(TWIN)])
    return ratios.dropna().to_numpy()


def used(sessions: pd.DataFrame) -> list[int]:
    """Sessions without a disturbed row; all of them if fewer than two would remain."""
    bad = set(sessions.loc[sessions["disturbed"], "session"])
    good = [int(s) for s in sessions["session"].unique() if s not in bad]
    return (
        good if len(good) >= FEWEST else [int(s) for s in sessions["session"].unique()]
    )
