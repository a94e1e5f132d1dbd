"""Quality against latency: who is on the front, how surely, and who dominates whom.

A point takes its cross-entropy (nats, lower is better) and its time (microseconds) from
the same trained model at the same scale. Seeds are the unit of quality, sessions (one
process each) that of time. Both are paired: runs with one seed share data order and
initial weights, models in one session share the machine's mood; so whatever is drawn
is drawn once for all models.

Two ways to draw. `bootstrap` resamples seeds and sessions. With 3 to 5 of them it is
overconfident: three differences of one sign, which chance alone gives in one study of
four, are a probability of exactly 0 or 1. `t` puts multivariate t noise around the
means, with the covariance of the units and their degrees of freedom, so that for any
two models the chance that one is better is one minus the one-sided p of their paired
t test. tests/test_pareto.py shows both against known truths; `t` is what is reported.
Neither is a verdict; `dominance` has one, by the rules of `verdicts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from shallower.analysis.statistics import ratio_interval, t_interval
from shallower.analysis.verdicts import Finding, conjunction, ratio_within, superiority
from shallower.systems import system_of

Axis = Literal["per_token", "first_token"]
Method = Literal["t", "bootstrap"]
METRICS: dict[Axis, str] = {
    "per_token": "time_per_output_token",
    "first_token": "time_to_first_token",
}
DRAWS = 4000  # the Monte Carlo error of a probability is then .008 or less
SEED = 5  # of the draws: the same data give the same probabilities
MARGIN = 0.1  # of the range, from the worst point to the reference point
COLUMNS = [
    "model",
    "system",
    "axis",
    "scale",
    "quality",  # test cross-entropy, nats: mean over seeds
    "quality_ci_low",  # 95 % t interval over seeds
    "quality_ci_high",
    "latency",  # us: mean over sessions
    "latency_ci_low",  # 95 % t interval over sessions
    "latency_ci_high",
    "on_front_probability",  # by t noise
    "on_front_bootstrap",  # by resampling: overconfident
    "on_front",  # by the means
    "family",
    "seeds",
    "sessions",
]


# --- measurements -------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Quality (seeds x models, nats) and time (sessions x models, us) of one scale."""

    quality: pd.DataFrame
    latency: pd.DataFrame
    axis: Axis
    scale: str

    @property
    def models(self) -> list[str]:
        """In the order of the quality's rows."""
        return list(self.quality)

    def paired(self, models: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(seeds, models) and (sessions, models) of the units that all of them have."""
        chosen = list(models)
        tables = self.quality[chosen], self.latency[chosen]
        quality, latency = (t.dropna().to_numpy(float) for t in tables)
        return quality, latency


def measured(quality: pd.DataFrame, times: pd.DataFrame, axis: Axis) -> Measured:
    """Checked measurements, from rows by unit (see `summary.by_unit`).

    `quality` has one row per model and seed, `times` one per model and session (of
    these the axis's metric is taken); rows of other data sets, modes and forms are to
    be left out before. The form may differ between models (each as it is deployed),
    and between quality and time, since folding does not change what a model computes.

    ValueError if scales are mixed (small-scale quality with paper-size latency would be
    nobody's model), if a model is in one table alone, and see `by_model`.
    """
    if "metric" in times:
        times = times[times["metric"] == METRICS[axis]]
    scales = sorted({*quality["scale"], *times["scale"]})
    if len(scales) != 1:
        raise ValueError(f"a point is of one scale, not of {', '.join(scales) or 'no'}")
    table, latency = by_model(quality, "nats"), by_model(times, "us")
    alone = sorted(set(table) ^ set(latency))
    if alone:
        raise ValueError(f"without quality, or without time: {', '.join(alone)}")
    return Measured(table, latency[list(table)], axis, scales[0])


def by_model(rows: pd.DataFrame, unit: str = "nats") -> pd.DataFrame:
    """Units x models, from rows by unit; NaN where a model lacks a seed (or session).

    ValueError for several values of one model and unit (data sets, forms or modes are
    mixed), for another unit of measurement, and for a value that is not finite: a run
    that diverged must be left out by name, not dropped on the way.
    """
    found = set(rows["unit"]) if "unit" in rows else {unit}
    if found - {unit}:
        raise ValueError(f"{unit} are due, not {', '.join(sorted(found - {unit}))}")
    for bad, what in (
        (rows.duplicated(["model", "unit_id"]), "more than one value of a unit"),
        (~np.isfinite(rows["value"].astype(float)), "a value that is not finite"),
    ):
        if bad.any():
            models = ", ".join(rows.loc[bad, "model"].unique())
            raise ValueError(f"{what}: {models}")
    table = rows.pivot(index="unit_id", columns="model", values="value")
    return table[list(rows["model"].unique())].sort_index().astype(float)


# --- points and their front ---------------------------------------------------------


def points(
    data: Measured,
    families: Mapping[str, str] | None = None,
    documents: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The rows of pareto.csv for one axis: a model each, fastest first.

    Means and intervals are over a model's own seeds, as in summary.csv; probabilities
    over the units that all models have, and NaN if these are fewer than two. A family
    is that of `families`, else the system. `documents`: see `draw`.
    """
    chances = {
        method: on_front_probability(draw(data, method, documents))
        for method in ("t", "bootstrap")
    }
    best = front(data.quality.mean().to_numpy(), data.latency.mean().to_numpy())
    rows: list[dict[str, Any]] = []
    for model, on_front in zip(data.models, best, strict=True):
        row = {
            "model": model,
            "system": system_of(model),
            "axis": data.axis,
            "scale": data.scale,
            "on_front_probability": chances["t"][model],
            "on_front_bootstrap": chances["bootstrap"][model],
            "on_front": bool(on_front),
            "family": (families or {}).get(model, system_of(model)),
        }
        columns = data.quality[model].dropna(), data.latency[model].dropna()
        for name, unit, values in zip(
            ("quality", "latency"), ("seeds", "sessions"), columns, strict=True
        ):
            low, high = t_interval(values.to_numpy())
            row |= {name: values.mean(), f"{name}_ci_low": low, f"{name}_ci_high": high}
            row[unit] = " ".join(map(str, values.index))
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["latency", "quality"], ignore_index=True)


def front(quality: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Which models no other dominates; (..., models) in nats and us, a mask comes back.

    One dominates another if it is no worse in both and better in one. Hence of two
    with equal latency only the better one stays, and two equal in both stay together,
    as neither dominates. A model with a NaN is not on the front and dominates no one.
    """
    quality, latency = np.asarray(quality, float), np.asarray(latency, float)
    mask = np.isfinite(quality) & np.isfinite(latency)
    for model in range(quality.shape[-1]):
        # One at a time: draws x models x models would not fit for many.
        q, t = quality[..., model, None], latency[..., model, None]
        beaten = dominates(quality, latency, q, t)
        mask[..., model] &= ~beaten.any(axis=-1)
    return mask


def dominates(
    quality: np.ndarray, latency: np.ndarray, quality_b: Any, latency_b: Any
) -> np.ndarray:
    """No worse in both and better in one, element by element."""
    no_worse = (quality <= quality_b) & (latency <= latency_b)
    return no_worse & ((quality < quality_b) | (latency < latency_b))


def hypervolume(
    quality: np.ndarray, latency: np.ndarray, reference: tuple[float, float]
) -> float:
    """Area that a family dominates up to the reference (nats, us), in nats x us.

    Points beyond the reference add nothing. More models can only add area: compare
    families of like size, and only with the reference in common.
    """
    mask = front(quality, latency)
    mask &= (np.asarray(quality) < reference[0]) & (np.asarray(latency) < reference[1])
    q, t = np.asarray(quality, float)[mask], np.asarray(latency, float)[mask]
    order = np.argsort(t)
    widths = np.diff(np.append(t[order], reference[1]))
    return float(((reference[0] - q[order]) * widths).sum())


def reference_point(table: pd.DataFrame) -> tuple[float, float]:
    """(nats, us): a tenth of the range beyond the worst of all families' points.

    At the worst itself the extreme points would add nothing, however good they are in
    the other axis. `table` holds all models that are compared, of one axis (`points`).
    """
    worst = []
    for column in ("quality", "latency"):
        low, high = table[column].min(), table[column].max()
        worst.append(float(high + MARGIN * (high - low)))
    return worst[0], worst[1]


# --- draws --------------------------------------------------------------------------


class Draws(NamedTuple):
    """What other seeds and sessions might have given: (draws, models) of each."""

    models: list[str]
    quality: np.ndarray  # nats
    latency: np.ndarray  # us


def draw(
    data: Measured,
    method: Method = "t",
    documents: pd.DataFrame | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Draws:
    """Draws of all models at once, over the units that all of them have.

    `documents` are the raw rows (`model, unit_id, sample, value, weight`) behind the
    quality; with them, documents are drawn too, crossed with the seeds (each drawn
    document under every drawn seed). Without, the draws speak of this test set. Such
    a draw counts the residual of seed and document more than once (Owen 2007, Annals
    of Applied Statistics 1, 386), so it errs on the wide side. NaN for fewer than two
    seeds or sessions.
    """
    quality, latency = data.paired(data.models)
    random = np.random.default_rng(seed)
    if min(len(quality), len(latency)) < 2:
        empty = np.full((draws, len(data.models)), np.nan)
        return Draws(data.models, empty, empty)
    by_seed = quality[None]  # (1 or draws, seeds, models)
    if documents is not None:
        by_seed = _redrawn(data, documents, draws, np.random.default_rng(seed + 1))
    if method == "bootstrap":
        shares = _shares(random, draws, len(quality))
        by_draw = np.broadcast_to(by_seed, (draws, *quality.shape))
        nats = np.einsum("bs,bsm->bm", shares, by_draw)
        return Draws(data.models, nats, _shares(random, draws, len(latency)) @ latency)
    nats = by_seed.mean(axis=1) + _t_noise(random, draws, quality)
    # A time stays positive: noise in its logarithm, to first order the same.
    us = latency.mean(axis=0)
    return Draws(data.models, nats, us * np.exp(_t_noise(random, draws, latency / us)))


def _shares(random: np.random.Generator, draws: int, units: int) -> np.ndarray:
    """(draws, units): how much each unit counts in a bootstrap sample's mean."""
    return random.multinomial(units, np.full(units, 1 / units), draws) / units


def _t_noise(random: np.random.Generator, draws: int, values: np.ndarray) -> np.ndarray:
    """(draws, models): error of the means of (units, models), multivariate t.

    Centred values times normal variates have the covariance of the units, of whatever
    rank; one chi-square for all models makes every contrast t with units - 1.
    """
    units = len(values)
    normal = random.standard_normal((draws, units)) @ (values - values.mean(axis=0))
    chi_square = random.chisquare(units - 1, (draws, 1))
    return normal / np.sqrt(units * chi_square)


def _redrawn(
    data: Measured, documents: pd.DataFrame, draws: int, random: np.random.Generator
) -> np.ndarray:
    """(draws, seeds, models): token-weighted means over documents drawn anew.

    ValueError unless all models and seeds have the same documents, and these make up
    the quality by seed.
    """
    seeds = data.quality.dropna().index
    rows = documents[documents["unit_id"].isin(seeds)]
    wide = rows.pivot(index="sample", columns=["unit_id", "model"], values="value")
    wide = wide.reindex(columns=pd.MultiIndex.from_product([seeds, data.models]))
    weights = rows.drop_duplicates("sample").set_index("sample")["weight"]
    tokens = weights[wide.index].to_numpy(float)
    values, shape = wide.to_numpy(float), (-1, len(seeds), len(data.models))
    whole = (tokens @ values / tokens.sum()).reshape(shape)[0]
    if not np.allclose(whole, data.quality.loc[seeds].to_numpy(), rtol=1e-6):
        raise ValueError("the documents are not those behind the quality by seed")
    drawn = _shares(random, draws, len(tokens)) * tokens
    return (drawn @ values / drawn.sum(axis=1, keepdims=True)).reshape(shape)


def on_front_probability(draws: Draws) -> pd.Series:
    """Share of the draws in which no other model dominates it, by model."""
    share = front(draws.quality, draws.latency).mean(axis=0)
    known = np.isfinite(draws.quality).all() and np.isfinite(draws.latency).all()
    return pd.Series(share if known else np.nan, index=draws.models)


def dominance_probability(draws: Draws, a: str, b: str) -> float:
    """Share of the draws in which a dominates b; NaN without draws."""
    i, j = draws.models.index(a), draws.models.index(b)
    q, t = draws.quality, draws.latency
    if not np.isfinite([q[:, [i, j]], t[:, [i, j]]]).all():
        return float("nan")
    return float(dominates(q[:, i], t[:, i], q[:, j], t[:, j]).mean())


# --- dominance ----------------------------------------------------------------------


class Dominance(NamedTuple):
    """Whether a dominates b: a probability, and a verdict from paired intervals."""

    probability: float  # by t noise
    bootstrap: float  # by resampling: overconfident
    quality: Finding  # a - b over seeds, nats
    latency: Finding  # a / b over sessions
    verdict: Finding  # of both, by intersection-union


def dominance(data: Measured, a: str, b: str) -> Dominance:
    """Is a better AND faster than b? Probability under draws, and the paired verdict.

    Supported if both 95 % intervals exclude no effect in a's favour: a false one in at
    most 2.5 %, without adjustment (Berger 1982). Not supported if either excludes it
    in b's favour. Strict in both axes: 'no worse' cannot be shown without a margin,
    so arms that leave a time as it was (elimination, per token) cannot be supported.
    The draws are those of `draw` for all models, where these have the same units.
    """
    both = Measured(data.quality[[a, b]], data.latency[[a, b]], data.axis, data.scale)
    quality, latency = both.paired([a, b])
    better = superiority(quality[:, 0] - quality[:, 1])
    ratio = ratio_interval(*latency.T) if len(latency) else (float("nan"),) * 3
    faster = ratio_within(*ratio, (-np.inf, 1.0))
    return Dominance(
        dominance_probability(draw(both, "t"), a, b),
        dominance_probability(draw(both, "bootstrap"), a, b),
        better,
        faster,
        conjunction([better, faster]),
    )
