"""The statistical rules, by hand, against SciPy, and by simulation at our own sizes.

The simulated studies have 3, 5 or 8 seeds and 150 documents of different lengths. A
paired difference of a document is effect + seed + document + residual, each a normal
variate, and the spread of seeds is that of the pilot runs (.03 nats).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shallower.analysis.estimates import (
    ONE_SIDED,
    Comparison,
    Estimate,
    mean_difference,
    wider,
)
from shallower.analysis.statistics import (
    crossed_interval,
    describe,
    detectable,
    equivalence_p,
    holm,
    mean_correlation,
    paired_t,
    pairing_correlation,
    ratio_interval,
    ratio_p,
    t_interval,
    welch_interval,
)
from shallower.analysis.verdicts import (
    Finding,
    assay,
    conjunction,
    equivalence,
    non_inferiority,
    superiority,
    within,
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


def two_sided(values: Sequence[float] | np.ndarray) -> Estimate:
    """The estimate of a mean difference, with its 95 % interval."""
    return mean_difference(Comparison("a", "b"), values, "seeds")


def one_sided(values: Sequence[float] | np.ndarray) -> Estimate:
    """The same with the 90 % interval, whose ends are one-sided 95 % bounds."""
    asked = Comparison("a", "b", level=ONE_SIDED)
    return mean_difference(asked, values, "seeds")


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
    found = [superiority(two_sided(row)) for row in means]
    assert share(found) <= 0.05
    assert share(found, "not supported") <= 0.05
    assert share(found, "inconclusive") > 0.9


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_difference_of_the_margin_is_rarely_equivalent(seeds: int) -> None:
    for sign in (-1, 1):
        means, _ = seed_means(seeds, sign * MARGIN, "margin")
        # The true rate is .05 or less; three standard errors for the simulation.
        found = [equivalence(one_sided(row), MARGIN) for row in means]
        assert share(found) <= 0.05 + 0.0103
    same, _ = seed_means(8, 0.0, "same")
    assert share([equivalence(one_sided(row), 3 * MARGIN) for row in same]) > 0.95


@pytest.mark.parametrize("seeds", SEEDS)
def test_as_bad_as_the_margin_is_rarely_non_inferior(seeds: int) -> None:
    means, _ = seed_means(seeds, MARGIN, "inferior")
    found = [non_inferiority(one_sided(row), MARGIN, True) for row in means]
    assert share(found) <= 0.05 + 0.0103
    assert share(found) > 0.03  # and not by never supporting anything


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_conjunction_needs_every_part(seeds: int) -> None:
    """Three parts are real beyond doubt, the fourth is null."""
    null, _ = seed_means(seeds, 0.0, "fourth")
    real = superiority(two_sided([-1.0, -1.01, -1.02]))
    parts = [superiority(two_sided(row)) for row in null]
    found = [conjunction([real, real, real, part]) for part in parts]
    assert share(found) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_holm_keeps_the_family(seeds: int) -> None:
    """Four depths without an effect: any is significant in 5 % of studies."""
    families = [seed_means(seeds, 0.0, f"depth {d}")[0][:1000] for d in range(4)]
    wrong = plain = 0
    for family in zip(*families, strict=True):
        p_values = [paired_t(row) for row in family]
        wrong += min(holm(p_values)) < 0.05
        plain += min(p_values) < 0.05
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
        _, low, high, _ = crossed_interval(differences, weights)
        covered += low <= -0.05 <= high
    assert least <= covered / studies <= 0.98


def test_a_ratio_is_never_negative_and_can_be_turned_round() -> None:
    """C9's interval had held negative shares of the tokens."""
    few = [0.2, 0.9, 0.4], [1.0, 1.0, 1.0]
    ratio, low, high = ratio_interval(*few)
    assert 0 < low < ratio < high
    assert ratio_interval(*few[::-1]) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    # Differences, whose signs may differ, have no ratio to speak of.
    assert np.isnan(ratio_interval([-1.0, 0.5], [1.0, 2.0])[1])


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_of_mean_rank_correlations_cover(seeds: int) -> None:
    """Eight blocks whose contribution falls with noise; the ends stay within one."""
    draw, studies = draws(f"ranks {seeds}"), 1000
    noisy = -np.arange(8) + draw.normal(0, 3, (50_000, 8))
    ranks = noisy.argsort(axis=1).argsort(axis=1)
    rho = 1 - 6 * ((ranks - np.arange(8)) ** 2).sum(axis=1) / (8 * 63)
    for row in range(3):
        due = stats.spearmanr(range(8), noisy[row]).statistic
        assert rho[row] == pytest.approx(due)
    most = 1 - 6 / (8 * 63)
    true = np.tanh(np.arctanh(np.clip(rho, -most, most)).mean())
    found = [mean_correlation(draw.choice(rho, seeds), 8) for _ in range(studies)]
    covered = np.mean([low <= true <= high for _, low, high in found])
    assert 0.92 <= covered <= 0.98
    assert all(low >= -1 and high <= 1 for _, low, high in found)


def test_a_perfect_order_has_a_finite_z() -> None:
    effect, low, high = mean_correlation([-1.0, -1.0, -0.9], 8)
    assert -1 < low < effect < high < 1
    z = np.arctanh([-1 + 6 / 504] * 2 + [-0.9])
    due = np.tanh(stats.ttest_1samp(z, 0).confidence_interval())
    assert (low, high) == pytest.approx(tuple(due))


def test_welchs_interval_is_scipys() -> None:
    draw = np.random.default_rng(4)
    a, b = draw.normal(0, 1, 4), draw.normal(0.5, 3, 6)
    due = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert welch_interval(a, b, 0.9) == pytest.approx(tuple(due))
    assert np.isnan(welch_interval(a, b[:1])).all()


@pytest.mark.parametrize("together", [-0.6, 0.0, 0.9])
def test_pairing_is_right_whatever_the_correlation(together: float) -> None:
    """Welch's is too narrow where seeds move apart; then pairing is the wider one."""
    draw, covered = draws(f"welch {together}"), {"paired": 0, "welch": 0}
    covariance = [[1, together], [together, 1]]
    for _ in range(2000):
        a, b = draw.multivariate_normal([0, 0], covariance, 5).T
        paired, welch = t_interval(a - b), welch_interval(a, b)
        covered["paired"] += paired[0] <= 0 <= paired[1]
        covered["welch"] += welch[0] <= 0 <= welch[1]
        if pairing_correlation(a, b) <= 0:
            assert paired[1] - paired[0] >= welch[1] - welch[0]
    assert 0.935 <= covered["paired"] / 2000 <= 0.965
    if together < 0:
        assert covered["welch"] / 2000 < 0.935


@pytest.mark.parametrize("seeds", SEEDS)
def test_what_is_detectable_is_detected_in_four_of_five(seeds: int) -> None:
    means = draws(f"power {seeds}").normal(detectable(seeds), 1, (20_000, seeds))
    found = stats.ttest_1samp(means, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert np.isnan(detectable(1))


@settings(max_examples=40)
@given(seed=st.integers(0, 999), margin=st.floats(0.01, 2))
def test_equivalences_p_is_that_of_two_one_sided_tests(
    seed: int, margin: float
) -> None:
    values = np.random.default_rng(seed).normal(0.2, 0.5, 5)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    low, _ = t_interval(values, 0.9)
    p = equivalence_p(float(values.mean()), low, 4, margin, 0.9)
    assert p == pytest.approx(max(above, below), abs=1e-9)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_wider_of_two_intervals_covers(seeds: int) -> None:
    """Seeds alone say nothing of other documents; the crossed variance is a guess."""
    draw, studies = draws(f"wider {seeds}"), 800
    covered = {"seeds": 0, "wider": 0}
    for _ in range(studies):
        weights = draw.lognormal(5, 0.7, DOCUMENTS)
        differences = (
            draw.normal(0, SEED_SD, (seeds, 1))
            + draw.normal(0, DOCUMENT_SD, DOCUMENTS)
            + draw.normal(0, RESIDUAL_SD, (seeds, DOCUMENTS))
        )
        over_seeds = two_sided(differences @ (weights / weights.sum()))
        both = crossed_interval(differences, weights)
        found = wider(
            replace(
                over_seeds,
                crossed_low=both.low,
                crossed_high=both.high,
                seeds_low=over_seeds.ci_low,
                seeds_high=over_seeds.ci_high,
            ),
            both.freedom,
        )
        covered["seeds"] += over_seeds.ci_low <= 0 <= over_seeds.ci_high
        covered["wider"] += found.ci_low <= 0 <= found.ci_high
        widths = (over_seeds.ci_high - over_seeds.ci_low, both.high - both.low)
        assert found.ci_high - found.ci_low == pytest.approx(max(widths))
        assert (found.p < 0.05) == (not found.ci_low <= 0 <= found.ci_high)
    assert covered["wider"] / studies >= 0.94
    assert covered["seeds"] < covered["wider"]


def test_ratio_intervals_cover() -> None:
    """Five noisy sessions: 95 % intervals hold the true ratio."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        drift = draw.normal(1, 0.05, 5)  # common to both, as in one session
        sides = 1.4 * drift * draw.normal(1, 0.02, 5), drift * draw.normal(1, 0.02, 5)
        _, low, high = ratio_interval(*sides)
        covered += low <= 1.4 <= high
    assert 0.93 <= covered / 2000 <= 0.97


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


# --- by hand and against SciPy --------------------------------------------------------

values = st.lists(st.floats(-10, 10), min_size=2, max_size=9)


@settings(max_examples=60)
@given(differences=values, margin=st.floats(0.01, 5))
def test_equivalence_is_two_one_sided_tests(
    differences: list[float], margin: float
) -> None:
    if np.std(differences) < 1e-9:
        return
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    low, high = t_interval(differences, 0.90)
    inside = -margin < low and high < margin
    assert inside == (max(above, below) < 0.05)
    verdict = equivalence(one_sided(differences), margin).verdict
    assert inside == (verdict == "supported")


def test_crossed_interval_by_hand() -> None:
    """Equal weights, two seeds and three documents: a two-way table."""
    table = np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]])
    # Means: all 4, seeds 3 and 5, documents 2, 4, 6. Residuals -+0, -+1, +-1:
    # mean squares of the mean: seed 2/2, document 4/3, residual (4/2)/6.
    seed, document, residual = 1.0, 4 / 3, 2 / 6
    variance = seed + document - residual
    spread = seed**2 / 1 + document**2 / 2 + residual**2 / 2
    half = stats.t.ppf(0.975, variance**2 / spread) * variance**0.5
    effect, low, high, df = crossed_interval(table, np.ones(3))
    assert effect == 4
    assert (low, high) == pytest.approx((4 - half, 4 + half))
    assert df == pytest.approx(variance**2 / spread)


def test_crossed_without_documents_that_differ_is_t() -> None:
    """All documents alike: what is left is the spread of the seeds."""
    seeds = np.array([0.1, 0.3, 0.2, 0.5])
    table = np.repeat(seeds[:, None], 20, axis=1)
    _, low, high, _ = crossed_interval(table, np.ones(20))
    assert (low, high) == pytest.approx(t_interval(seeds))


def test_crossed_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="due"):
        crossed_interval(np.zeros((2, 3)), np.ones(4))
    with pytest.raises(ValueError, match="negative"):
        crossed_interval(np.zeros((2, 3)), -np.ones(3))
    assert np.isnan(crossed_interval(np.zeros((1, 3)), np.ones(3))[1])


def test_correlation_that_pairing_uses() -> None:
    a = np.array([1.0, 2.0, 4.0])
    assert pairing_correlation(a, 2 * a + 1) == pytest.approx(1)
    assert np.isnan(pairing_correlation(a[:2], a[:2]))


@settings(max_examples=100)
@given(differences=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_intervals_and_descriptions_are_scipys_and_numpys(
    differences: list[float],
) -> None:
    array = np.array(differences)
    row = describe(array, np.ones(len(array)), np.arange(len(array)))
    due = [
        np.mean(array),
        np.std(array, ddof=1),
        *np.quantile(array, [0.05, 0.5, 0.95]),
    ]
    ours = [row[key] for key in ("mean", "std", "p5", "median", "p95")]
    assert ours == pytest.approx(due, abs=1e-9)
    if np.std(array) > 0:
        tested = stats.ttest_1samp(array, 0)
        interval = tested.confidence_interval(0.95)
        assert t_interval(array) == pytest.approx(interval, abs=1e-9)
        assert paired_t(array) == pytest.approx(tested.pvalue, nan_ok=True)


def test_ratio_of_means_by_hand() -> None:
    ratio, low, high = ratio_interval([10.0, 30.0], [5.0, 10.0])
    assert ratio == pytest.approx(40 / 15)  # not the mean of 2 and 3
    assert low < ratio < high
    same = ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert same == pytest.approx((2.0, 2.0, 2.0))


@settings(max_examples=50)
@given(seed=st.integers(0, 999), shift=st.floats(0.9, 1.1))
def test_a_ratios_p_and_interval_agree(seed: int, shift: float) -> None:
    draw = np.random.default_rng(seed)
    a, b = shift * draw.normal(1, 0.05, 4), draw.normal(1, 0.05, 4)
    ratio, low, high = ratio_interval(a, b)
    assert (ratio_p(ratio, low, 4) < 0.05) == (not low <= 1 <= high)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    # No p value is no comparison, and certainly not p = 0.
    assert np.isnan(holm([NAN])[0])
    assert holm([0.03, NAN])[0] == 0.03


# --- verdicts -------------------------------------------------------------------------


def test_superiority_by_sign() -> None:
    better = two_sided([-0.2, -0.21, -0.19])
    assert superiority(better).verdict == "supported"
    assert superiority(better, lower_is_better=False).verdict == "not supported"
    assert superiority(two_sided([-0.2, 0.2, 0.0])).verdict == "inconclusive"


def test_equivalence_by_place() -> None:
    tight = np.array([-0.001, 0.0, 0.001])
    assert equivalence(one_sided(tight), 0.03).verdict == "supported"
    assert equivalence(one_sided(tight + 0.1), 0.03).verdict == "not supported"
    assert equivalence(one_sided(tight + 0.03), 0.03).verdict == "inconclusive"
    with pytest.raises(ValueError, match="positive"):
        equivalence(one_sided(tight), 0.0)
    with pytest.raises(ValueError, match="90 %"):
        equivalence(two_sided(tight), 0.03)


def test_non_inferiority_needs_assay_sensitivity() -> None:
    same = np.array([0.001, -0.001, 0.0])

    def verdict(shift: float, worse: float) -> str:
        pair = two_sided(same + worse), one_sided(same + worse)
        sensitive = assay(*pair, 0.03)
        return non_inferiority(one_sided(same + shift), 0.03, sensitive).verdict

    assert verdict(0.0, worse=0.2) == "supported"
    assert verdict(0.0, worse=0.0) == "not tested"
    assert verdict(0.1, worse=0.2) == "not supported"
    # What ought to differ differs, but by less than the margin: anything would pass.
    assert verdict(0.0, worse=0.01) == "not tested"


def test_within_a_region() -> None:
    def judged(effect: float, low: float, high: float) -> Finding:
        estimate = replace(
            two_sided([1.0, 1.1]), effect=effect, ci_low=low, ci_high=high
        )
        return within(estimate, (1.15, 1.65))

    assert judged(1.36, 1.32, 1.41).verdict == "supported"
    assert judged(1.36, 1.10, 1.60).verdict == "inconclusive"
    assert judged(1.9, 1.8, 2.0).verdict == "not supported"
    assert judged(1.2, 1.18, 1.22).threshold == 1.15
    assert judged(NAN, NAN, NAN).verdict == "not tested"


def test_conjunction_takes_the_worst() -> None:
    yes = superiority(two_sided([-0.2, -0.21, -0.19]))
    no = superiority(two_sided([0.2, 0.21, 0.19]))
    open_ = superiority(two_sided([-0.2, 0.2, 0.0]))
    untested = superiority(two_sided([0.1]))
    assert conjunction([yes, yes]).verdict == "supported"
    assert conjunction([yes, open_]).verdict == "inconclusive"
    assert conjunction([yes, open_, untested]).verdict == "not tested"
    assert conjunction([yes, untested, no]).verdict == "not supported"
    assert conjunction([yes, no]).effect == pytest.approx(0.2)
    assert conjunction([]).verdict == "not tested"


@pytest.mark.parametrize("bad", [[], [0.1], [NAN, 0.1], [0.1, float("inf")]])
def test_missing_values_are_not_tested(bad: list[float]) -> None:
    assert superiority(two_sided(bad)).verdict == "not tested"
    assert equivalence(one_sided(bad), 0.03).verdict == "not tested"
    assert non_inferiority(one_sided(bad), 0.03, True).verdict == "not tested"
    assert equivalence(one_sided([0.0, 0.001]), NAN).verdict == "not tested"
