"""Claims of S2 on decoders: other feed-forward layers, and distillation (specs S2.9).

The thesis of Lee is about T5 on a classification; these are its claims about what the
FFN and a teacher do, applied to our decoders. Claims on T5 itself are in `t5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy import stats

from shallower.analysis.claims.base import Claim, Context, Fact, plain
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.results import original_names
from shallower.analysis.statistics import LEVEL, Values
from shallower.analysis.verdicts import (
    ABSENT,
    NAN,
    Finding,
    absent,
    conjunction,
    superiority,
    within,
)
from shallower.study.names import DISTILLED, ModelName
from shallower.study.study import Study

COLLAPSE_TOLERANCE = {"collapse_error_float64": 1e-10, "collapse_error_float32": 1e-4}
CHAINS = ("three_matrices", "two_matrices", "one_matrix")  # longest first
LEAST_SEEDS = 5  # for a statement about spread
ENOUGH = 2.0  # the expansion that the thesis calls sufficient


def collapses(context: Context) -> Finding:
    """S2-1: the largest change of a logit by collapsing, over all trained chains."""
    return context.exact_forms(COLLAPSE_TOLERANCE, f"trained chains: not {ABSENT}")


def faster_without(context: Context) -> Finding:
    """S2-2: leaving out every FFN makes decoding faster, at the original's size."""
    deep = context.study.original.depths[-1]
    sides = plain("baseline", deep), plain("none", deep)
    ratio = context.ratio(
        *sides, dataset="fixed", metric="time_per_output_token", scale="original"
    )
    if not ratio.exists:
        return absent("none")
    baseline, none = (
        context.results.size(label, "parameters_trained", "original") for label in sides
    )
    note = f"{100 * (1 - none / baseline):.0f} % fewer parameters"
    return replace(within(ratio, (1.0, np.inf), threshold=1.0), note=note)


def costs_quality(context: Context) -> Finding:
    """S2-3: without FFNs the test cross-entropy is higher (the thesis loses 2.7)."""
    pairs = [
        pair
        for pair in context.study.pairs["ffn"]
        if (name := context.study.models[pair[0]]).variant == "none"
        and not name.options
    ]
    if not pairs:
        return absent("none")
    return conjunction(
        [superiority(context.difference(*pair), False) for pair in pairs]
    )


def longer_is_better(context: Context) -> Finding:
    """S2-4: 3W < 2W < 1W in test cross-entropy, although deployed they are one size.

    Where two matrices were not trained, three against one.
    """
    models = context.study.models
    depths = [name.depth for name in models.values() if name.variant == "one_matrix"]
    chains = [plain(chain, max(depths, default=0)) for chain in CHAINS]
    trained = [chain for chain in chains if chain in models]
    if len(trained) < 2:
        return absent("chains of several lengths")
    pairs = list(pairwise(trained))
    parts = [superiority(context.difference(*pair)) for pair in pairs]
    notes = "; ".join(
        f"{a} - {b}: {part.effect:+.3f} [{part.ci_low:.3f}, {part.ci_high:.3f}]"
        for (a, b), part in zip(pairs, parts, strict=True)
    )
    return replace(conjunction(parts), note=notes)


def expansion_matters(context: Context) -> Finding:
    """S2-5: chains narrower than twice the width are worse than the widest one."""
    by_ratio = {
        float(name.options.get("ratio", 4)): model
        for model, name in context.study.models.items()
        if name.variant == "three_matrices" and set(name.options) <= {"ratio"}
    }
    narrow = sorted(ratio for ratio in by_ratio if ratio < ENOUGH)
    if not narrow or max(by_ratio) < ENOUGH:
        return absent("chains of several widths")
    widest = by_ratio[max(by_ratio)]
    return conjunction(
        [
            superiority(context.difference(by_ratio[ratio], widest), False)
            for ratio in narrow
        ]
    )


# --- distillation ---------------------------------------------------------------------


def teacher_helps(family: str) -> Callable[[Context], Finding]:
    """S2-6, S2-7: every student is better than its control of the same family.

    Where its teacher is better than the student alone, at equal tokens: else there is
    nothing to teach, and nothing is tested.
    """

    def judge(context: Context) -> Finding:
        pairs = [
            pair
            for pair in context.study.pairs[family]
            # Oneself as a teacher is the control for what a teacher knows.
            if not self_taught(context.study.models[pair[0]])
        ]
        if not pairs:
            return absent("distillation")
        alone = dict(context.study.pairs["equal_tokens"])
        parts = []
        for student, control in pairs:
            part = superiority(context.difference(student, control))
            teacher = context.study.models[student].teacher
            assert teacher is not None
            knows = superiority(context.difference(teacher, alone[student]))
            if knows.verdict != "supported" and part.verdict != "not tested":
                note = "its teacher is no better than the student alone"
                part = replace(part, verdict="not tested", note=note)
            parts.append(part)
        better = sum(part.verdict == "supported" for part in parts)
        note = f"{better} of {len(parts)} students are better, beyond the interval"
        blind = sum("teacher" in part.note for part in parts)
        if blind:
            note += f"; of {blind} the teacher is no better than the student alone"
        return replace(conjunction(parts), note=note)

    return judge


def self_taught(student: ModelName) -> bool:
    """Whether a student's teacher is the same model without a teacher."""
    return str(student.without(*DISTILLED)) == student.options["teacher"]


def smaller_teacher_is_steadier(context: Context) -> Finding:
    """S2-8: under the smaller of two teachers the seeds are closer together."""
    students = _teachers(context)
    if students is None:
        return absent("two teachers of one student")
    spread = context.keep(spread_ratio(context, *students))
    note = f"{students[0]} over {students[1]}"
    if spread.n < LEAST_SEEDS:
        note = f"fewer than {LEAST_SEEDS} seeds; {note}"
        judged = within(spread, (0.0, 1.0), threshold=1.0)
        return replace(judged, verdict="not tested", note=note)
    return replace(within(spread, (0.0, 1.0), threshold=1.0), note=note)


def spread_ratio(context: Context, left: str, right: str) -> Estimate:
    """Standard deviation of left's seeds over right's, taken as normal.

    The interval is that of the F distribution.
    """
    comparison = Comparison(left, right, kind="spread")
    a, b = (
        context.results.values(label, "text", "cross_entropy").dropna().to_numpy()
        for label in (left, right)
    )
    ratio, low, high = spread_interval(a, b)
    return Estimate.of(
        comparison,
        replicates="seeds",
        n=min(len(a), len(b)),
        effect=ratio,
        ci_low=low,
        ci_high=high,
        method="ratio of standard deviations, F distribution",
    )


def spread_interval(a: Values, b: Values) -> tuple[float, float, float]:
    """The ratio of the standard deviations of two samples, and its interval's ends."""
    if min(len(a), len(b)) < 2:
        return NAN, NAN, NAN
    ratio = float(np.std(a, ddof=1) / np.std(b, ddof=1))
    freedom = (len(a) - 1, len(b) - 1)
    low, high = (
        ratio / np.sqrt(stats.f.ppf(tail, *freedom))
        for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    return ratio, float(low), float(high)


def _teachers(context: Context) -> tuple[str, str] | None:
    """One student under its smallest and its largest teacher that is not itself."""
    by_student: dict[str, dict[int, str]] = {}
    for model in context.study.students:
        name = context.study.models[model]
        if not self_taught(name) and name.teacher is not None:
            depth = context.study.models[name.teacher].depth
            student = str(name.without("teacher"))
            by_student.setdefault(student, {})[depth] = model
    for taught in by_student.values():
        if len(taught) > 1:
            return taught[min(taught)], taught[max(taught)]
    return None


# --- what tables and text show --------------------------------------------------------


def comparisons(study: Study) -> Iterator[Comparison]:
    """Time per token of every model with another FFN, as deployed, at both scales."""
    sides = dict.fromkeys(side for pair in study.pairs["ffn"] for side in pair)
    for label in sides:
        yield decoding_time(label, "study")
    deep = study.original.depths[-1]
    for label, name in original_names(study).items():
        if name.ffn != "default" or label == plain("baseline", deep):
            yield decoding_time(label, "original")


def decoding_time(label: str, scale: str) -> Comparison:
    """The mean time per token of a model in the last form that was measured."""
    place = ("fixed", "time_per_output_token")
    return Comparison(label, "", *place, "level", scale, "deployed")


def decoding_flops(context: Context, label: str) -> float:
    """FLOPs of a token of the workload that is timed (`fixed`), as deployed.

    parameters.csv has them of a full context, of which each block that attends takes
    four per number in a cached token's heads: scores, and the sum of the values.
    """
    study, fixed = context.study, context.study.latency.study
    cached = fixed.prompt_tokens + fixed.new_tokens / 2
    full = context.results.size(label, "flops_per_token_deployed")
    blocks = context.results.size(label, "attending_blocks")
    inner = study.spec(label, study.seeds_of(label)[0]).model.inner
    return float(full - 4 * blocks * inner * (study.model.context - cached))


def facts(context: Context) -> Iterator[Fact]:
    """Counts of models; what smaller FFNs save; what a teacher costs in training."""
    study, results = context.study, context.results
    yield Fact("ffn.models", len(study.pairs["ffn"]))
    yield Fact("ffn.students", len(study.students))
    base = plain("baseline", study.original.depths[-1])
    whole = results.size(base, "parameters_trained", "original")
    for label, name in original_names(study).items():
        if name.ffn != "default":
            deployed = results.size(label, "parameters_deployed", "original")
            key = f"ffn.original.{name.ffn}.less"
            yield Fact(key, 100 * (1 - deployed / whole), "percent")
    for label in dict.fromkeys(side for pair in study.pairs["ffn"] for side in pair):
        yield Fact(f"ffn.decoding.{label}", decoding_flops(context, label), "FLOPs")
    for label, alone in study.pairs["equal_tokens"]:
        flops, without = (
            results.training(model, study.seeds_of(model)[0])["flops"]
            for model in (label, alone)
        )
        yield Fact(f"ffn.flops.{label}", flops / without, "ratio")


CLAIMS = [
    Claim(
        "S2-1",
        "a chain of matrices collapses exactly",
        "logits",
        collapses,
        "S2",
        "identity",
    ),
    Claim(
        "S2-2",
        "without FFNs decoding is faster",
        "ratio",
        faster_without,
        *("S2", "cost", "original", "untrained"),
    ),
    Claim("S2-3", "without FFNs quality is lost", "nats", costs_quality, "S2"),
    Claim(
        "S2-4",
        "longer chains train to a better network of one size",
        "nats",
        longer_is_better,
        "S2",
    ),
    Claim(
        "S2-5",
        "a chain needs at least twice the width inside",
        "nats",
        expansion_matters,
        "S2",
    ),
    Claim(
        "S2-6",
        "a teacher helps, at equal tokens",
        "nats",
        teacher_helps("equal_tokens"),
        "S2",
    ),
    Claim(
        "S2-7",
        "a teacher helps, at equal training FLOPs",
        "nats",
        teacher_helps("equal_flops"),
        "S2",
    ),
    Claim(
        "S2-8",
        "a smaller teacher gives a smaller spread",
        "ratio",
        smaller_teacher_is_steadier,
        "S2",
    ),
]
