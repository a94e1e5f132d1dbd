"""What a claim is, and what its judge may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from shallower.analysis.estimates import (
    ONE_SIDED,
    Comparison,
    Estimate,
    Role,
    crossed,
    estimate,
)
from shallower.analysis.results import Results
from shallower.analysis.statistics import LEVEL
from shallower.analysis.summaries import AA_BAND
from shallower.analysis.verdicts import Finding, absent, joined
from shallower.study.names import ModelName, twin
from shallower.study.study import Study

if TYPE_CHECKING:
    from shallower.analysis.gates import Gates

Kind = Literal["identity", "cost", "quality"]
Weights = Literal["trained", "untrained", "pretrained"]
ON_CHECKPOINTS = ("S3", "S4")  # judged on a checkpoint, where a study has one
COLUMNS = [
    *("id", "source", "claim", "kind", "scale", "weights", "effect", "unit"),
    *("ci_low", "ci_high", "level", "threshold", "verdict", "note", "registered"),
    *("p", "p_holm"),  # of registered contrasts, over all of them
    *("verdict_half_margin", "verdict_double_margin"),  # of claims with a margin
    *("replicates", "n"),  # what the interval is over, and how many there are
]
ROLES: tuple[Role, ...] = ("contrast", "claim", "exploratory")  # the weightiest first


def plain(variant: str, depth: int) -> str:
    """The label of a model of a variant and depth and nothing else."""
    return str(ModelName(variant, depth))


@dataclass
class Context:
    """A study's results, as judges see them; it keeps every estimate that they use.

    So `estimates.csv` has each interval that a verdict rests on, whoever asked for it,
    and whether it was asked for by a registered contrast or by a claim.
    """

    results: Results
    used: dict[str, Estimate] = field(default_factory=dict)
    role: Role = "exploratory"  # of whoever asks now
    factor: float = 1.0  # of every margin: how verdicts depend on it
    gates: Gates | None = None  # without them every claim is judged

    @property
    def study(self) -> Study:
        """The study's configuration."""
        return self.results.study

    def estimate(self, comparison: Comparison) -> Estimate:
        """The estimate of a comparison, made once."""
        comparison = self.results.placed(comparison)
        if comparison.id not in self.used:
            made = estimate(self.results, comparison)
            self.used[comparison.id] = crossed(self.results, made)
        return self._asked(comparison.id)

    def _asked(self, key: str) -> Estimate:
        """With the weightiest role of all that asked for it."""
        found = self.used[key]
        if ROLES.index(self.role) < ROLES.index(found.role):
            found = self.used[key] = replace(found, role=self.role)
        return found

    def difference(
        self, left: str, right: str, one_sided: bool = False, **where: Any
    ) -> Estimate:
        """left - right, by default in test cross-entropy (nats), seed by seed.

        `one_sided` gives the 90 % interval; `where` changes fields of the comparison.
        """
        where = {"level": ONE_SIDED if one_sided else LEVEL} | where
        return self.estimate(Comparison(left, right, **where))

    def ratio(self, left: str, right: str, **where: Any) -> Estimate:
        """left / right of a time, over sessions."""
        return self.estimate(Comparison(left, right, kind="ratio", **where))

    def keep(self, made: Estimate) -> Estimate:
        """Keep an estimate that was made elsewhere (a gain, a correlation, ...)."""
        self.used.setdefault(made.id, made)
        return self._asked(made.id)

    @property
    def margin(self) -> float:
        """Difference in cross-entropy that counts as none, nats: fixed in advance."""
        return self.factor * self.study.margin.nats

    def same_twice(self, scale: str, metric: str) -> Estimate:
        """A/A: a time of the deepest baseline (or checkpoint) over itself, 90 %."""
        study = self.study
        deepest, place = study.deepest_baseline, "fixed"
        if scale == "original":
            deepest = plain("baseline", study.original.depths[-1])
        elif scale == "pretrained":
            deepest, place = study.timed_on, "continuation"
        sides = twin(deepest), deepest
        at = Comparison(*sides, place, metric, "ratio", scale, family="twin")
        return self.estimate(at.at(ONE_SIDED))

    def too_noisy(self, scale: str, metric: str) -> str:
        """Why times at this scale decide nothing; empty if they do.

        An equivalence test, so that noise does not pass: the 90 % interval of the A/A
        ratio over sessions must lie within 10 % of one.
        """
        same = self.same_twice(scale, metric)
        if not same.exists:
            return "no A/A pair was timed"
        if same.ci_low > 1 / AA_BAND and same.ci_high < AA_BAND:
            return ""
        ends = f"{same.effect:.2f} [{same.ci_low:.2f}, {same.ci_high:.2f}]"
        return f"timing too noisy: A/A {ends}"

    def gated(self, found: Finding) -> Finding:
        """A finding on quality; not tested where a trained model fails a gate."""
        return found if self.gates is None else self.gates.gated(found)

    def maximum(self, metric: str) -> Estimate:
        """The largest value of a metric over all models and seeds, without interval."""
        values = self.results.by_seed
        values = values.loc[values["metric"] == metric, "value"]
        asked = Comparison("all models", metric=metric, kind="maximum")
        if values.empty:
            return Estimate.missing(asked)
        nan = float("nan")
        found = {"effect": float(values.max()), "ci_low": nan, "ci_high": nan}
        method = {"replicates": "runs", "n": len(values), "method": "maximum"}
        return self.keep(Estimate.of(asked, **(found | method)))

    def exact_forms(self, tolerance: dict[str, float], without: str) -> Finding:
        """Whether another form of the same function stays within tolerances.

        `tolerance` has two metrics: the largest error of fp64 in logits, and of fp32,
        relative. `without` is the note where neither was measured.
        """
        errors = {metric: self.maximum(metric) for metric in tolerance}
        nan = float("nan")
        if not all(error.exists for error in errors.values()):
            return Finding(nan, nan, nan, nan, nan, "not tested", without)
        fine = all(errors[metric].effect < due for metric, due in tolerance.items())
        double, single = errors.values()
        note = f"fp32, relative: {single.effect:.1e}; whole sequences and cache, "
        return Finding(
            *(double.effect, nan, nan, nan, tolerance[double.metric]),
            "supported" if fine else "not supported",
            note + "trained weights",
        )

    # --- models that many claims are about ---

    @property
    def shallow(self) -> int:
        """The study's smallest depth."""
        return self.study.depths[0]

    @property
    def deep(self) -> int:
        """The study's largest depth."""
        return self.study.depths[-1]

    def at_steps(self, variant: str, depth: int, share: float) -> str | None:
        """The model trained for a share of the usual steps, on its own schedule."""
        plain = ModelName(variant, depth)
        if str(plain) not in self.study.models or share == 1:
            return str(plain) if str(plain) in self.study.models else None
        steps = round(share * self.study.spec(str(plain), 0).training.steps)
        label = str(plain.replace(steps=steps))
        return label if label in self.study.models else None


@dataclass(frozen=True)
class Fact:
    """A number of the text that is no estimate: a count, a size, a share.

    Facts make `facts.csv` (key, value, unit), where `reporting` looks them up.
    """

    key: str  # "<topic>.<what>"
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """What a source says, and how we judge it."""

    id: str
    claim: str
    unit: str
    judge: Callable[[Context], Finding]
    source: str = "S1"
    kind: Kind = "quality"
    scale: str = "study"
    weights: Weights = "trained"
    registered: str = ""  # "pre-registered" for a contrast of the configuration
    timed: bool = False  # of one model, whose times are compared
    has_margin: bool = False  # whose sensitivity is shown: half and double of it

    def row(self, context: Context) -> dict[str, Any]:
        """Its row of claims.csv."""
        timed = self.scale == "study" or context.study.timed_checkpoint
        own = self.source in ON_CHECKPOINTS and timed and bool(context.study.scored)
        judged = self.weights != "trained" or own or bool(context.study.models)
        found = self._judged(context, own) if judged else absent("trained models")
        row = {key: getattr(self, key) for key in COLUMNS if hasattr(self, key)}
        if own:
            row |= {"scale": "pretrained", "weights": "pretrained"}
            found = replace(found, note=joined(found.note, self._whose(context)))
        row |= {key: getattr(found, key) for key in COLUMNS if hasattr(found, key)}
        for name, factor in (("half", 0.5), ("double", 2.0)):
            other, shown = replace(context, factor=factor), self.has_margin and judged
            again = self._judged(other, own).verdict if shown else ""
            row[f"verdict_{name}_margin"] = again
        return {key: row[key] for key in COLUMNS}

    def _judged(self, context: Context, own: bool) -> Finding:
        """The finding, if models pass the gates and times are precise enough."""
        found = self.judge(context)
        if self.kind == "quality" and self.weights == "trained" and not own:
            found = context.gated(found)
        if found.verdict == "not tested" or not (self.kind == "cost" or self.timed):
            return found
        first = self.source == "S4"
        metric = "time_to_first_token" if first else "time_per_output_token"
        why = context.too_noisy("pretrained" if own else self.scale, metric)
        if not why:
            return found
        return replace(found, verdict="not tested", note=joined(why, found.note))

    def _whose(self, context: Context) -> str:
        """Of which checkpoint a verdict is; costs are those of the first one."""
        study = context.study
        if study.pooled and not self.timed:
            return f"over {len(study.pretrained.chosen)} checkpoints"
        return f"of {study.timed_on} alone"


def scaled(found: Finding, factor: float) -> Finding:
    """The same in another unit: effect, interval and threshold times a factor."""
    keys = ("effect", "ci_low", "ci_high", "threshold")
    return replace(found, **{key: factor * getattr(found, key) for key in keys})


def divided(found: Estimate, by: float) -> Estimate:
    """An estimate over a constant, as a measured ratio over the predicted one."""
    keys = ("effect", "ci_low", "ci_high")
    return replace(found, **{key: getattr(found, key) / by for key in keys})


def judged(claims: Iterable[Claim], context: Context) -> list[dict[str, Any]]:
    """Rows of claims.csv."""
    rows = []
    for claim in claims:
        context.role = "contrast" if claim.registered else "claim"
        rows.append(claim.row(context))
    context.role = "exploratory"
    return rows
