"""Claims of the second system: FFN simplification and distillation (specs S2.9).

The thesis is about T5 on a classification; these are its claims about what the FFN and
a teacher do, put to our decoder family. What T5 itself says is in `claims_t5`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy import stats

from shallower.analysis.claim import absent
from shallower.analysis.claims_speed import decode_ratio
from shallower.analysis.evidence import Evidence
from shallower.analysis.statistics import LEVEL
from shallower.analysis.verdicts import (
    Finding,
    conjunction,
    ratio_within,
    superiority,
)
from shallower.expansion import TAUGHT, teacher_name

NAN = float("nan")
COLLAPSE_TOLERANCE = {"collapse_error_float64": 1e-10, "collapse_error_float32": 1e-4}
LEAST_SEEDS = 5  # for a statement about spread
ENOUGH = 2.0  # the expansion that the thesis calls sufficient


def collapses(evidence: Evidence) -> Finding:
    """S2-1: the largest change of a logit by collapsing, over all trained chains."""
    return exact_forms(evidence, COLLAPSE_TOLERANCE, "no trained model collapses")


def exact_forms(
    evidence: Evidence, tolerance: dict[str, float], without: str
) -> Finding:
    """Whether a form's largest errors, fp64 in logits and fp32 relative, are small."""
    table, largest = evidence.units, {}
    for metric in tolerance:
        rows = table[table["metric"] == metric]
        largest[metric] = rows["value"].max() if len(rows) else NAN
    if any(np.isnan(value) for value in largest.values()):
        return Finding(NAN, NAN, NAN, NAN, "not tested", without)
    fine = all(largest[metric] < due for metric, due in tolerance.items())
    double, single = largest
    return Finding(
        largest[double],
        NAN,
        NAN,
        tolerance[double],
        "supported" if fine else "not supported",
        f"fp32, relative: {largest[single]:.1e}; whole sequences and cache, "
        "trained weights",
    )


def faster_without(evidence: Evidence) -> Finding:
    """S2-2: leaving out every FFN makes decoding faster, at the paper's size."""
    deep = evidence.study.paper_scale.depths[-1]
    found = decode_ratio(evidence, f"baseline-{deep}", f"none-{deep}", "trained")
    if np.isnan(found[0]):
        return absent("none")
    weights = [
        evidence.parameter_count(f"{variant}-{deep}", "paper")
        for variant in ("none", "baseline")
    ]
    less = 100 * (1 - weights[0] / weights[1])
    judged = ratio_within(*found, (1.0, np.inf))
    return replace(judged, threshold=1.0, note=f"{less:.0f} % fewer parameters")


def costs_quality(evidence: Evidence) -> Finding:
    """S2-3: without FFNs the test cross-entropy is higher (the thesis loses 2.7)."""
    names = plain(evidence, "none")
    if not names:
        return absent("none")
    parts = [superiority(evidence.paired(m, base), False) for m, base in names]
    return conjunction(parts)


def longer_is_better(evidence: Evidence) -> Finding:
    """S2-4: 3W < 2W < 1W in test cross-entropy, although deployed they are one size.

    Where two matrices were not trained, three against one.
    """
    order = ("three_matrices", "two_matrices", "one_matrix")
    depth = _depth(evidence, "one_matrix")
    models = [f"{name}-{depth}" for name in order]
    there = [model for model in models if model in evidence.study.models]
    if len(there) < 2:
        return absent("chains of several lengths")
    pairs = list(pairwise(there))
    parts = [superiority(evidence.paired(*pair)) for pair in pairs]
    notes = "; ".join(
        f"{a} - {b}: {part.effect:+.3f} [{part.ci_low:.3f}, {part.ci_high:.3f}]"
        for (a, b), part in zip(pairs, parts, strict=True)
    )
    return replace(conjunction(parts), note=notes)


def expansion_matters(evidence: Evidence) -> Finding:
    """S2-5: chains narrower than twice the width are worse than the widest one."""
    study = evidence.study
    by_ratio = {
        float(name.options.get("ratio", 4)): model
        for model, name in study.models.items()
        if name.variant == "three_matrices" and set(name.options) <= {"ratio"}
    }
    narrow = [ratio for ratio in by_ratio if ratio < ENOUGH]
    if not narrow or max(by_ratio) < ENOUGH:
        return absent("chains of several widths")
    widest = by_ratio[max(by_ratio)]
    parts = [
        superiority(evidence.paired(by_ratio[r], widest), lower_is_better=False)
        for r in sorted(narrow)
    ]
    return conjunction(parts)


def teacher_helps(family: str) -> Callable[[Evidence], Finding]:
    """S2-6, S2-7: every student is better than its control of the same family."""

    def judge(evidence: Evidence) -> Finding:
        pairs = evidence.study.families[family]
        # Oneself as a teacher is the control for what a teacher knows.
        pairs = [pair for pair in pairs if not self_taught(evidence, pair[0])]
        if not pairs:
            return absent("distillation")
        parts = [superiority(evidence.paired(*pair)) for pair in pairs]
        better = sum(part.verdict == "supported" for part in parts)
        note = f"{better} of {len(parts)} students are better, beyond the interval"
        return replace(conjunction(parts), note=note)

    return judge


def self_taught(evidence: Evidence, model: str) -> bool:
    """Whether a student's teacher is the same model without a teacher."""
    name = evidence.study.models[model]
    alone = name.without(*TAUGHT)
    return str(alone) == name.options["teacher"]


def smaller_teacher_is_steadier(evidence: Evidence) -> Finding:
    """S2-8: under the smaller of two teachers the seeds lie closer together.

    Ratio of standard deviations, smaller over larger teacher, with the interval of
    the F distribution, which takes the seeds' means as normal.
    """
    pairs = _teachers(evidence)
    if pairs is None:
        return absent("two teachers of one student")
    small, large = (
        evidence.values(model, "text", "cross_entropy").dropna() for model in pairs
    )
    ratio, low, high = spread_ratio(small.to_numpy(), large.to_numpy())
    note = f"{pairs[0]} over {pairs[1]}"
    if min(len(small), len(large)) < LEAST_SEEDS:
        fewer = f"fewer than {LEAST_SEEDS} seeds; {note}"
        return Finding(ratio, low, high, 1.0, "not tested", fewer)
    return replace(ratio_within(ratio, low, high, (0.0, 1.0)), threshold=1.0, note=note)


def spread_ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high) of two standard deviations (ddof 1), by the F distribution."""
    if min(len(a), len(b)) < 2:
        return NAN, NAN, NAN
    ratio = float(np.std(a, ddof=1) / np.std(b, ddof=1))
    freedom = (len(a) - 1, len(b) - 1)
    tails = [(1 + LEVEL) / 2, (1 - LEVEL) / 2]
    low, high = (ratio / np.sqrt(stats.f.ppf(tail, *freedom)) for tail in tails)
    return ratio, float(low), float(high)


def plain(evidence: Evidence, variant: str) -> list[tuple[str, str]]:
    """(model, baseline of its depth) of an FFN variant in all blocks."""
    return [
        pair
        for pair in evidence.study.families["ffn"]
        if evidence.study.models[pair[0]].variant == variant
        and not evidence.study.models[pair[0]].options
    ]


def _depth(evidence: Evidence, variant: str) -> int:
    depths = [
        name.depth for name in evidence.study.models.values() if name.variant == variant
    ]
    return max(depths, default=0)


def _teachers(evidence: Evidence) -> tuple[str, str] | None:
    """One student under the smallest and the largest teacher that is not itself."""
    by_student: dict[str, dict[int, str]] = {}
    for model in evidence.study.students:
        name = evidence.study.models[model]
        if not self_taught(evidence, model):
            depth = teacher_name(name).depth
            by_student.setdefault(str(name.without("teacher")), {})[depth] = model
    for found in by_student.values():
        if len(found) > 1:
            return found[min(found)], found[max(found)]
    return None
