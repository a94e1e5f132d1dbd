"""Claims about time: C7 (decoding) and C10 (training)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from shallower.analysis.evidence import PER_TOKEN, Evidence
from shallower.analysis.statistics import ratio_interval
from shallower.analysis.verdicts import (
    Finding,
    conjunction,
    ratio_within,
    superiority,
)

# Below 1.15 nobody would call it much faster; above 1.65 neither the weights read
# (1.395) nor the number of calls (8/5) explain it.
PLAUSIBLE = (1.15, 1.65)
OVERHEAD = 1.1  # of a training step, proposed over baseline


def faster_than_deeper(evidence: Evidence) -> Finding:
    """C7: time a token of the deepest baseline over the shallowest proposed model.

    At the paper's own size and as the original trained it; folded in the note.
    """
    depths = evidence.study.paper_scale.depths
    deep, shallow = f"baseline-{depths[-1]}", f"proposed-{depths[0]}"
    found = {form: decode_ratio(evidence, deep, shallow, form) for form in FORMS}
    trained = ratio_within(*found["trained"], PLAUSIBLE)
    ratio, low, high = found["folded"]
    note = f"folded {ratio:.2f} [{low:.2f}, {high:.2f}]"
    return replace(trained, note=f"{trained.note}; {note}" if trained.note else note)


FORMS = ("trained", "folded")


def decode_ratio(
    evidence: Evidence, slow: str, fast: str, form: str, scale: str = "paper"
) -> tuple[float, float, float]:
    """Ratio of times a token with its interval over sessions; `fast` in a form."""
    a = evidence.values(slow, *PER_TOKEN, scale=scale)
    b = evidence.values(fast, *PER_TOKEN, scale=scale, form=form)
    a, b = a.align(b, join="inner")
    if a.empty:
        return float("nan"), float("nan"), float("nan")
    return ratio_interval(a.to_numpy(), b.to_numpy())


def step_times(evidence: Evidence) -> Finding:
    """C10: a training step takes longer with each block, and little with the layer."""
    depths = evidence.study.depths

    def times(model: str) -> np.ndarray:
        return evidence.values(model, "step", "step_time").to_numpy()

    layer = [
        ratio_interval(times(f"proposed-{d}"), times(f"baseline-{d}")) for d in depths
    ]
    parts = [ratio_within(*ratio, (0.0, OVERHEAD)) for ratio in layer]
    grows = [
        superiority(times(f"{variant}-{b}") - times(f"{variant}-{a}"), False)
        for variant in ("baseline", "proposed")
        for a, b in pairwise(depths)
    ]
    verdict = conjunction([*parts, *grows]).verdict
    shown = conjunction(parts)
    monotone = sum(part.verdict == "supported" for part in grows)
    cheap = sum(part.verdict == "supported" for part in parts)
    note = (
        f"a block more takes longer in {monotone} of {len(grows)} steps of depth; "
        f"the layer costs less than {100 * (OVERHEAD - 1):.0f} % at {cheap} of "
        f"{len(parts)} depths"
    )
    return replace(shown, verdict=verdict, note=note)
