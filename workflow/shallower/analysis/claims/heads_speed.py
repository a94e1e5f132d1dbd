"""Claims about time: C7 (decoding) and C10 (training)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from shallower.analysis.claims.base import Context, plain
from shallower.analysis.estimates import Estimate
from shallower.analysis.verdicts import (
    Finding,
    conjunction,
    joined,
    superiority,
    within,
)

# Below 1.15 nobody would call it much faster; above 1.65 neither the weights read
# (1.395) nor the number of calls (8/5) explain it.
PLAUSIBLE = (1.15, 1.65)
OVERHEAD = 1.1  # of a training step, proposed over baseline
PER_TOKEN: dict[str, Any] = {"dataset": "fixed", "metric": "time_per_output_token"}
STEP: dict[str, Any] = {"dataset": "step", "metric": "step_time"}


def faster_than_deeper(context: Context) -> Finding:
    """C7: time per token of the deepest baseline over the shallowest proposed model.

    At the original's size, with untrained weights in the form that was trained; folded,
    and at the study's own size, in the note.
    """
    depths, own = context.study.original.depths, context.study.depths
    sides = plain("baseline", depths[-1]), plain("proposed", depths[0])
    trained, folded = (
        context.ratio(*sides, **PER_TOKEN, scale="original", form=form)
        for form in ("trained", "folded")
    )
    judged = within(trained, PLAUSIBLE)
    notes = ["original size, untrained weights", f"folded {shown(folded)}"]
    if context.study.models:
        small = plain("baseline", own[-1]), plain("proposed", own[0])
        notes.append(f"at the study's size {shown(context.ratio(*small, **PER_TOKEN))}")
    return replace(judged, note=joined(judged.note, *notes))


def shown(found: Estimate) -> str:
    """A ratio with its interval, if it has one: `1.40 [1.35, 1.45]`."""
    interval = f" [{found.ci_low:.2f}, {found.ci_high:.2f}]" if found.n > 1 else ""
    return f"{found.effect:.2f}{interval}"


def step_times(context: Context) -> Finding:
    """C10: a training step takes longer with each block, and little with the layer."""
    depths = context.study.depths
    ratios = [
        context.ratio(plain("proposed", depth), plain("baseline", depth), **STEP)
        for depth in depths
    ]
    parts = [within(ratio, (0.0, OVERHEAD)) for ratio in ratios]
    grows = [
        superiority(
            context.difference(plain(variant, high), plain(variant, low), **STEP),
            lower_is_better=False,
        )
        for variant in ("baseline", "proposed")
        for low, high in pairwise(depths)
    ]
    verdict = conjunction([*parts, *grows]).verdict
    slower = sum(part.verdict == "supported" for part in grows)
    cheap = sum(part.verdict == "supported" for part in parts)
    note = (
        f"the deeper model takes longer in {slower} of {len(grows)} steps of depth; "
        f"the layer costs less than {100 * (OVERHEAD - 1):.0f} % at {cheap} of "
        f"{len(parts)} depths"
    )
    return replace(conjunction(parts), verdict=verdict, note=note)
