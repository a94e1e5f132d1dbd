"""Descriptions, intervals and tests; SciPy for what SciPy has.

The unit is a training seed (a process for times). A t interval over the seeds' paired
differences is conditional on the test set; the crossed interval asks about other
documents too. Verdicts take the wider of the two. Ratios have intervals of their
logarithms, rank correlations of Fisher's z. Percentile bootstraps are not used: over 3
to 5 seeds they undercover.

`scipy.stats` takes half a second to load and is imported where it is used: figures do
without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95  # of every interval, unless it says otherwise

Values = (
    Sequence[float] | np.ndarray
)  # or a pandas series: one number per independent unit


# --- intervals ----------------------------------------------------------------------


def t_interval(values: Values, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided t interval for the mean of independent units (seeds, or processes).

    NaN for fewer than two values: one run says nothing about the spread of runs.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * error
    return float(values.mean() - half), float(values.mean() + half)


def welch_interval(
    left: Values, right: Values, level: float = LEVEL
) -> tuple[float, float]:
    """Welch's interval for left - right of units that are not paired.

    Beside a paired interval it says what pairing gains: of equally many units whose
    correlation is 0 or less it is never the wider one. NaN for fewer than two units.
    """
    sides = [np.asarray(side, float) for side in (left, right)]
    half, _ = half_of_sum(sides, level)
    effect = sides[0].mean() - sides[1].mean() if np.isfinite(half) else half
    return float(effect - half), float(effect + half)


def ratio_interval(
    numerator: Values, denominator: Values, level: float = LEVEL
) -> tuple[float, float, float]:
    """Ratio of means over paired units, with a t interval of its logarithm.

    The ratio of the means, not the mean of the ratios; its logarithm's error is by the
    delta method. So no end is negative, and the inverse ratio has the inverse ends. NaN
    ends where a mean is not positive.
    """
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = float(top.mean() / bottom.mean())
    if not min(top.mean(), bottom.mean()) > 0:
        return ratio, float("nan"), float("nan")
    low, high = t_interval(top / top.mean() - bottom / bottom.mean(), level)
    return ratio, float(ratio * np.exp(low)), float(ratio * np.exp(high))


def mean_correlation(
    correlations: Values, ranked: int, level: float = LEVEL
) -> tuple[float, float, float]:
    """Mean of rank correlations of `ranked` values each, one a unit, and its interval.

    A t interval over Fisher's z (arctanh), turned back, so that it ends within -1 to 1.
    A perfect order, whose z is infinite, counts as half a step of Spearman's
    coefficient less: it moves by 12 / (m (m^2 - 1)).
    """
    most = 1 - 6 / (ranked * (ranked**2 - 1))
    z = np.arctanh(np.clip(np.asarray(correlations, float), -most, most))
    low, high = np.tanh(t_interval(z, level))
    return float(np.tanh(z.mean())), float(low), float(high)


def half_of_sum(
    parts: Sequence[Values], level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of intervals for sums of means over independent kinds of units.

    Each part is (units,) or (units, columns). And their degrees of freedom,
    Satterthwaite's: the variances of the means add up. NaN if a kind has fewer than two
    units.
    """
    kinds = [np.asarray(part, float) for part in parts]
    if min(map(len, kinds)) < 2:
        missing = np.full(kinds[0].shape[1:], np.nan)
        return missing, missing
    variances = np.array([kind.var(axis=0, ddof=1) / len(kind) for kind in kinds])
    freedoms = [len(kind) - 1 for kind in kinds]
    total = variances.sum(axis=0)
    pairs = zip(variances, freedoms, strict=True)
    spread = np.asarray(sum(v**2 / freedom for v, freedom in pairs))
    least = np.full_like(total, min(freedoms))
    freedom = np.divide(total**2, spread, out=least, where=spread > 0)
    half = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(total)
    return np.asarray(half), np.asarray(freedom)


class Crossed(NamedTuple):
    """An effect over seeds and documents, its interval, and degrees of freedom."""

    effect: float
    low: float
    high: float
    freedom: float


def crossed_interval(
    differences: np.ndarray, weights: np.ndarray, level: float = LEVEL
) -> Crossed:
    """The effect and its interval over seeds and documents, both random and crossed.

    `differences` (seeds, documents) are paired differences, in nats per token, and
    `weights` (documents,) their tokens; the effect is the token-weighted mean. For
    other seeds AND other documents its variance is seed + document + residual, from
    the mean squares of a two-way random-effects analysis of variance (Brennan 2001,
    Generalizability Theory, ch. 3), with Satterthwaite's degrees of freedom (1946,
    Biometrics Bulletin 2, 110). NaN interval for fewer than two seeds or documents;
    ValueError if the shapes differ or a weight is negative.
    """
    differences, weights = np.asarray(differences, float), np.asarray(weights, float)
    if differences.ndim != 2 or differences.shape[1:] != weights.shape:
        found = f"{differences.shape} and {weights.shape}"
        raise ValueError(f"(seeds, documents) and (documents,) are due, not {found}")
    if (weights < 0).any():
        raise ValueError("weights are token counts: none may be negative")
    smaller = min(len(differences), int(np.count_nonzero(weights)))
    if smaller < 1:
        return Crossed(*[float("nan")] * 4)
    weights = weights / weights.sum()
    effect = float((differences @ weights).mean())
    if smaller < 2:
        return Crossed(effect, *[float("nan")] * 3)
    variance, freedom = satterthwaite(mean_squares(differences, weights))
    half = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
    return Crossed(effect, float(effect - half), float(effect + half), freedom)


class MeanSquares(NamedTuple):
    """Mean squares as parts of the variance of the mean, with degrees of freedom.

    With s, d and e for the variances of seeds, documents and residuals, S seeds and
    Q the sum of the squared weights (1 / documents, if they are equal), they estimate
    seed: s / S + Q e / S; document: Q d + Q e / S; residual: Q e / S.
    """

    seed: float
    document: float
    residual: float
    seed_df: float
    document_df: float
    residual_df: float


def mean_squares(differences: np.ndarray, weights: np.ndarray) -> MeanSquares:
    """Of (seeds, documents) differences; the (documents,) weights sum to one.

    Squares over documents carry squared weights, as the variance of a weighted mean
    does; so the estimate stays right when short documents scatter more. Exact for
    equal weights. Otherwise `scale` makes it unbiased for documents of equal variance,
    and the squares, no longer chi-square, get the degrees of freedom that match their
    first two moments (trace^2 / trace of the square of the quadratic form).
    """
    seeds = len(differences)
    by_seed, by_document = differences @ weights, differences.mean(axis=0)
    effect = by_seed.mean()
    residuals = differences - by_seed[:, None] - by_document + effect
    q2, q3, q4, q5 = ((weights**power).sum() for power in (2, 3, 4, 5))
    # Of P'WP with W = diag(weights^2) and P = 1 - (row of weights), written out.
    trace = q2 - 2 * q3 + q2**2
    square = q4 + 4 * q2 * q4 - 4 * q5 + q2**4 + 2 * q3**2 - 4 * q2**2 * q3
    scale, document_df = q2 / trace, trace**2 / square
    document = scale * (weights**2 * (by_document - effect) ** 2).sum()
    residual = scale * (residuals**2 @ weights**2).sum() / (seeds - 1) / seeds
    return MeanSquares(
        seed=float(by_seed.var(ddof=1) / seeds),
        document=float(document),
        residual=float(residual),
        seed_df=seeds - 1,
        document_df=float(document_df),
        residual_df=float(document_df * (seeds - 1)),
    )


def satterthwaite(squares: MeanSquares) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, from the mean squares.

    A negative variance component is clipped at zero; its mean square then has no
    part in the sum, nor in the degrees of freedom. Without any spread (variance 0)
    there are none to speak of, and the seeds' are returned.
    """
    seed = float(squares.seed > squares.residual)
    document = float(squares.document > squares.residual)
    # seed + document - residual, less the components that are clipped.
    parts = [
        seed * squares.seed,
        document * squares.document,
        (1 - seed - document) * squares.residual,
    ]
    variance = sum(parts)
    freedoms = squares.seed_df, squares.document_df, squares.residual_df
    spread = sum(p**2 / df for p, df in zip(parts, freedoms, strict=True))
    return variance, variance**2 / spread if spread > 0 else squares.seed_df


# --- tests --------------------------------------------------------------------------


def interval_p(
    effect: float, low: float, freedom: float, level: float = LEVEL
) -> float:
    """Two-sided p of no effect, from the lower end of a symmetric t interval.

    The interval at level 1 - p ends at zero, so that the two never disagree.
    """
    if np.isnan(low) or effect == low:
        return float("nan")
    from scipy import stats

    error = (effect - low) / stats.t.ppf((1 + level) / 2, freedom)
    return float(2 * stats.t.sf(abs(effect) / error, freedom))


def ratio_p(ratio: float, low: float, units: int, level: float = LEVEL) -> float:
    """Two-sided p of a ratio of one, from the interval of `ratio_interval`."""
    if units < 2 or not low > 0:
        return float("nan")
    return interval_p(np.log(ratio), np.log(low), units - 1, level)


def equivalence_p(
    effect: float, low: float, freedom: float, margin: float, level: float
) -> float:
    """The p of two one-sided tests: that |effect| is `margin` or more.

    `low` is the lower end of a symmetric t interval of that level. Below .05 exactly
    if the 90 % interval lies within the margin.
    """
    if np.isnan(low) or effect == low:
        return float("nan")
    from scipy import stats

    error = (effect - low) / stats.t.ppf((1 + level) / 2, freedom)
    return float(stats.t.sf((margin - abs(effect)) / error, freedom))


@cache
def detectable(units: int, power: float = 0.8, level: float = LEVEL) -> float:
    """The mean difference that a paired t test finds with this power.

    In standard deviations of the differences; NaN for fewer than two units. Its test
    statistic is noncentral t (Cohen 1988, Statistical Power Analysis, ch. 2).
    """
    if units < 2:
        return float("nan")
    from scipy import optimize, stats

    freedom = units - 1
    critical = stats.t.ppf((1 + level) / 2, freedom)

    # Of the two tails the far one has no part in a power like this.
    def lacking(shift: float) -> float:
        return float(special.nctdtr(freedom, shift, critical) - (1 - power))

    return float(optimize.brentq(lacking, 0.5, 20.0) / np.sqrt(units))


def paired_t(differences: Values) -> float:
    """Two-sided p of a zero mean difference; NaN for fewer than two units."""
    differences = np.asarray(differences, float)
    if len(differences) < 2 or differences.std() == 0:
        return float("nan")
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def pairing_correlation(a: Values, b: Values) -> float:
    """Correlation over seeds of two models' seed means: what pairing by seed gains.

    NaN for fewer than three seeds (two always lie on a line) or without spread.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


# --- families of comparisons --------------------------------------------------------


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the given order.

    A comparison without a p value (NaN) stays so and does not count in the family.
    """
    return [p if np.isnan(p) else min(1.0, p) for p in _stepped_down(p_values)]


def _stepped_down(p_values: Values) -> list[float]:
    """Holm's adjusted p values before they are cut at one."""
    order = [int(i) for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    adjusted, running = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(order) - rank) * float(p_values[index]))
        adjusted[index] = running
    return adjusted


def holm_levels(p_values: Values, level: float = LEVEL) -> list[float]:
    """The level of each one's interval that agrees with its Holm-adjusted p.

    The adjusted p is the plain one times a factor; the level is 1 - alpha / factor.
    Hence the interval excludes 0 exactly if adjusted p < alpha. The intervals are wider
    than single ones, but not simultaneous: where all effects are real, the last is a
    single interval. A family of one keeps its level; NaN where there is no p.
    """
    alpha, levels = 1 - level, []
    counted = np.count_nonzero(~np.isnan(p_values))
    for p, adjusted in zip(p_values, _stepped_down(p_values), strict=True):
        # A p of 0 is rejected at any level; it gets the strictest, Bonferroni's.
        share = 1 / counted if adjusted == 0 else p / adjusted
        levels.append(float(1 - alpha * share))
    return levels


# --- descriptions -------------------------------------------------------------------


def describe(
    values: np.ndarray, weights: np.ndarray, units: np.ndarray
) -> dict[str, Any]:
    """One summary row of samples that belong to units (seeds, or sessions).

    The mean is weighted (tokens for cross-entropy, so that exp(mean) is the corpus
    perplexity); median, 5th and 95th percentile (linear interpolation) and standard
    deviation (ddof = 1) describe the samples. The interval and `std_units` (ddof = 1)
    are over the units' means.
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
        "std_units": float(np.std(means, ddof=1)) if len(means) > 1 else float("nan"),
        "ci_low": low,
        "ci_high": high,
    }
