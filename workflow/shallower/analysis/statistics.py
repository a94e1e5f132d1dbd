"""Descriptions and intervals; SciPy for what SciPy has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % t interval for the mean of independent units (seeds, or processes).

    NaN for fewer than two values: one run says nothing about the spread of runs.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error
    return float(values.mean() - half), float(values.mean() + half)


def ratio_interval(
    numerator: Sequence[float] | np.ndarray, denominator: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """Ratio of means over paired units with a 95 % t interval (delta method).

    The ratio of the means, not the mean of the ratios; the unit is the process.
    """
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = float(top.mean() / bottom.mean())
    # Linearised: the error is the mean of (top - ratio * bottom) / mean(bottom).
    low, high = t_interval((top - ratio * bottom) / bottom.mean())
    return ratio, ratio + low, ratio + high


def ratio_p(ratio: float, low: float, units: int) -> float:
    """Two-sided p of a ratio of one, from the interval of `ratio_interval`.

    The same t statistic as the interval's, so that the two never disagree.
    """
    if units < 2 or ratio == low or np.isnan(low):
        return float("nan")
    error = (ratio - low) / stats.t.ppf((1 + LEVEL) / 2, units - 1)
    return float(2 * stats.t.sf(abs(ratio - 1) / error, units - 1))


def paired_t(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of a zero mean difference; NaN for fewer than two units."""
    differences = np.asarray(differences, float)
    if len(differences) < 2 or differences.std() == 0:
        return float("nan")
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the given order.

    A comparison without a p value (NaN) stays so and does not count in the family.
    """
    order = [int(i) for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    adjusted, running = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(order) - rank) * float(p_values[index]))
        adjusted[index] = min(1.0, running)
    return adjusted


def describe(
    values: np.ndarray, weights: np.ndarray, units: np.ndarray
) -> dict[str, Any]:
    """One summary row of samples that belong to units (seeds, or sessions).

    The mean is weighted (tokens for cross-entropy, so that exp(mean) is the corpus
    perplexity); median, 5th and 95th percentile (linear interpolation) and standard
    deviation (ddof = 1) describe the samples. The interval is over the units' means.
    """
    means = [
        np.average(values[units == unit], weights=weights[units == unit])
        for unit in np.unique(units)
    ]
    low, high = t_interval(means)
    p5, median, p95 = np.percentile(values, [5, 50, 95])
    return {
        "n": len(values),
        "mean": float(np.average(values, weights=weights)),
        "median": float(median),
        "p5": float(p5),
        "p95": float(p95),
        "std": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        "ci_low": low,
        "ci_high": high,
    }
