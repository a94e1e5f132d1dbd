"""Verdicts on claims: one rule for every claim, with its date in docs/protocol.md.

A claim says that an effect lies in a region: below 0 (superiority), within +-margin
(equivalence), below a margin (non-inferiority), between two ratios. It is supported if
the effect's interval lies inside the region, not supported if it lies outside, and
inconclusive if it reaches across. Too few replicates, or a value that is missing or not
finite (a run that diverged must not drop out), make it not tested.

Levels: superiority takes the two-sided 95 % interval, so a true zero effect is called
supported in 2.5 %. Equivalence and non-inferiority are one-sided tests at .05, thus
the two-sided 90 % interval (whose bounds are one-sided 95 % bounds).

Intervals are looked up as estimates; nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from shallower.analysis.estimates import ONE_SIDED, Estimate

Verdict = Literal["supported", "not supported", "inconclusive", "not tested"]
NAN = float("nan")


@dataclass(frozen=True)
class Finding:
    """An effect with its interval, what it was compared with, and the verdict.

    `standardised_margin` is the distance from the effect to the edge of the claimed
    region, in half widths of the interval: 1 or more inside, -1 or less outside, NaN if
    there is none. It orders findings by how well they support their claims.
    """

    effect: float
    ci_low: float
    ci_high: float
    level: float
    threshold: float
    verdict: Verdict
    note: str = ""
    standardised_margin: float = NAN
    replicates: str = ""
    n: int = 0
    p: float = NAN  # of registered contrasts alone: of no effect, or of no equivalence
    p_holm: float = NAN
    models: tuple[str, ...] = ()  # labels of all that was compared


ABSENT = "in this study"  # ends the note of a claim without models to judge by


def without_models(notes: pd.Series) -> pd.Series:
    """Of the notes of claims, which say that a study has no models to judge."""
    return notes.fillna("").astype(str).str.endswith(ABSENT)


def absent(what: str) -> Finding:
    """Nothing to judge by in this study."""
    note = f"{what}: not {ABSENT}"
    return Finding(NAN, NAN, NAN, NAN, NAN, "not tested", note)


def exact(wrong: int, total: int, what: str) -> Finding:
    """A claim of arithmetic: supported if nothing is wrong."""
    verdict: Verdict = "supported" if not wrong else "not supported"
    note = f"{total - wrong} of {total} {what}"
    return Finding(float(wrong), NAN, NAN, NAN, 0.0, verdict, note)


# --- single claims --------------------------------------------------------------------


def superiority(found: Estimate, lower_is_better: bool = True) -> Finding:
    """Left is better: the interval of left - right (95 %) excludes 0."""
    region = (-np.inf, 0.0) if lower_is_better else (0.0, np.inf)
    return within(found, region, threshold=0.0)


def equivalence(found: Estimate, margin: float) -> Finding:
    """The difference lies within +-margin: two one-sided tests at .05.

    `found` has a 90 % interval. ValueError if the margin is not positive, or the level
    another one; not tested if the margin is NaN, unmeasured.
    """
    _check(found, margin)
    return within(found, (-margin, margin), margin)


def non_inferiority(
    found: Estimate, margin: float, sensitive: bool, lower_is_better: bool = True
) -> Finding:
    """Left is worse than right by less than `margin` (one-sided .05).

    The upper bound of the 90 % interval (a one-sided 95 % bound) is below the margin;
    where higher is better, the lower bound is above -margin.

    `sensitive` is whether the data can tell models apart at all (see `assay`): without
    that nothing was tested, whichever way the interval lies. ValueError as for
    `equivalence`.
    """
    _check(found, margin)
    region = (-np.inf, margin) if lower_is_better else (-margin, np.inf)
    judged = within(found, region, margin if lower_is_better else -margin)
    if sensitive or judged.verdict == "not tested":
        return judged
    return replace(judged, verdict="not tested", note="no assay sensitivity")


def assay(
    worse: Estimate,
    worse_one_sided: Estimate,
    margin: float,
    lower_is_better: bool = True,
) -> bool:
    """Assay sensitivity: whether a comparison that ought to differ does.

    `worse` is worse - better at 95 %, and the same at 90 %. The worse model must be
    worse, and must itself fail the test of non-inferiority: else that test would pass
    anything.
    """
    differs = superiority(worse, not lower_is_better).verdict == "supported"
    passes = non_inferiority(worse_one_sided, margin, True, lower_is_better)
    return differs and passes.verdict != "supported"


def within(
    found: Estimate, region: tuple[float, float], threshold: float | None = None
) -> Finding:
    """The rule itself: the interval against the open region that is claimed.

    The threshold that is shown is the nearer end of the region, unless it is given.
    """
    low, high, effect = found.ci_low, found.ci_high, found.effect
    if threshold is None:
        threshold = min(region, key=lambda bound: abs(effect - bound))
    judged = Finding(
        *(effect, low, high, found.level, threshold, "inconclusive"),
        replicates=found.replicates,
        n=found.n,
        models=(found.left, found.right),
    )
    if not np.isfinite([effect, low, high]).all() or np.isnan(region).any():
        return replace(judged, verdict="not tested", note=_missing(found, region))
    verdict: Verdict = "inconclusive"
    if region[0] < low and high < region[1]:
        verdict = "supported"
    elif high < region[0] or low > region[1]:
        verdict = "not supported"
    margin = _standardised(effect, (high - low) / 2, region)
    return replace(judged, verdict=verdict, standardised_margin=margin)


def _missing(found: Estimate, region: tuple[float, float]) -> str:
    if np.isnan(region).any():
        return "the margin was not measured"
    if found.n == 0:
        return found.note or "not measured"
    if not np.isfinite(found.effect):
        return "a value is missing or not finite"
    return f"fewer than two {found.replicates or 'replicates'}"


def _standardised(effect: float, half: float, region: tuple[float, float]) -> float:
    """From the effect to the region's nearer edge, in half widths; negative outside."""
    distance = min(effect - region[0], region[1] - effect)
    if half > 0:
        return float(distance / half)
    return float(np.copysign(np.inf, distance)) if distance else 0.0


def _check(found: Estimate, margin: float) -> None:
    if margin <= 0:
        raise ValueError(f"a margin is positive, not {margin}")
    if abs(found.level - ONE_SIDED) > 1e-9:
        raise ValueError(f"{found.id}: one-sided tests take the 90 % interval")


# --- claims of several parts ----------------------------------------------------------


def conjunction(
    parts: Sequence[Finding], labels: Sequence[str] | None = None
) -> Finding:
    """A claim about each of several parts, by an intersection-union test.

    Supported only if every part is, at the parts' own levels: the chance of a false
    'supported' is at most that of one part, so Holm has no place here (Berger 1982).
    Not supported if any part is not; this verdict has no such bound and errs the more
    often the more parts there are. Otherwise not tested if any part was not, and
    inconclusive if none of these.

    What is shown is the least favourable part: of the parts with the deciding verdict
    the one with the smallest standardised margin, or the first if none has any. With
    `labels`, the note says how each part came out.
    """
    order = ("not supported", "not tested", "inconclusive", "supported")
    if not parts:
        return Finding(NAN, NAN, NAN, NAN, NAN, "not tested", "no part was measured")
    deciding = min((part.verdict for part in parts), key=order.index)
    index = min(
        (i for i, part in enumerate(parts) if part.verdict == deciding),
        key=lambda i: np.nan_to_num(parts[i].standardised_margin, nan=np.inf),
    )
    models = dict.fromkeys(model for part in parts for model in part.models)
    shown = replace(parts[index], models=tuple(models))
    if labels is not None:
        return replace(shown, note=outcomes(parts, labels))
    place = f"part {index + 1} of {len(parts)}, the least favourable"
    return replace(shown, note=f"{place}: {shown.note}" if shown.note else place)


def outcomes(parts: Sequence[Finding], labels: Sequence[str]) -> str:
    """Each verdict with the labels of the parts that have it."""
    kinds: dict[str, list[str]] = {}
    for part, label in zip(parts, labels, strict=True):
        reason = f" ({part.note})" if part.note else ""
        kinds.setdefault(part.verdict + reason, []).append(label)
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())


def joined(*notes: str) -> str:
    """Those notes that are not empty, in one line."""
    return "; ".join(note for note in notes if note)
