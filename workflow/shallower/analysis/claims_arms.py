"""What the claims on skipping and on elimination share: arms, sizes, ratios."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from shallower.analysis.evidence import Evidence
from shallower.analysis.statistics import ratio_interval
from shallower.names import ModelName, parse_name

SCORED = ("continuation", "cross_entropy")
WITHIN = (0.85, 1.15)  # measured over predicted
Ratio = tuple[float, float, float]  # with its interval


def joined(*notes: str) -> str:
    """Those that say something, in one line."""
    return "; ".join(note for note in notes if note)


def whole(evidence: Evidence) -> str:
    """The model that arms stand over: the deepest baseline."""
    return f"baseline-{evidence.deep}"


def difference(evidence: Evidence, left: str, right: str) -> np.ndarray:
    """left - right in the cross-entropy of continuations, nats, by seed."""
    return evidence.paired(left, right, *SCORED)


def paper_sizes(evidence: Evidence) -> dict[str, Any]:
    """The deepest baseline of the paper's size, as a run's specification holds it."""
    sizes = evidence.study.paper_scale.model_dump(exclude={"depths"}, exclude_none=True)
    depth = evidence.study.paper_scale.depths[-1]
    return sizes | {"depth": depth, "head": {}}


def timed_arms(
    evidence: Evidence, option: str, dataset: str, scale: str = "paper"
) -> Iterator[tuple[str, ModelName]]:
    """Arms over that scale's deepest baseline that were timed, with their names."""
    units, depth = evidence.units, evidence.deep
    if scale == "paper":
        depth = evidence.study.paper_scale.depths[-1]
    rows = units[(units["scale"] == scale) & (units["dataset"] == dataset)]
    prefix = f"baseline-{depth}__{option}="
    for model in rows["model"].unique():
        name = parse_name(model) if model.startswith(prefix) else None
        if name is not None and set(name.options) == {option}:
            yield model, name


def time_ratio(
    evidence: Evidence, slow: str, fast: str, dataset: str, metric: str, scale: str
) -> Ratio:
    """Ratio of two models' times with its interval over sessions; NaN without any."""
    a, b = (evidence.values(m, dataset, metric, scale=scale) for m in (slow, fast))
    a, b = a.align(b, join="inner")
    if a.empty:
        return float("nan"), float("nan"), float("nan")
    return ratio_interval(a.to_numpy(), b.to_numpy())


def over(ratio: Ratio, predicted: float) -> Ratio:
    """A measured ratio over what was predicted."""
    value, low, high = (part / predicted for part in ratio)
    return value, low, high
