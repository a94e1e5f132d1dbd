"""The statistical rules, by hand, against SciPy, and by simulation at our own sizes.

The simulated studies have 3, 5 or 8 seeds and 150 documents of different lengths. A
paired difference of a document is effect + seed + document + residual, each a normal
variate, and the spread of seeds is that of the pilot runs (.03 nats).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shallower.analysis.statistics import (
    crossed_interval,
    holm,
    holm_intervals,
    paired_t,
    pairing_correlation,
    power,
    t_interval,
    tost_p,
    trend,
)
from shallower.analysis.verdicts import (
    Finding,
    conjunction,
    equivalence,
    non_inferiority,
    ratio_within,
    superiority,
)

SEEDS = (3, 5, 8)
DOCUMENTS = 150
SEED_SD, DOCUMENT_SD, RESIDUAL_SD = 0.03, 0.25, 0.2
STUDIES = 4000  # simulated; the error of a share of .05 is then .0034
MARGIN = 0.03
NAN = float("nan")


def draws(name: str) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, name)))


def seed_means(seeds: int, effect: float, name: str) -> tuple[np.ndarray, float]:
    """(studies, seeds) token-weighted paired means, and their true conditional mean.

    The documents are drawn once: what a t interval over seeds speaks of is the effect
    on this test set.
    """
    draw = draws(f"{name} {seeds}")
    weights = draw.lognormal(5, 0.7, DOCUMENTS)
    weights /= weights.sum()
    documents = draw.normal(0, DOCUMENT_SD, DOCUMENTS)
    documents -= documents @ weights  # so that the conditional effect is `effect`
    seed = draw.normal(0, SEED_SD, (STUDIES, seeds))
    residual_sd = RESIDUAL_SD * np.sqrt((weights**2).sum())
    residual = draw.normal(0, residual_sd, (STUDIES, seeds))
    return effect + seed + residual + documents @ weights, effect


def share(verdicts: list[Finding], verdict: str = "supported") -> float:
    return float(np.mean([found.verdict == verdict for found in verdicts]))


# --- simulation -----------------------------------------------------------------------


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_behind_verdicts_cover(seeds: int) -> None:
    means, effect = seed_means(seeds, -0.05, "cover")
    intervals = np.array([t_interval(row) for row in means])
    covered = (intervals[:, 0] <= effect) & (effect <= intervals[:, 1])
    assert 0.93 <= covered.mean() <= 0.97


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_null_effect_is_rarely_supported(seeds: int) -> None:
    means, _ = seed_means(seeds, 0.0, "null")
    found = [superiority(row) for row in means]
    assert share(found) <= 0.05
    assert share(found, "not supported") <= 0.05
    assert share(found, "inconclusive") > 0.9


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_difference_of_the_margin_is_rarely_equivalent(seeds: int) -> None:
    for sign in (-1, 1):
        means, _ = seed_means(seeds, sign * MARGIN, "margin")
        # The true rate is .05 or less; three standard errors for the simulation.
        assert share([equivalence(row, MARGIN) for row in means]) <= 0.05 + 0.0103
    same, _ = seed_means(8, 0.0, "same")
    assert share([equivalence(row, 3 * MARGIN) for row in same]) > 0.95


@pytest.mark.parametrize("seeds", SEEDS)
def test_as_bad_as_the_margin_is_rarely_non_inferior(seeds: int) -> None:
    means, _ = seed_means(seeds, MARGIN, "inferior")
    found = [non_inferiority(row, MARGIN, assay=True) for row in means]
    assert share(found) <= 0.05 + 0.0103
    assert share(found) > 0.03  # and not by never supporting anything


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_conjunction_needs_every_part(seeds: int) -> None:
    """Three parts are real beyond doubt, the fourth is null."""
    null, _ = seed_means(seeds, 0.0, "fourth")
    real = superiority([-1.0, -1.01, -1.02])
    found = [conjunction([real, real, real, superiority(row)]) for row in null]
    assert share(found) <= 0.05


@pytest.mark.parametrize("seeds", SEEDS)
def test_holm_keeps_the_family(seeds: int) -> None:
    """Four depths without an effect: some interval excludes 0 in 5 % of studies."""
    families = [seed_means(seeds, 0.0, f"depth {d}")[0][:1000] for d in range(4)]
    wrong = plain = 0
    for family in zip(*families, strict=True):
        wrong += any(low > 0 or high < 0 for low, high, _ in holm_intervals(family))
        plain += any(paired_t(row) < 0.05 for row in family)
    assert wrong / 1000 <= 0.05 + 0.0207  # three standard errors of 1,000 studies
    assert plain / 1000 > 0.12  # what would happen without


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.93), (5, 0.93), (8, 0.93)])
def test_crossed_intervals_cover_other_documents(seeds: int, least: float) -> None:
    """Documents drawn anew in every study: the population's effect is covered."""
    draw, covered, studies = draws(f"crossed {seeds}"), 0, 1500
    for _ in range(studies):
        weights = draw.lognormal(5, 0.7, DOCUMENTS)
        differences = (
            -0.05
            + draw.normal(0, SEED_SD, (seeds, 1))
            + draw.normal(0, DOCUMENT_SD, DOCUMENTS)
            + draw.normal(0, RESIDUAL_SD, (seeds, DOCUMENTS))
        )
        _, low, high = crossed_interval(differences, weights)
        covered += low <= -0.05 <= high
    assert least <= covered / studies <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
def test_why_no_percentile_bootstrap(seeds: int) -> None:
    means, effect = seed_means(seeds, -0.05, "bootstrap")
    means, draw = means[:1500], draws("resample")
    picks = draw.integers(0, seeds, (400, seeds))
    resampled = means[:, picks].mean(axis=2)  # studies x resamples
    low, high = np.percentile(resampled, [2.5, 97.5], axis=1)
    covered = np.mean((low <= effect) & (effect <= high))
    assert covered < 0.90
    t_low, t_high = np.array([t_interval(row) for row in means]).T
    assert np.mean((t_low <= effect) & (effect <= t_high)) > 0.93


def test_power_of_five_and_eight_seeds() -> None:
    """.05 nats at a paired deviation of .03, as the study was planned."""
    assert power(0.05, 0.03, 5) == pytest.approx(0.78, abs=0.02)
    assert power(0.05, 0.03, 8) > 0.9
    draw = draws("power")
    found = draw.normal(0.05, 0.03, (4000, 5))
    rejected = np.mean([paired_t(row) < 0.05 for row in found])
    assert rejected == pytest.approx(power(0.05, 0.03, 5), abs=0.03)


# --- by hand and against SciPy --------------------------------------------------------

values = st.lists(st.floats(-10, 10), min_size=2, max_size=9)


@settings(max_examples=60)
@given(differences=values, margin=st.floats(0.01, 5))
def test_tost_is_two_one_sided_tests(differences: list[float], margin: float) -> None:
    if np.std(differences) < 1e-9:
        return
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert tost_p(differences, margin) == pytest.approx(max(above, below), abs=1e-9)
    low, high = t_interval(differences, 0.90)
    inside = -margin < low and high < margin
    assert inside == (tost_p(differences, margin) < 0.05)
    assert inside == (equivalence(differences, margin).verdict == "supported")


def test_crossed_interval_by_hand() -> None:
    """Equal weights, two seeds and three documents: a two-way table."""
    table = np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]])
    # Means: all 4, seeds 3 and 5, documents 2, 4, 6. Residuals -+0, -+1, +-1:
    # mean squares of the mean: seed 2/2, document 4/3, residual (4/2)/6.
    seed, document, residual = 1.0, 4 / 3, 2 / 6
    variance = seed + document - residual
    spread = seed**2 / 1 + document**2 / 2 + residual**2 / 2
    half = stats.t.ppf(0.975, variance**2 / spread) * variance**0.5
    effect, low, high = crossed_interval(table, np.ones(3))
    assert effect == 4
    assert (low, high) == pytest.approx((4 - half, 4 + half))


def test_crossed_without_documents_that_differ_is_t() -> None:
    """All documents alike: what is left is the spread of the seeds."""
    seeds = np.array([0.1, 0.3, 0.2, 0.5])
    table = np.repeat(seeds[:, None], 20, axis=1)
    _, low, high = crossed_interval(table, np.ones(20))
    assert (low, high) == pytest.approx(t_interval(seeds))


def test_crossed_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="due"):
        crossed_interval(np.zeros((2, 3)), np.ones(4))
    with pytest.raises(ValueError, match="negative"):
        crossed_interval(np.zeros((2, 3)), -np.ones(3))
    assert np.isnan(crossed_interval(np.zeros((1, 3)), np.ones(3))[1])


@settings(max_examples=40)
@given(seed=st.integers(0, 99))
def test_trend_is_a_regression_within_seeds(seed: int) -> None:
    table = np.random.default_rng(seed).normal(0, 1, (4, 3))
    slopes = [stats.linregress([5, 6, 8], row).slope for row in table]
    slope, low, high, p = trend([5, 6, 8], table)
    assert slope == pytest.approx(np.mean(slopes))
    assert (low, high) == pytest.approx(t_interval(slopes))
    assert p == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue)


def test_correlation_that_pairing_uses() -> None:
    a = np.array([1.0, 2.0, 4.0])
    assert pairing_correlation(a, 2 * a + 1) == pytest.approx(1)
    assert np.isnan(pairing_correlation(a[:2], a[:2]))


@settings(max_examples=80)
@given(seed=st.integers(0, 999), size=st.integers(1, 5))
def test_adjusted_intervals_and_p_agree(seed: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    family = [draw.normal(draw.choice([0, 1, 2]), 1, 5) for _ in range(size)]
    adjusted = holm([paired_t(row) for row in family])
    for (low, high, p), due in zip(holm_intervals(family), adjusted, strict=True):
        assert p == pytest.approx(due)
        assert (low > 0 or high < 0) == (due < 0.05)


# --- verdicts -------------------------------------------------------------------------


def test_superiority_by_sign() -> None:
    better = [-0.2, -0.21, -0.19]
    assert superiority(better).verdict == "supported"
    assert superiority(better, lower_is_better=False).verdict == "not supported"
    assert superiority([-0.2, 0.2, 0.0]).verdict == "inconclusive"


def test_equivalence_by_place() -> None:
    tight = np.array([-0.001, 0.0, 0.001])
    assert equivalence(tight, 0.03).verdict == "supported"
    assert equivalence(tight + 0.1, 0.03).verdict == "not supported"
    assert equivalence(tight + 0.03, 0.03).verdict == "inconclusive"
    with pytest.raises(ValueError, match="positive"):
        equivalence(tight, 0.0)


def test_non_inferiority_needs_assay_sensitivity() -> None:
    same = np.array([0.001, -0.001, 0.0])
    worse, alike = same + 0.2, same
    assert non_inferiority(same, 0.03, [worse]).verdict == "supported"
    assert non_inferiority(same, 0.03, [alike]).verdict == "not tested"
    assert non_inferiority(same, 0.03, [worse, alike]).verdict == "not tested"
    assert non_inferiority(same, 0.03, []).verdict == "not tested"
    assert non_inferiority(same + 0.1, 0.03, [worse]).verdict == "not supported"
    # What ought to differ differs, but by less than the margin: anything would pass.
    assert non_inferiority(same, 0.03, [same + 0.01]).verdict == "not tested"


def test_ratio_within_bounds() -> None:
    bounds = (1.15, 1.65)
    assert ratio_within(1.36, 1.32, 1.41, bounds).verdict == "supported"
    assert ratio_within(1.36, 1.10, 1.60, bounds).verdict == "inconclusive"
    assert ratio_within(1.9, 1.8, 2.0, bounds).verdict == "not supported"
    assert ratio_within(1.2, 1.18, 1.22, bounds).threshold == 1.15
    assert ratio_within(NAN, NAN, NAN, bounds).verdict == "not tested"


def test_conjunction_takes_the_worst() -> None:
    yes = superiority([-0.2, -0.21, -0.19])
    no = superiority([0.2, 0.21, 0.19])
    open_ = superiority([-0.2, 0.2, 0.0])
    untested = superiority([0.1])
    assert conjunction([yes, yes]).verdict == "supported"
    assert conjunction([yes, open_]).verdict == "inconclusive"
    assert conjunction([yes, open_, untested]).verdict == "not tested"
    assert conjunction([yes, untested, no]).verdict == "not supported"
    assert conjunction([yes, no]).effect == pytest.approx(0.2)
    assert conjunction([]).verdict == "not tested"


@pytest.mark.parametrize("bad", [[], [0.1], [NAN, 0.1], [0.1, float("inf")]])
def test_missing_values_are_not_tested(bad: list[float]) -> None:
    assert superiority(bad).verdict == "not tested"
    assert equivalence(bad, 0.03).verdict == "not tested"
    assert non_inferiority(bad, 0.03, True).verdict == "not tested"
    assert equivalence([0.0, 0.001], NAN).verdict == "not tested"
