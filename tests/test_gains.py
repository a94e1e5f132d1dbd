"""What a method gains over depth, time and training: by hand, and how it covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shallower.analysis.gains import (
    Measured,
    gain_at_equal_flops,
    gain_at_equal_latency,
    non_dominated,
    speedup_at_equal_quality,
)
from simulated import DEPTHS, METHOD, NAN, of, study

# --- who dominates whom ---------------------------------------------------------------

place = st.tuples(st.integers(0, 4), st.integers(0, 4))  # few values, so many ties


@settings(max_examples=150)
@given(places=st.lists(place, min_size=1, max_size=8))
def test_front_by_brute_force(places: list[tuple[int, int]]) -> None:
    due = [
        not any(a <= q and b <= t and (a, b) != (q, t) for a, b in places)
        for q, t in places
    ]
    quality, latency = np.array(places, float).T
    assert non_dominated(quality, latency).tolist() == due
    stacked = non_dominated(np.stack([quality, latency]), np.stack([latency, quality]))
    assert stacked.tolist() == [due, due]  # draws x models; the front is symmetric


def test_front_ties_and_gaps() -> None:
    quality = np.array([1.0, 1.0, 1.0, 2.0, 0.0, NAN])
    latency = np.array([5.0, 5.0, 6.0, 5.0, NAN, 1.0])
    assert non_dominated(quality, latency).tolist() == [True, True, *[False] * 4]


# --- against a curve ------------------------------------------------------------------


def depths(arm_quality: list[float], arm_latency: list[float]) -> Measured:
    quality = {"baseline-5": [3.0, 3.2], "baseline-6": [2.8, 3.1]}
    latency = {"baseline-5": [100.0, 100.0], "baseline-6": [150.0, 150.0]}
    quality |= {"baseline-7": [3.1, 3.0], "baseline-8": [2.7, 2.8]}
    latency |= {"baseline-7": [180.0, 180.0], "baseline-8": [200.0, 200.0]}
    return of(quality | {METHOD: arm_quality}, latency | {METHOD: arm_latency})


def test_gain_by_hand() -> None:
    """At 120 us: two fifths of the way from 5 to 6 blocks, in each seed."""
    found = gain_at_equal_latency(depths([2.9, 3.0], [120.0, 120.0]), METHOD, DEPTHS)
    assert found.effect == pytest.approx((2.9 - 2.92 + 3.0 - 3.16) / 2)
    # Without any scatter of the sessions the interval is the seeds' alone.
    assert found.seeds == 2
    due = stats.t.ppf(0.975, 1) * 0.07
    assert (found.low, found.high) == pytest.approx((-0.09 - due, -0.09 + due))
    # The depth of 7 blocks is slower and no better than that of 6.
    assert found.models == ("baseline-5", "baseline-6", "baseline-8")
    assert found.note == ""


def test_a_dominated_depth_is_not_on_the_curve() -> None:
    """At 180 us the curve is between 6 and 8 blocks, not at the poor 7."""
    found = gain_at_equal_latency(depths([2.9, 3.0], [180.0, 180.0]), METHOD, DEPTHS)
    assert found.effect == pytest.approx(2.95 - (0.4 * 2.95 + 0.6 * 2.75))
    # Without 8 blocks the best of what is faster counts, up to the slowest depth.
    found = gain_at_equal_latency(
        depths([2.9, 3.0], [170.0, 170.0]), METHOD, DEPTHS[:3]
    )
    assert found.effect == pytest.approx(2.95 - 2.95)
    assert found.models == ("baseline-5", "baseline-6")


@pytest.mark.parametrize(("at", "inside"), [(99, 0), (100, 1), (200, 1), (201, 0)])
def test_nothing_is_extrapolated(at: float, inside: int) -> None:
    found = gain_at_equal_latency(depths([2.9, 3.0], [at, at]), METHOD, DEPTHS)
    assert np.isfinite(found.effect) == bool(inside)
    assert ("outside" in found.note) == (not inside)
    assert np.isfinite([found.low, found.high]).all() == bool(inside)


@settings(max_examples=60)
@given(seed=st.integers(0, 9999))
def test_gain_and_speedup_against_numpy(seed: int) -> None:
    random = np.random.default_rng(seed)
    latency = np.cumsum(random.uniform(20, 60, 4))
    quality = 4 - np.cumsum(random.uniform(0.1, 0.5, 4))
    noise = random.normal(0, 0.01, (4, 5))
    at, best = (
        random.uniform(latency[0], latency[-1]),
        random.uniform(*quality[[-1, 0]]),
    )
    nats = np.append(quality, best) + noise
    order = [*DEPTHS, METHOD]
    times = np.repeat(np.append(latency, at)[None], 3, axis=0)
    data = Measured(
        pd.DataFrame(nats, columns=order)[random.permutation(order)],
        pd.DataFrame(times, columns=order),
    )
    found = gain_at_equal_latency(data, METHOD, list(random.permutation(DEPTHS)))
    due = [row[4] - np.interp(at, latency, row[:4]) for row in nats]
    assert found.effect == pytest.approx(np.mean(due))
    means = nats.mean(axis=0)
    speed = speedup_at_equal_quality(data, METHOD, DEPTHS)
    if means[3] <= means[4] <= means[0]:
        slow = np.interp(-means[4], -means[:4], latency)
        assert speed.effect == pytest.approx(slow / at)
    else:
        assert np.isnan(speed.effect)
        assert "outside" in speed.note


def test_interval_by_hand() -> None:
    """The sessions' spread around the curve, times its slope, by Satterthwaite."""
    data = of(
        {"baseline-5": [3.0, 3.2, 3.1], "baseline-8": [2.0, 2.1, 2.2]}
        | {METHOD: [2.5, 2.4, 2.6]},
        {"baseline-5": [90.0, 110.0], "baseline-8": [190.0, 210.0]}
        | {METHOD: [135.0, 165.0]},
    )
    found = gain_at_equal_latency(data, METHOD, ["baseline-5", "baseline-8"])
    gains = np.array([2.5 - 2.5, 2.4 - 2.65, 2.6 - 2.65])
    # Halfway down a slope of -.01 nats a us; the model departs by -5 and 5 us from it.
    seeds, sessions = gains.var(ddof=1) / 3, 0.01**2 * 50 / 2
    total = seeds + sessions
    freedom = total**2 / (seeds**2 / 2 + sessions**2 / 1)
    half = stats.t.ppf(0.975, freedom) * total**0.5
    assert found.effect == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1 - half, -0.1 + half))


def test_speedup_turns_the_gain_round() -> None:
    """Slowed by it the model gains nothing; by an end, just no longer surely."""
    random = np.random.default_rng(1)
    truth = 3.5 - 0.004 * np.array([0, 15, 30, 45, 30.0]), [100, 115, 130, 145, 115.0]
    data = study(random, [*DEPTHS, METHOD], truth[0], np.array(truth[1]), 8)
    found = speedup_at_equal_quality(data, METHOD, DEPTHS)
    assert found.note == ""

    def slowed(factor: float) -> tuple[float, ...]:
        times = data.latency.assign(**{METHOD: data.latency[METHOD] * factor})
        other = Measured(data.quality, times)
        return gain_at_equal_latency(other, METHOD, DEPTHS)[:3]

    assert slowed(found.effect)[0] == pytest.approx(0, abs=1e-9)
    assert slowed(found.high)[1] == pytest.approx(0, abs=2e-4)
    assert slowed(found.low)[2] == pytest.approx(0, abs=2e-4)


def test_speedup_has_open_ends() -> None:
    """Two seeds that differ wildly tell the model from no depth."""
    found = speedup_at_equal_quality(depths([2.4, 3.4], [100.0, 100.0]), METHOD, DEPTHS)
    assert found.effect == pytest.approx((150 + 50 / 4) / 100)
    assert (found.low, found.high) == (0, np.inf)
    assert found.note == "open below, open above"
    better = speedup_at_equal_quality(
        depths([2.4, 2.5], [100.0, 100.0]), METHOD, DEPTHS
    )
    assert np.isnan(better[:3]).all()
    assert "outside" in better.note


@pytest.mark.filterwarnings("error")  # of NumPy, about one value's variance
def test_gains_refuse_nonsense() -> None:
    data = depths([2.9, 3.0], [120.0, 120.0])
    with pytest.raises(ValueError, match="other than itself"):
        gain_at_equal_latency(data, "baseline-5", DEPTHS)
    apart = depths([NAN, NAN, 3.0], [120.0, 120.0])
    for measure in (gain_at_equal_latency, speedup_at_equal_quality):
        assert "in common" in measure(apart, METHOD, DEPTHS).note
    one = depths([2.9, 3.0], [120.0])
    assert np.isfinite(gain_at_equal_latency(one, METHOD, DEPTHS).effect)
    assert np.isnan(gain_at_equal_latency(one, METHOD, DEPTHS).low)
    assert np.isnan(speedup_at_equal_quality(one, METHOD, DEPTHS).low)


def test_where_the_curve_is_flat_latency_does_not_matter() -> None:
    """Between the last depth worth having and the slowest one the slope is zero."""
    found = gain_at_equal_latency(
        depths([2.9, 3.0], [165.0, 175.0]), METHOD, DEPTHS[:3]
    )
    assert found.models == ("baseline-5", "baseline-6")
    still = gain_at_equal_latency(
        depths([2.9, 3.0], [170.0, 170.0]), METHOD, DEPTHS[:3]
    )
    assert found.high == pytest.approx(still.high)


def test_equal_depths_count_once() -> None:
    data = depths([2.9, 3.0], [120.0, 120.0])
    frames = (
        table.assign(**{"baseline-6__twin=1": table["baseline-6"]})
        for table in (data.quality, data.latency)
    )
    twins = Measured(*frames)
    found = gain_at_equal_latency(twins, METHOD, ["baseline-6__twin=1", *DEPTHS])
    assert found.models == ("baseline-5", "baseline-6__twin=1", "baseline-8")
    assert found.effect == gain_at_equal_latency(data, METHOD, DEPTHS).effect


# --- coverage -------------------------------------------------------------------------

LATENCY = np.array([100, 115, 130, 145, 122.0])


def covered(
    measure: Callable, truth: float, quality: np.ndarray, units: int, **noise: float
) -> np.ndarray:
    """(covered, effect - truth, below the truth, above it), mean over studies."""
    random, found = np.random.default_rng(units), []
    for _ in range(400):
        data = study(random, [*DEPTHS, METHOD], quality, LATENCY, units, **noise)
        gain = measure(data, METHOD, DEPTHS)
        inside = gain.low <= truth <= gain.high
        found.append([inside, gain.effect - truth, gain.high < truth, gain.low > truth])
    return np.mean(found, axis=0)


STEEP = 3.5 - 0.004 * (LATENCY - 100) - np.array([0, 0, 0, 0, 0.02])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "noise"), [(3, {}), (5, {}), (8, {}), (8, {"session_sd": 0.08})]
)
def test_gains_and_speedups_cover(units: int, noise: dict[str, float]) -> None:
    """Also where times scatter by 8 %, where the seeds alone would cover .85."""
    inside, bias, *_ = covered(gain_at_equal_latency, -0.02, STEEP, units, **noise)
    assert 0.91 <= inside <= 0.99
    assert abs(bias) < 0.005
    inside, *_ = covered(speedup_at_equal_quality, 127 / 122, STEEP, units, **noise)
    assert 0.91 <= inside <= 0.99


@pytest.mark.slow
def test_where_depth_does_not_pay_the_curve_is_favoured() -> None:
    """All equally good: 1,500 studies of 3 units found .010 nats against the method."""
    _, bias, better, worse = covered(gain_at_equal_latency, 0.0, np.full(5, 3.0), 3)
    assert 0.004 < bias < 0.016
    assert better <= 0.025
    assert worse <= 0.09


# --- at equal training FLOPs ----------------------------------------------------------

FLOPS = {"x-30": 1e12, "x-60": 2e12, "x-120": 4e12, "student": 2.83e12}
CONTROLS = ["x-120", "x-30", "x-60"]
BUDGETS = pd.DataFrame(
    {"x-30": [3.4, 3.5], "x-60": [3.2, 3.2], "x-120": [3.0, 3.1], "student": [3.0, 3.1]}
)


def test_equal_flops_between_two_budgets() -> None:
    found = gain_at_equal_flops(BUDGETS, "student", CONTROLS, FLOPS)
    share = np.log2(2.83 / 2)
    due = [3.0 - (3.2 - 0.2 * share), 3.1 - (3.2 - 0.1 * share)]
    assert found.effect == pytest.approx(np.mean(due))
    assert found.models == ("x-60", "x-120")
    interval = stats.ttest_1samp(due, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(interval)


def test_equal_flops_as_they_are() -> None:
    found = gain_at_equal_flops(
        BUDGETS, "student", CONTROLS, FLOPS | {"student": 2.01e12}
    )
    assert found.models == ("x-60",)
    assert found.effect == pytest.approx(-0.15)
    near = gain_at_equal_flops(
        BUDGETS, "student", CONTROLS, FLOPS | {"student": 4.03e12}
    )
    assert near.models == ("x-120",)  # within a hundredth, though beyond the dearest


@pytest.mark.parametrize("flops", [0.9e12, 4.1e12])
def test_equal_flops_do_not_extrapolate(flops: float) -> None:
    found = gain_at_equal_flops(
        BUDGETS, "student", CONTROLS, FLOPS | {"student": flops}
    )
    assert np.isnan(found.effect)
    assert "no control" in found.note
    with pytest.raises(ValueError, match="different FLOPs"):
        gain_at_equal_flops(BUDGETS, "student", CONTROLS, dict.fromkeys(FLOPS, 1e12))
    with pytest.raises(ValueError, match="needs other models"):
        gain_at_equal_flops(BUDGETS, "student", [], FLOPS)
