"""`estimates.csv`: every difference, ratio, level and correlation with its interval.

A `Comparison` says what is to be estimated, an `Estimate` is the answer. Verdicts,
tables, figures and text look estimates up (`Results.estimate`) and compute none. Which
comparisons are made is said by topic, in `claims/<topic>.py` and `write.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from shallower.analysis.statistics import (
    LEVEL,
    Values,
    crossed_interval,
    detectable,
    holm,
    interval_p,
    paired_t,
    pairing_correlation,
    ratio_interval,
    ratio_p,
    t_interval,
    welch_interval,
)
from shallower.evaluation.units import TIME, unit_of
from shallower.files import write_text

if TYPE_CHECKING:
    from shallower.analysis.results import Results

NAN = float("nan")
ONE_SIDED = 2 * LEVEL - 1  # 90 %: two one-sided tests at .05
Kind = Literal[
    "level",  # left alone
    "difference",  # left - right
    "ratio",  # left / right
    "gain",  # left - right, a curve of models, at equal latency or training FLOPs
    "speedup",  # time of right, a curve of models, over left's at equal quality
    "interaction",  # effect of two changes together less the sum of both
    "correlation",
    "slope",  # per block
    "spread",  # ratio of standard deviations
    "maximum",  # largest of all values
    "cost",  # left - right at a given speed-up, left standing for a curve
]
COLUMNS = [
    *("id", "kind", "left", "right", "scale", "form", "mode", "dataset", "metric"),
    *("unit", "replicates", "n", "effect", "ci_low", "ci_high", "level", "p", "p_holm"),
    *("method", "family", "note", "crossed_low", "crossed_high", "seed_correlation"),
    *("df", "seeds_low", "seeds_high", "welch_low", "welch_high", "detectable", "role"),
]
Role = Literal["contrast", "claim", "exploratory"]


@dataclass(frozen=True)
class Comparison:
    """What is to be estimated. `left` and `right` are labels of models.

    `level` is that of the interval: .95, or .90 for one-sided tests at .05. `family`
    groups comparisons for Holm's adjustment and plays no part in their identity.
    """

    left: str
    right: str = ""
    dataset: str = "text"
    metric: str = "cross_entropy"
    kind: Kind = "difference"
    scale: str = "study"
    form: str = "trained"
    mode: str = "eager"
    level: float = LEVEL
    family: str = ""

    @property
    def id(self) -> str:
        """Readable and unique, for example
        `difference proposed-5 - baseline-5 | text cross_entropy`."""
        sides = {
            "difference": f"{self.left} - {self.right}",
            "ratio": f"{self.left} / {self.right}",
        }.get(self.kind, " , ".join(side for side in (self.left, self.right) if side))
        usual = Comparison(self.left)
        rest = [
            str(value)
            for key in ("scale", "form", "mode", "level")
            if (value := getattr(self, key)) != getattr(usual, key)
        ]
        place = " ".join([self.dataset, self.metric, *rest])
        return f"{self.kind} {sides} | {place}"

    def of(self, left: str) -> Comparison:
        """The same of another model."""
        return replace(self, left=left)

    def at(self, level: float) -> Comparison:
        """The same at another level."""
        return replace(self, level=level)


@dataclass(frozen=True)
class Estimate:
    """An effect with its interval, and how it was obtained."""

    id: str
    kind: str
    left: str
    right: str
    scale: str
    form: str
    mode: str
    dataset: str
    metric: str
    unit: str
    replicates: str  # seeds, sessions, documents
    n: int
    effect: float
    ci_low: float
    ci_high: float
    level: float
    p: float = NAN  # two-sided, of no effect
    p_holm: float = NAN
    method: str = ""
    family: str = ""
    note: str = ""
    crossed_low: float = NAN  # over seeds and documents, both random
    crossed_high: float = NAN
    seed_correlation: float = NAN  # what pairing by seed gains; at 0 or less nothing
    df: float = NAN  # degrees of freedom of the interval
    seeds_low: float = NAN  # over seeds alone, where the crossed interval is compared
    seeds_high: float = NAN
    welch_low: float = NAN  # not paired by seed
    welch_high: float = NAN
    detectable: float = NAN  # difference that a study like this finds in 80 %
    role: Role = "exploratory"  # registered contrast, part of a claim, or neither

    @classmethod
    def of(cls, comparison: Comparison, **answer: Any) -> Estimate:
        """The answer to a comparison; its unit, if not given, is the metric's."""
        if "unit" not in answer:
            relative = comparison.kind in ("ratio", "speedup", "spread")
            answer["unit"] = "ratio" if relative else unit_of(comparison.metric)
        return cls(**(asdict(comparison) | {"id": comparison.id} | answer))

    @classmethod
    def missing(cls, comparison: Comparison, note: str = "not measured") -> Estimate:
        """No answer: NaN, of no replicates."""
        empty = {"n": 0, "effect": NAN, "ci_low": NAN, "ci_high": NAN}
        return cls.of(comparison, replicates="", note=note, **empty)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Estimate:
        """From a row of estimates.csv."""
        text = dict.fromkeys(("right", "method", "family", "note", "replicates"), "")
        values = {k: row[k] for k in COLUMNS}
        for key in text:
            values[key] = "" if pd.isna(values[key]) else str(values[key])
        return cls(**(values | {"n": int(values["n"])}))

    @property
    def exists(self) -> bool:
        """Whether it was measured."""
        return self.n > 0


def estimate(results: Results, comparison: Comparison) -> Estimate:
    """The level, difference or ratio that a comparison asks for.

    Differences of quality are paired by seed (runs with one seed share data order and
    common initial weights) with a t interval over seeds; of a checkpoint by document,
    over documents: a claim about that checkpoint and no other; of what is pooled over
    checkpoints, each one's mean over documents, over checkpoints. Pairing is right
    whatever the correlation of the two sides. Where that is 0 or less pairing gains
    nothing, and the paired interval is the wider one: Welch's is beside it. Times are
    compared by ratios of means of session medians, with a t interval of the logarithm
    over sessions (delta method).
    """
    c = comparison
    where = (c.dataset, c.metric, c.scale, c.form, c.mode)
    left = results.values(c.left, *where)
    quality = results.replicates_of(c.left)
    replicates = "sessions" if unit_of(c.metric) == TIME else quality
    if c.kind == "level":
        return mean_level(c, left, replicates)
    right = results.values(c.right, *where)
    left, right = left.align(right, join="inner")
    if c.kind == "difference":
        made = mean_difference(c, (left - right).dropna(), replicates)
        return beside_pairing(made, left, right) if replicates == "seeds" else made
    if c.kind == "ratio":
        return ratio_of_means(c, left, right, replicates)
    raise ValueError(f"{c.kind}: estimated elsewhere")


def mean_level(c: Comparison, values: Values, replicates: str, **more: Any) -> Estimate:
    """The mean of one value for each replicate; `more` are fields of the estimate."""
    values = np.asarray(values, float)
    if not len(values):
        return Estimate.missing(c)
    low, high = t_interval(values, c.level)
    answer = {"effect": float(values.mean()), "ci_low": low, "ci_high": high}
    method = {"method": f"mean, t over {replicates}"}
    given = {"replicates": replicates, "n": len(values), "df": len(values) - 1}
    return Estimate.of(c, **(given | answer | method | more))


def mean_difference(
    c: Comparison, differences: Values, replicates: str, **more: Any
) -> Estimate:
    """The mean of one paired difference for each replicate, with a t test of zero."""
    method = {"method": f"paired difference, t over {replicates}"}
    given: dict[str, Any] = {"p": paired_t(differences)}
    if c.level == LEVEL and len(differences) > 1:
        spread = float(np.std(differences, ddof=1))
        given["detectable"] = spread * detectable(len(differences))
    return mean_level(c, differences, replicates, **(given | method | more))


def beside_pairing(made: Estimate, left: Values, right: Values) -> Estimate:
    """With Welch's interval, and what pairing by seed gains."""
    low, high = welch_interval(left, right, made.level)
    together = pairing_correlation(left, right)
    note = "pairing by seed gains nothing" if together <= 0 else made.note
    return replace(
        made, welch_low=low, welch_high=high, seed_correlation=together, note=note
    )


def ratio_of_means(
    c: Comparison, top: Values, bottom: Values, replicates: str, **more: Any
) -> Estimate:
    """The ratio of the means of one pair of values for each replicate."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    if not len(top):
        return Estimate.missing(c)
    ratio, low, high = ratio_interval(top, bottom, c.level)
    answer = {"effect": ratio, "ci_low": low, "ci_high": high}
    answer["p"] = ratio_p(ratio, low, len(top), c.level)
    method = {"method": f"ratio of means, t of its logarithm over {replicates}"}
    given = {"replicates": replicates, "n": len(top), "df": len(top) - 1}
    return Estimate.of(c, **(given | answer | method | more))


def crossed(results: Results, found: Estimate) -> Estimate:
    """With the wider of two intervals: over seeds, and over seeds and documents.

    For differences in the cross-entropy of the test text, where every seed scores the
    same documents. The crossed variance is estimated too and is often the smaller one;
    the rule is fixed: the wider of both, with its p value.
    """
    place = (found.dataset, found.metric, found.kind)
    if place != ("text", "cross_entropy", "difference"):
        return found
    sides = []
    for label in (found.left, found.right):
        rows = results.documents(label, found.form)
        sides.append(rows.pivot(index="seed", columns="sample", values="value"))
    left, right = sides[0].align(sides[1], join="inner")
    if left.empty:
        return found
    weights = results.documents(found.left, found.form)
    weights = weights.drop_duplicates("sample").set_index("sample")["weight"]
    tokens = weights[left.columns].to_numpy(float)
    both = crossed_interval((left - right).to_numpy(), tokens, found.level)
    kept = replace(
        found,
        crossed_low=both.low,
        crossed_high=both.high,
        seeds_low=found.ci_low,
        seeds_high=found.ci_high,
    )
    return wider(kept, both.freedom)


def wider(found: Estimate, freedom: float) -> Estimate:
    """With the crossed interval if it is the wider one, and its degrees of freedom."""
    half = (found.crossed_high - found.crossed_low) / 2
    over_seeds = (found.seeds_high - found.seeds_low) / 2
    if not half > over_seeds * (1 + 1e-9):  # or NaN
        return found
    low, high = found.effect - half, found.effect + half
    share = half / over_seeds if over_seeds > 0 else NAN
    return replace(
        found,
        ci_low=low,
        ci_high=high,
        p=interval_p(found.effect, low, freedom, found.level),
        df=freedom,
        method="paired difference, t over seeds and documents",
        detectable=found.detectable * share,
    )


def adjusted(
    estimates: Iterable[Estimate], variants: Mapping[str, str]
) -> list[Estimate]:
    """With Holm's p values, over the comparisons of each family at 95 %.

    A family of hypotheses is one variant's comparisons over the depths: it is further
    divided by the variant of `left` (`variants`, by label), data set, metric, scale and
    form.
    """
    estimates = list(estimates)
    families: dict[tuple[str, ...], list[int]] = {}
    for index, e in enumerate(estimates):
        if e.family and e.level == LEVEL and not np.isnan(e.p):
            variant = variants.get(e.left, e.left)
            key = (e.family, variant, e.dataset, e.metric, e.scale, e.form, e.kind)
            families.setdefault(key, []).append(index)
    for members in families.values():
        p_values = holm([estimates[i].p for i in members])
        for index, p in zip(members, p_values, strict=True):
            estimates[index] = replace(estimates[index], p_holm=p)
    return estimates


def write_estimates(path: Path, estimates: Iterable[Estimate]) -> None:
    """Write the table; of comparisons that were asked for twice the first."""
    unique = {e.id: e for e in reversed(list(estimates)) if e.exists}
    rows = [asdict(e) for e in reversed(unique.values())]
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(path, table.to_csv(index=False, float_format="%.10g"))
