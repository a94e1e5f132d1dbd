"""Verdicts on claims: one rule, fixed before the data were seen, for every claim.

A claim says that an effect lies in a region: below 0 (superiority), within +-margin
(equivalence), below a margin (non-inferiority), between two ratios. It is supported if
the effect's interval lies inside the region, not supported if it lies outside, and
inconclusive if it reaches across. Too few seeds, or a value that is missing or not
finite (a run that diverged must not drop out), make it not tested.

Levels: superiority takes the two-sided 95 % interval, so a null effect is called
supported in 2.5 %. Equivalence and non-inferiority are one-sided tests at .05, thus
the two-sided 90 % interval (whose bounds are one-sided 95 % bounds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shallower.analysis.statistics import LEVEL, Values, t_interval

Verdict = Literal["supported", "not supported", "inconclusive", "not tested"]

# 90 %: two one-sided tests at .05 are an interval at 1 - 2 * .05.
ONE_SIDED = 2 * LEVEL - 1


@dataclass(frozen=True)
class Finding:
    """An effect with its interval, what it was held against, and what came of it.

    `room` is the distance from the effect to the edge of the claimed region, in half
    widths of the interval: 1 or more inside, -1 or less outside, NaN if there is none.
    It has no unit, so it orders findings by how well they bear out their claims.
    """

    effect: float
    ci_low: float
    ci_high: float
    threshold: float
    verdict: Verdict
    note: str = ""
    room: float = float("nan")


# --- single claims ------------------------------------------------------------------


def superiority(
    differences: Values, lower_is_better: bool = True, level: float = LEVEL
) -> Finding:
    """left - right, seed by seed: left is better, that is, the interval excludes 0.

    In a Holm family, `level` comes from `holm_levels`.
    """
    region = (-np.inf, 0.0) if lower_is_better else (0.0, np.inf)
    return _over_seeds(differences, region, level, threshold=0.0)


def equivalence(differences: Values, margin: float) -> Finding:
    """The mean difference lies within +-margin: two one-sided tests at .05.

    ValueError if the margin is not positive; not tested if it is NaN, unmeasured.
    """
    _check_margin(margin)
    return _over_seeds(differences, (-margin, margin), ONE_SIDED, margin)


def non_inferiority(
    differences: Values,
    margin: float,
    assay: bool | Sequence[np.ndarray],
    lower_is_better: bool = True,
) -> Finding:
    """left - right, seed by seed: left is worse by less than `margin` (one-sided .05).

    The upper bound of the 90 % interval (a one-sided 95 % bound) is below the margin;
    where higher is better, the lower bound is above -margin, the threshold then. The
    regulatory habit of .025 would be the 95 % interval; here non-inferiority is held
    to the same .05 as equivalence, whose one half it is.

    `assay` is whether the data can tell models apart at all, or the paired differences
    that decide it (see `assay_holds`). Without that sensitivity nothing was tested,
    whichever way the interval lies. ValueError if the margin is not positive.
    """
    _check_margin(margin)
    region = (-np.inf, margin) if lower_is_better else (-margin, np.inf)
    threshold = margin if lower_is_better else -margin
    found = _over_seeds(differences, region, ONE_SIDED, threshold)
    if not isinstance(assay, bool | np.bool_):
        # all() of nothing is True: no assay is no sensitivity.
        checks = [assay_holds(worse, margin, lower_is_better) for worse in assay]
        assay = bool(checks) and all(checks)
    if assay or found.verdict == "not tested":
        return found
    return replace(found, verdict="not tested", note="no assay sensitivity")


def assay_holds(
    differences: np.ndarray, margin: float, lower_is_better: bool = True
) -> bool:
    """Whether a comparison that ought to differ does, from worse - better by seed.

    The worse model must be worse (95 % interval), and must itself fail the test of
    non-inferiority: else that test would pass anything.
    """
    worse = superiority(differences, not lower_is_better).verdict == "supported"
    passes = non_inferiority(differences, margin, True, lower_is_better)
    return worse and passes.verdict != "supported"


def ratio_within(
    ratio: float, low: float, high: float, bounds: tuple[float, float]
) -> Finding:
    """The ratio's interval lies between two bounds; the nearer one is the threshold."""
    threshold = min(bounds, key=lambda bound: abs(ratio - bound))
    return _find(ratio, (low, high), bounds, threshold)


# --- claims of several parts --------------------------------------------------------


def conjunction(findings: Sequence[Finding]) -> Finding:
    """A claim about each of several parts, by an intersection-union test.

    Supported only if every part is, at the parts' own levels: the chance of a false
    'supported' is at most that of one part, so Holm has no place here (Berger 1982).
    Not supported if any part is not; this verdict has no such bound and errs the more
    often the more parts there are. Otherwise not tested if any part was not, and
    inconclusive if none of these.

    What is shown is the least favourable part: of the parts with the deciding verdict
    the one with the least `room`, or the first one if none has any.
    """
    order = ("not supported", "not tested", "inconclusive", "supported")
    if not findings:
        nan = float("nan")
        return Finding(nan, nan, nan, nan, "not tested", "no part was measured")
    decisive = min((part.verdict for part in findings), key=order.index)
    index = min(
        (i for i, part in enumerate(findings) if part.verdict == decisive),
        key=lambda i: np.nan_to_num(findings[i].room, nan=np.inf),
    )
    shown = findings[index]
    place = f"part {index + 1} of {len(findings)}, the least favourable"
    return replace(shown, note=f"{place}: {shown.note}" if shown.note else place)


def annotated(parts: Sequence[Finding], labels: Sequence[str]) -> Finding:
    """The conjunction, and in its note how each part came out."""
    found = conjunction(parts)
    kinds: dict[str, list[str]] = {}
    for part, label in zip(parts, labels, strict=True):
        reason = f" ({part.note})" if part.note else ""
        kinds.setdefault(part.verdict + reason, []).append(label)
    note = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
    return replace(found, note=note)


# --- the rule -----------------------------------------------------------------------


def _over_seeds(
    differences: Values, region: tuple[float, float], level: float, threshold: float
) -> Finding:
    """The rule applied to the t interval over seeds (see the module)."""
    differences = np.asarray(differences, float)
    effect = float(differences.mean()) if len(differences) else float("nan")
    if len(differences) < 2:
        interval, note = (float("nan"), float("nan")), "fewer than two seeds"
    elif not np.isfinite(differences).all():
        interval, note = (float("nan"), float("nan")), "a seed's value is missing"
    else:
        interval, note = t_interval(differences, level), ""
    return _find(effect, interval, region, threshold, note)


def _find(
    effect: float,
    interval: tuple[float, float],
    region: tuple[float, float],
    threshold: float,
    note: str = "",
) -> Finding:
    """The rule itself: the interval against the open region that is claimed."""
    low, high = interval
    room = float("nan")
    verdict: Verdict = "inconclusive"
    if not np.isfinite([effect, low, high]).all() or np.isnan(region).any():
        verdict, note = "not tested", note or "no interval, or no margin"
    else:
        room = _room(effect, (high - low) / 2, region)
        if region[0] < low and high < region[1]:
            verdict = "supported"
        elif high < region[0] or low > region[1]:
            verdict = "not supported"
    return Finding(effect, low, high, threshold, verdict, note, room)


def _room(effect: float, half: float, region: tuple[float, float]) -> float:
    """From the effect to the region's nearer edge, in half widths; negative outside."""
    distance = min(effect - region[0], region[1] - effect)
    if half > 0:
        return float(distance / half)
    return float(np.copysign(np.inf, distance)) if distance else 0.0


def _check_margin(margin: float) -> None:
    """ValueError unless it is positive; NaN, not measured, passes (not tested)."""
    if margin <= 0:
        raise ValueError(f"a margin is positive, not {margin}")
