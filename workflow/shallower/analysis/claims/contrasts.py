"""The pre-registered contrasts of the configuration, adjusted by Holm over them all.

Every other comparison is exploratory, or part of a claim (`role` in estimates.csv).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from shallower.analysis.claims.base import Claim, Context, Fact
from shallower.analysis.estimates import ONE_SIDED
from shallower.analysis.statistics import LEVEL, equivalence_p, holm, holm_levels
from shallower.analysis.verdicts import Finding, superiority, within
from shallower.study.experiments import Contrast
from shallower.study.study import Study


def contrasts(study: Study) -> Iterator[Claim]:
    """The study's pre-registered contrasts, each with the test registered for it."""
    for contrast in study.contrasts:
        relation = {
            "superiority": "has a lower test cross-entropy than",
            "equivalence": f"is within {contrast.margin:g} nats of",
        }[contrast.test]
        wording = f"{contrast.left} {relation} {contrast.right}"
        yield Claim(
            contrast.id,
            wording,
            "nats",
            _contrast(contrast),
            registered="pre-registered",
            has_margin=contrast.test == "equivalence",
        )


def _contrast(contrast: Contrast) -> Callable[[Context], Finding]:
    """Judged by the interval at the level that agrees with Holm's p over them all."""

    def judge(context: Context) -> Finding:
        registered = context.study.contrasts
        p_values = [contrast_p(context, each) for each in registered]
        place = registered.index(contrast)
        level = holm_levels(p_values)[place]
        level = LEVEL if math.isnan(level) else level
        sides = contrast.left, contrast.right
        if contrast.test == "superiority":
            found = superiority(context.difference(*sides, level=level))
        else:
            level -= 1 - level  # one-sided, twice
            margin = context.factor * contrast.margin
            two = context.difference(*sides, level=level)
            found = within(two, (-margin, margin), margin)
        p, adjusted = p_values[place], holm(p_values)[place]
        return replace(found, p=p, p_holm=adjusted)

    return judge


def contrast_p(context: Context, contrast: Contrast) -> float:
    """Of no difference, or of two one-sided tests of one beyond the margin."""
    sides = contrast.left, contrast.right
    if contrast.test == "superiority":
        return context.difference(*sides).p
    found = context.difference(*sides, level=ONE_SIDED)
    margin = context.factor * contrast.margin
    return equivalence_p(found.effect, found.ci_low, found.df, margin, ONE_SIDED)


def facts(context: Context) -> Iterator[Fact]:
    """How many there are."""
    yield Fact("contrasts.registered", len(context.study.contrasts))
