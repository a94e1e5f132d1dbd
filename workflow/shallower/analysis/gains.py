"""What an arm gains over leaving out blocks, and over what its training FLOPs buy.

The null of every method is depth reduction: the baseline at fewer blocks. Its curve is
drawn through the depths that no other depth dominates (by the means: a depth that is
slower and no better is no one's choice), straight from one to the next in latency. It
is held at its best from there to the slowest depth, so it never rises; beyond the
fastest and the slowest depth it is not drawn at all, and a gain there is NaN.

Picking the better depths by their means favours the null by a little where depth does
not pay (`FAVOUR`; tests/test_pareto.py has it); it never flatters the arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from shallower.analysis.pareto import Measured, front
from shallower.analysis.runs import effect
from shallower.analysis.statistics import LEVEL, t_interval

STEPS = 2000  # of the search for the ends of a speed-up's interval
SAME = 0.01  # relative difference up to which FLOPs count as equal
# Nats by which a null of several models is favoured at most, as its best are picked.
FAVOUR = 0.01
NAN = float("nan")


class Gain(NamedTuple):
    """An arm against its null, with the interval over seeds and one over both units."""

    effect: float  # arm - null in nats, or null / arm in time
    ci_low: float  # over seeds, with the latencies as measured
    ci_high: float
    total_low: float  # with the latencies' uncertainty over sessions added
    total_high: float
    values: tuple[float, ...] = ()  # by seed, where the effect is a mean of them
    models: tuple[str, ...] = ()  # what the null was made of
    note: str = ""


# --- against depth ------------------------------------------------------------------


class Curve(NamedTuple):
    """The depths that are worth having, fastest first, and where the curve ends."""

    models: tuple[str, ...]
    quality: np.ndarray  # (seeds, depths), nats; the means fall
    latency: np.ndarray  # (sessions, depths), us; the means rise
    slowest: float  # us, of all depths

    @property
    def knots(self) -> np.ndarray:
        """Mean latency of each depth, us."""
        return np.asarray(self.latency.mean(axis=0))


def iso_latency_gain(data: Measured, arm: str, depth_models: Sequence[str]) -> Gain:
    """Cross-entropy of the arm less that of the baseline at the same latency, in nats.

    Negative is better. The interval is t over the seeds' paired gains, with the curve
    read at the mean latency; the total one adds what the sessions leave open (the
    arm's latency less the curve's, paired by session, times the curve's slope: the
    delta method) with Satterthwaite's degrees of freedom, so with few units it need
    not be the wider one. NaN, with a note, where the curve is not drawn.
    """
    quality, latency, curve = _against(data, arm, depth_models)
    at = latency.mean()
    if not curve.knots[0] <= at <= curve.slowest:
        return _none(f"at {at:.4g} us, outside the depths'", curve)
    gains, delays = _gaps(quality, latency, curve, np.array([1.0]))
    low, high = t_interval(gains[:, 0])
    half = float(_half(gains, delays)[0])
    mean = float(gains.mean())
    values = tuple(map(float, gains[:, 0]))
    return Gain(mean, low, high, mean - half, mean + half, values, curve.models)


def iso_quality_speedup(data: Measured, arm: str, depth_models: Sequence[str]) -> Gain:
    """Latency of the baseline at the arm's cross-entropy, over the arm's: above 1 wins.

    The intervals hold every factor by which the arm could be slowed until its gain at
    equal latency (see there) is no longer told from zero: a test turned round, as
    Fieller's interval is, since a quotient by the curve's slope has no useful standard
    error where the slope is unsure. An end where even the fastest or best depth is not
    told apart is open: 0 or infinity, with a note. NaN, with a note, if the quality is
    outside that of the depths.
    """
    quality, latency, curve = _against(data, arm, depth_models)
    means, at = curve.quality.mean(axis=0), quality.mean()
    if not means[-1] <= at <= means[0] or len(means) < 2:
        return _none(f"at {at:.4g} nats, outside the depths'", curve)
    ratio = float(np.interp(at, means[::-1], curve.knots[::-1]) / latency.mean())
    factors = np.linspace(curve.knots[0], curve.knots[-1], STEPS + 1) / latency.mean()
    gains, delays = _gaps(quality, latency, curve, factors)
    mean = gains.mean(axis=0)
    ci, total = (
        _unresolved(factors, mean, half, ratio)
        for half in (_half(gains), _half(gains, delays))
    )
    notes = ["open below"] * (0.0 in ci + total) + ["open above"] * (
        np.inf in ci + total
    )
    return Gain(ratio, *ci, *total, models=curve.models, note=", ".join(notes))


def _against(
    data: Measured, arm: str, depth_models: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, Curve]:
    """The arm's quality and latency, and the curve, over the units all of them have."""
    if arm in depth_models or not depth_models:
        raise ValueError(f"{arm} is to be compared with depths other than itself")
    quality, latency = data.paired([arm, *depth_models])
    if not (len(quality) and len(latency)):
        raise ValueError(f"no seed, or no session, has {arm} and all of the depths")
    means, times = quality.mean(axis=0)[1:], latency.mean(axis=0)[1:]
    kept = np.flatnonzero(front(means, times))
    # By rising latency; of depths that are equal in both, one.
    kept = kept[np.unique(times[kept], return_index=True)[1]]
    models = tuple(depth_models[int(i)] for i in kept)
    curve = Curve(
        models, quality[:, kept + 1], latency[:, kept + 1], float(times.max())
    )
    return quality[:, 0], latency[:, 0], curve


def _gaps(
    quality: np.ndarray, latency: np.ndarray, curve: Curve, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, factors) gains and (sessions, factors) their errors, both in nats.

    The arm is slowed by each factor. Its curve is read at the mean latency; how far a
    session departs from that place on the curve, times the slope, is the error.
    """
    at, knots = factors * latency.mean(), curve.knots
    weights = _weights(at, knots)
    slopes = np.zeros(len(at))
    if len(knots) > 1:
        rises = np.diff(curve.quality.mean(axis=0)) / np.diff(knots)
        place = np.searchsorted(knots, at, side="right") - 1
        slopes = np.where(at <= knots[-1], rises[np.clip(place, 0, len(rises) - 1)], 0)
    gains = quality[:, None] - curve.quality @ weights.T
    delays = latency[:, None] * factors - curve.latency @ weights.T
    return gains, -slopes * delays


def _weights(at: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(places, knots): what each knot counts on the line between its neighbours."""
    units = np.eye(len(knots))
    return np.stack([np.interp(at, knots, unit) for unit in units], axis=1)


def _half(*parts: np.ndarray) -> np.ndarray:
    """Half widths of intervals for sums of means over independent kinds of units.

    Each part is (units, columns); the variances of the means add up, with
    Satterthwaite's degrees of freedom. NaN if a part has fewer than two units.
    """
    if min(map(len, parts)) < 2:
        return np.full(parts[0].shape[1], np.nan)
    variances = np.array([part.var(axis=0, ddof=1) / len(part) for part in parts])
    freedoms = np.array([[len(part) - 1] for part in parts])
    total, spread = variances.sum(axis=0), (variances**2 / freedoms).sum(axis=0)
    freedom = np.divide(
        total**2, spread, out=np.full_like(total, freedoms[0, 0]), where=spread > 0
    )
    return np.asarray(special.stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(total))


def _unresolved(
    factors: np.ndarray, gains: np.ndarray, half: np.ndarray, ratio: float
) -> tuple[float, float]:
    """Ends of the factors at which the gain is not told from zero; open at an end."""
    if np.isnan(half).any():
        return NAN, NAN
    inside = np.abs(gains) <= half
    found = np.append(factors[inside], ratio)
    low = 0.0 if inside[0] else float(found.min())
    return low, np.inf if inside[-1] else float(found.max())


def _none(note: str, curve: Curve) -> Gain:
    return Gain(NAN, NAN, NAN, NAN, NAN, models=curve.models, note=note)


# --- of quality alone ---------------------------------------------------------------


def additivity(
    quality: pd.DataFrame, a: str, b: str, ab: str, base: str
) -> dict[str, Any]:
    """dCE(A+B) - dCE(A) - dCE(B), each against the base, seed by seed, in nats.

    Zero if what A and B change adds up; negative if together they do better than
    that. `quality` is seeds x models (`pareto.by_model`); see `runs.effect`.
    """
    found = quality[ab] - quality[a] - quality[b] + quality[base]
    return effect(found.dropna())


def equal_flops_gain(
    quality: pd.DataFrame, arm: str, controls: Sequence[str], flops: Mapping[str, float]
) -> Gain:
    """Cross-entropy of the arm less a control's that cost as much training, in nats.

    `flops` are total training FLOPs by model: the caller counts the teacher, healing
    and fine-tuning in. A control within 1 % is taken as it is, the nearest if there
    are several; otherwise the two next to the arm are interpolated in log FLOPs, seed
    by seed. Controls are one model at several budgets: ValueError if two cost the
    same. NaN, with a note, beyond the cheapest and the dearest: nothing extrapolates.
    """
    order = sorted(controls, key=lambda model: flops[model])
    logs = np.log([flops[model] for model in order])
    if len(order) == 0 or arm in order or (np.diff(logs) <= 0).any():
        raise ValueError(f"{arm} needs other models as controls, at different FLOPs")
    at = np.log(flops[arm])
    nearest = int(np.abs(logs - at).argmin())
    weights = np.eye(len(order))[nearest]
    if abs(logs[nearest] - at) > np.log1p(SAME):
        if not logs[0] < at < logs[-1]:
            return Gain(NAN, NAN, NAN, NAN, NAN, note="no control costs as much")
        weights = _weights(np.array([at]), logs)[0]
    used = [model for model, weight in zip(order, weights, strict=True) if weight > 0]
    table = quality[[arm, *used]].dropna()
    values = (table[arm] - table[used] @ weights[weights > 0]).to_numpy(float)
    low, high = t_interval(values)
    mean = float(values.mean()) if len(values) else NAN
    return Gain(mean, low, high, low, high, tuple(map(float, values)), tuple(used))
