"""What two changes of one model do together, beyond the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from shallower.analysis.claims.base import Context, Fact
from shallower.analysis.estimates import Comparison, Estimate, mean_level
from shallower.analysis.interventions import (
    CONTINUATION,
    change,
    checkpoints,
    quality_of,
)
from shallower.models.registry import FFNS
from shallower.study.names import DISTILLED, ModelName

IDLE = "no effect alone"  # in the note of a pair of which one change does nothing
# Change -> the options that say it, and go with it.
_CHANGES = {
    "ffn": ("ffn", "ratio", "where"),
    "teacher": DISTILLED,
    "skip": ("skip", "healed", "by"),
    "eliminate": ("tuned", "eliminate"),
}


def changes_of(name: ModelName) -> list[str]:
    """What a model changes in a baseline: head, ffn, teacher, skip, eliminate."""
    there = {"head": name.head != "baseline", "ffn": name.ffn != "default"}
    options = set(name.options)
    there |= {key: bool(options & {*_CHANGES[key]}) for key in list(_CHANGES)[1:]}
    return [change for change, is_there in there.items() if is_there]


def without(name: ModelName, change: str) -> ModelName:
    """The model without one of its changes.

    A model with the baseline's heads is named after its FFN: without its heads,
    `proposed-8__ffn=none` is `none-8`, and that without its FFN `baseline-8`.
    """
    if change == "head":
        options = dict(name.options)
        variant = str(options.pop("ffn", "baseline"))
        return ModelName(variant, name.depth, options)
    left = name.without(*_CHANGES[change])
    named_after_ffn = change == "ffn" and name.variant in FFNS
    return ModelName("baseline", name.depth, left.options) if named_after_ffn else left


def interactions(context: Context) -> Iterator[Estimate]:
    """What two changes of a model do beyond the sum of both, in nats.

    Zero if they add up; negative if together they do better. For every pair of changes
    whose four models (both, either, neither) were scored, of what is trained and of
    checkpoints. Where one of them does nothing that can be told from zero by itself,
    adding up says nothing: the note says so, and the pair does not count.
    """
    for base in (context.study.deepest_baseline, *checkpoints(context.study)):
        yield from _interactions_of(context, quality_of(context.results, base))


def _interactions_of(context: Context, quality: pd.DataFrame) -> Iterator[Estimate]:
    for both in quality:
        name, over = context.study.names[both], context.results.replicates_of(both)
        if name.t5_size:
            continue
        for first, second in combinations(changes_of(name), 2):
            a, b = (str(without(name, change)) for change in (second, first))
            base = str(without(without(name, first), second))
            if {a, b, base} <= set(quality):
                values = quality[both] - quality[a] - quality[b] + quality[base]
                asked = Comparison(both, base, CONTINUATION, kind="interaction")
                alone = {side: context.estimate(change(side, base)) for side in (a, b)}
                idle = [m for m, e in alone.items() if e.ci_low <= 0 <= e.ci_high]
                note = f"of {a} and {b}"
                note += f"; {IDLE}: {', '.join(idle)}" if idle else ""
                yield context.keep(
                    mean_level(
                        context.results.placed(asked),
                        values.dropna(),
                        over,
                        method=f"t over {over}",
                        note=note,
                    )
                )


def interaction_counts(key: str, found: list[Estimate]) -> Iterator[Fact]:
    """How many pairs of changes there are, and which do not add up.

    Of those whose changes do something by themselves; the others are counted apart.
    """
    acting = [one for one in found if IDLE not in one.note]
    yield Fact(key, len(acting))
    yield Fact(f"{key}.idle", len(found) - len(acting))
    yield Fact(f"{key}.better", sum(one.ci_high < 0 for one in acting))
    yield Fact(f"{key}.worse", sum(one.ci_low > 0 for one in acting))
