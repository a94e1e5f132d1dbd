"""What a method gains over a curve of other models, and over equal training FLOPs.

A curve is drawn through the models that no other one of them dominates (by the means: a
depth that is slower and no better is no one's choice), straight from one to the next in
latency. From the best of them to the slowest it is flat, so it never rises. It is not
drawn beyond the fastest and the slowest model: a gain there is NaN.

Choosing the better models by their means favours the curve a little where depth does
not pay (`FAVOUR`; tests/test_gains.py measures it); it never flatters the method.

The probability of being on the front puts multivariate t noise around the means, with
the covariance of the units and their degrees of freedom, so that for any two models
the chance that one is better is one minus the one-sided p of their paired t test.
Resampling is overconfident: three differences of one sign, which chance alone gives in
one study of four, would be a probability of 0 or 1. Gains have verdicts, not these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from shallower.analysis.statistics import half_of_sum, t_interval

STEPS = 2000  # of the search for the ends of a speed-up's interval
DRAWS = 4000  # the Monte Carlo error of a probability is then .008 or less
SEED = 5  # of the draws: the same data give the same probabilities
SAME = 0.01  # relative difference up to which FLOPs count as equal
# Nats by which a curve of several models is favoured at most, as its best are chosen.
FAVOUR = 0.01
NAN = float("nan")


@dataclass(frozen=True)
class Measured:
    """Quality (seeds x models, nats) and latency (sessions x models, us) on one axis.

    Of a checkpoint the first are documents: what is said of seeds here holds of them.
    NaN where a model lacks a seed or a session. Runs with one seed share data order and
    initial weights, and models of one session share the state of the machine: both are
    paired over models.
    """

    quality: pd.DataFrame
    latency: pd.DataFrame
    axis: str = "per_token"

    @property
    def models(self) -> list[str]:
        """Labels in the order of the columns."""
        return list(self.quality)

    def paired(self, models: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(seeds, models) and (sessions, models) that all of these models have."""
        tables = self.quality[list(models)], self.latency[list(models)]
        quality, latency = (table.dropna().to_numpy(float) for table in tables)
        return quality, latency


class Gain(NamedTuple):
    """A method against others, with its 95 % interval."""

    effect: float  # method - curve in nats, or time of the curve / of the method
    low: float
    high: float
    seeds: int = 0
    models: tuple[str, ...] = ()  # that the curve is made of
    note: str = ""


def non_dominated(quality: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Which models no other one dominates; (..., models) in nats and us, a mask.

    One dominates another if it is no worse in both and better in one. Hence of two
    with equal latency only the better one stays, and two equal in both stay together.
    A model with a NaN is not on the front and dominates no one.
    """
    quality, latency = np.asarray(quality, float), np.asarray(latency, float)
    mask: np.ndarray = np.isfinite(quality) & np.isfinite(latency)
    for model in range(quality.shape[-1]):
        # One at a time: draws x models x models would not fit for many.
        q, t = quality[..., model, None], latency[..., model, None]
        better = (quality < q) | (latency < t)
        mask[..., model] &= ~((quality <= q) & (latency <= t) & better).any(axis=-1)
    return mask


def on_front_probability(
    data: Measured, draws: int = DRAWS, seed: int = SEED
) -> pd.Series:
    """Share of draws in which no other model dominates it, by model.

    Over the seeds and sessions that all models have; NaN if either are fewer than two.
    """
    quality, latency = data.paired(data.models)
    if min(len(quality), len(latency)) < 2:
        return pd.Series(NAN, index=data.models)
    random = np.random.default_rng(seed)
    nats = quality.mean(axis=0) + _t_noise(random, draws, quality)
    # A time stays positive: noise in its logarithm, to first order the same.
    us = latency.mean(axis=0)
    with np.errstate(over="ignore"):  # of two sessions noise may be anything
        times = us * np.exp(_t_noise(random, draws, latency / us))
    return pd.Series(non_dominated(nats, times).mean(axis=0), index=data.models)


def _t_noise(random: np.random.Generator, draws: int, values: np.ndarray) -> np.ndarray:
    """(draws, models): error of the means of (units, models), multivariate t.

    Centred values times normal variates have the covariance of the units, of whatever
    rank; one chi-square for all models makes every contrast t with units - 1.
    """
    units = len(values)
    normal = random.standard_normal((draws, units)) @ (values - values.mean(axis=0))
    chi_square = random.chisquare(units - 1, (draws, 1))
    noise: np.ndarray = normal / np.sqrt(units * chi_square)
    return noise


# --- against a curve ------------------------------------------------------------------


class Curve(NamedTuple):
    """The models that are worth having, fastest first, and where the curve ends."""

    models: tuple[str, ...]
    quality: np.ndarray  # (seeds, models), nats; the means fall
    latency: np.ndarray  # (sessions, models), us; the means rise
    slowest: float  # us, of all models that it was chosen from

    @property
    def knots(self) -> np.ndarray:
        """Mean latency of each model, us."""
        return np.asarray(self.latency.mean(axis=0))


def gain_at_equal_latency(data: Measured, model: str, others: Sequence[str]) -> Gain:
    """Cross-entropy of the model less that of the curve at its latency, in nats.

    Negative is better. The error is that of the seeds' paired gains, with the curve
    read at the mean latency, plus what the sessions leave open (the model's latency
    less the curve's, paired by session, times the curve's slope: the delta method),
    with Satterthwaite's degrees of freedom. NaN, with a note, where no curve is drawn.
    ValueError if the model is one of the others.
    """
    quality, latency, curve = _against(data, model, others)
    if curve is None:
        return _none("no seed, or no session, in common with the whole curve")
    at = latency.mean()
    if not curve.knots[0] <= at <= curve.slowest:
        return _none(f"at {at:.4g} us, outside the curve", len(quality), curve.models)
    gains, delays = _gaps(quality, latency, curve, np.array([1.0]))
    half, mean = float(half_of_sum([gains, delays])[0][0]), float(gains.mean())
    return Gain(mean, mean - half, mean + half, len(quality), curve.models)


def speedup_at_equal_quality(data: Measured, model: str, others: Sequence[str]) -> Gain:
    """Latency of the curve at the model's cross-entropy, over the model's.

    Above 1 the model is faster. The interval holds every factor by which it could be
    slowed until its gain at equal latency (see there) is no longer told from zero: a
    test turned round, as Fieller's interval is, since a quotient by the curve's slope
    has no useful standard error where the slope is unsure. An end where even the
    fastest or best model is not told apart is open: 0 or infinity, with a note. NaN,
    with a note, if the quality is outside that of the curve.
    """
    quality, latency, curve = _against(data, model, others)
    if curve is None:
        return _none("no seed, or no session, in common with the whole curve")
    means, at = curve.quality.mean(axis=0), quality.mean()
    if not means[-1] <= at <= means[0] or len(means) < 2:
        return _none(f"at {at:.4g} nats, outside the curve", len(quality), curve.models)
    ratio = float(np.interp(at, means[::-1], curve.knots[::-1]) / latency.mean())
    factors = np.linspace(curve.knots[0], curve.knots[-1], STEPS + 1) / latency.mean()
    gains, delays = _gaps(quality, latency, curve, factors)
    half, _ = half_of_sum([gains, delays])
    low, high = _unresolved(factors, gains.mean(axis=0), half, ratio)
    notes = ["open below"] * (low == 0) + ["open above"] * (high == np.inf)
    return Gain(ratio, low, high, len(quality), curve.models, ", ".join(notes))


def _against(
    data: Measured, model: str, others: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, Curve | None]:
    """The model's quality and latency, and the curve, over the units that all have."""
    if model in others or not others:
        raise ValueError(f"{model} is to be compared with models other than itself")
    quality, latency = data.paired([model, *others])
    if not (len(quality) and len(latency)):
        return quality, latency, None
    means, times = quality.mean(axis=0)[1:], latency.mean(axis=0)[1:]
    chosen = np.flatnonzero(non_dominated(means, times))
    # By rising latency; of models that are equal in both, one.
    chosen = chosen[np.unique(times[chosen], return_index=True)[1]]
    curve = Curve(
        tuple(others[int(i)] for i in chosen),
        quality[:, chosen + 1],
        latency[:, chosen + 1],
        float(times.max()),
    )
    return quality[:, 0], latency[:, 0], curve


def _gaps(
    quality: np.ndarray, latency: np.ndarray, curve: Curve, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, factors) gains and (sessions, factors) their errors, both in nats.

    The model is slowed by each factor. Its curve is read at the mean latency; how far a
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


def _none(note: str, seeds: int = 0, models: tuple[str, ...] = ()) -> Gain:
    return Gain(NAN, NAN, NAN, seeds, models, note)


# --- at equal training FLOPs ----------------------------------------------------------


def gain_at_equal_flops(
    quality: pd.DataFrame,
    model: str,
    controls: Sequence[str],
    flops: Mapping[str, float],
) -> Gain:
    """Cross-entropy of the model less a control's that cost as much training, in nats.

    `quality` is seeds x models; `flops` are total training FLOPs by model: the caller
    counts teacher, healing and fine-tuning in. A control within 1 % is taken as it is,
    the nearest if there are several; otherwise the two next to the model are
    interpolated in log FLOPs, seed by seed. Controls are one model at several budgets:
    ValueError if two cost the same. NaN, with a note, beyond the cheapest and the
    dearest: nothing is extrapolated.
    """
    order = sorted(controls, key=lambda control: flops[control])
    logs = np.log([flops[control] for control in order])
    if len(order) == 0 or model in order or (np.diff(logs) <= 0).any():
        raise ValueError(f"{model} needs other models as controls, at different FLOPs")
    at = np.log(flops[model])
    nearest = int(np.abs(logs - at).argmin())
    weights = np.eye(len(order))[nearest]
    if abs(logs[nearest] - at) > np.log1p(SAME):
        if not logs[0] < at < logs[-1]:
            seeds = len(quality[model].dropna())
            return _none("no control costs as much", seeds, tuple(order))
        weights = _weights(np.array([at]), logs)[0]
    used = [name for name, weight in zip(order, weights, strict=True) if weight > 0]
    table = quality[[model, *used]].dropna()
    values = (table[model] - table[used] @ weights[weights > 0]).to_numpy(float)
    mean = float(values.mean()) if len(values) else NAN
    return Gain(mean, *t_interval(values), len(values), tuple(used))
