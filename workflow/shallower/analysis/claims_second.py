"""The claims of the second system: the thesis of Lee (specs S2.9)."""

from __future__ import annotations

from shallower.analysis.claim import Claim, absent
from shallower.analysis.claims_ffn import (
    collapses,
    costs_quality,
    expansion_matters,
    faster_without,
    longer_is_better,
    smaller_teacher_is_steadier,
    teacher_helps,
)
from shallower.analysis.claims_t5 import (
    parameter_column,
    three_over_one,
    without_ffn,
)

SECOND = [
    Claim("S2-1", "a chain of matrices collapses exactly", "logits", collapses, "S2"),
    Claim("S2-2", "without FFNs decoding is faster", "ratio", faster_without, "S2"),
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
    Claim(
        "S2-9",
        "the thesis' parameter counts follow from its sizes",
        "rows that do not fit",
        parameter_column,
        "S2",
    ),
    Claim("S2-10", "T5: without FFNs accuracy is lost", "points", without_ffn, "S2"),
    Claim("S2-11", "T5: 3W is better than 1W", "points", three_over_one, "S2"),
    Claim(
        "S2-12",
        "T5: a long linear warm-up makes bad runs rarer",
        "runs",
        lambda evidence: absent("two schedules with enough seeds"),
        "S2",
    ),
]
