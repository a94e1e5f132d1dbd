"""Claims of the third system: skipped sublayers (S3).

Tyukin (arXiv 2404.05741) and Tyukin et al. (2407.15516) on Llama-2. That skipping is
exact (S3-1) is arithmetic and tested in tests/test_skipping.py. Quality is the
cross-entropy of continuations, of the deepest baseline, or of a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shallower.analysis.claims.base import Claim, Context, divided
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.front import gain_over, judged_gain
from shallower.analysis.interventions import (
    change,
    curve_of,
    depth_baselines,
    measured,
    predicted,
    skips,
    source,
    speedup,
    sublayers,
)
from shallower.analysis.results import original_names
from shallower.analysis.statistics import LEVEL, holm_levels
from shallower.analysis.verdicts import (
    Finding,
    Verdict,
    absent,
    conjunction,
    joined,
    superiority,
    within,
)
from shallower.interventions.skip import PARTS
from shallower.study.names import ModelName, blocks
from shallower.study.study import Study

WITHIN = (0.85, 1.15)  # measured over predicted
CLAIMED = 1.21  # of Llama-2 7B, generating one token; the abstract never says "half"
RIVALS = {
    ("attention", "first"): "attention of the first blocks",
    ("ffn", "last"): "FFNs of the last blocks",
    ("block", "last"): "the last blocks",
}
ByNumber = dict[int, str]  # number of blocks -> label


def skipped(study: Study, base: str = "") -> dict[tuple[str, str], ByNumber]:
    """The deepest baseline with sublayers skipped, not healed, by part and rule.

    Or what claims are judged on in its place, unless `base` is another model.
    """
    found: dict[tuple[str, str], ByNumber] = {}
    for label, skip in skips(study).items():
        if str(study.names[label].without("skip")) == (base or study.intervened_on):
            found.setdefault((skip.part, skip.rule), {})[skip.k] = label
    return {key: dict(sorted(labels.items())) for key, labels in found.items()}


# --- quality --------------------------------------------------------------------------


def cheapest(context: Context) -> Finding:
    """S3-2: the last attention costs less than each rival, at each k that all have."""
    found = skipped(context.study)
    last = found.get(("attention", "last"), {})
    rivals = {words: found.get(key, {}) for key, words in RIVALS.items()}
    shared = [k for k in last if all(k in labels for labels in rivals.values())]
    if not shared:
        return absent(f"attention of the last blocks beside {', '.join(rivals)}")
    parts, labels = [], []
    for k in shared:
        for words, by_number in rivals.items():
            parts.append(superiority(context.estimate(change(last[k], by_number[k]))))
            labels.append(f"{words} ({k})")
    return conjunction(parts, labels)


def cheaper_than_blocks(context: Context) -> Finding:
    """S3-2b: at equal latency too, against whole blocks, where their curve reaches."""
    base = context.study.timed_on
    data = measured(context.results, "per_token", base)
    last = skipped(context.study, base).get(("attention", "last"), {})
    if not last or not curve_of(context.study, data, "blocks"):
        return absent("times of skipped attention and of skipped blocks")
    parts, labels, outside = [], [], []
    for k, label in last.items():
        if label not in data.models:
            continue
        gain, _ = gain_over(context, data, label, "blocks")
        if np.isnan(gain.effect):
            outside.append(f"{k} ({gain.note})")
        else:
            parts.append(judged_gain(gain))
            labels.append(blocks(k))
    note = f"left out: {', '.join(outside)}" if outside else ""
    shown = conjunction(parts, labels) if parts else absent("times among the blocks'")
    return replace(shown, note=joined(shown.note, note))


def can_improve(context: Context) -> Finding:
    """S3-4: for some k, the model without its last k attentions is better.

    Supported if one is, adjusted by Holm; not supported if each is worse, which needs
    no adjustment. Shown is the best k, with its adjusted interval.
    """
    deepest = context.study.intervened_on
    last = skipped(context.study).get(("attention", "last"), {})
    found = {k: context.estimate(change(m, deepest)) for k, m in last.items()}
    found = {k: one for k, one in found.items() if one.n > 1}
    if not found:
        return absent("two replicates of skipped attention")
    levels = holm_levels([one.p for one in found.values()])
    parts = {}
    for k, level in zip(found, levels, strict=True):
        level = LEVEL if np.isnan(level) else level
        adjusted = context.estimate(change(last[k], deepest, level))
        parts[k] = superiority(adjusted)
    better = {k: part for k, part in parts.items() if part.verdict == "supported"}
    each = conjunction([superiority(one, False) for one in found.values()])
    verdict: Verdict = "supported" if better else "inconclusive"
    if each.verdict == "supported":  # each is worse
        verdict = "not supported"
    best = min(better or parts, key=lambda k: parts[k].effect)
    effects = ", ".join(f"{k}: {part.effect:+.3f}" for k, part in parts.items())
    depth = context.study.names[deepest].depth
    note = f"{best} of {depth} skipped, adjusted (Holm); by number {effects}"
    return replace(parts[best], verdict=verdict, note=joined(parts[best].note, note))


def last_matters(context: Context) -> Finding:
    """S3-5: of equally many, those before the last are the better ones to skip."""
    found, parts, labels = skipped(context.study), [], []
    for part in PARTS:
        last = found.get((part, "last"), {})
        for k, label in found.get((part, "last_but_one"), {}).items():
            if k in last:
                parts.append(superiority(context.estimate(change(label, last[k]))))
                labels.append(f"{part} ({k})")
    if not parts:
        return absent("blocks before the last skipped, beside as many with it")
    return conjunction(parts, labels)


# --- time -----------------------------------------------------------------------------


def decoding(context: Context) -> dict[int, tuple[Estimate, float]]:
    """Speed-up of a token without the last k attentions, measured and predicted, by k.

    Of those that were timed: of the checkpoint, else of the original's size.
    """
    study, results = context.study, context.results
    if study.timed_checkpoint:
        due = predicted(results, "predicted_decode")
        base = study.timed_on
        last = skipped(study, base).get(("attention", "last"), {})
        asked = {
            k: (speedup(base, label, "per_token"), due.get(label))
            for k, label in last.items()
        }
    else:
        table = results.predictions.drop_duplicates("label").set_index("label")
        asked = {
            skip.k: (
                original_speedup(label, name),
                table["predicted_decode"].get(label),
            )
            for label, name in original_skips(study).items()
            if (skip := name.intervention.skip)
            and (skip.part, skip.rule) == ("attention", "last")
        }
    found = {
        k: (context.estimate(comparison), math.nan if value is None else float(value))
        for k, (comparison, value) in sorted(asked.items())
    }
    return {k: pair for k, pair in found.items() if pair[0].exists}


def original_skips(study: Study) -> dict[str, ModelName]:
    """The models of the original's size with skipped sublayers, by label."""
    names = original_names(study).items()
    return {label: name for label, name in names if name.intervention.skip}


def original_speedup(label: str, name: ModelName) -> Comparison:
    """Of a token, at the original's size."""
    return speedup(str(name.run), label, "per_token", "fixed", "original")


def as_predicted(context: Context) -> Finding:
    """S3-3: time a token falls as the weights that are read, within 15 %."""
    timed = decoding(context)
    if not timed:
        return absent("times of skipped attention")
    parts, labels = [], []
    for k, (found, due) in timed.items():
        parts.append(within(divided(found, due), WITHIN))
        labels.append(f"{blocks(k)} {found.effect:.2f} of {due:.2f}")
    return conjunction(parts, labels)


def faster_by_half(context: Context) -> Finding:
    """S3-3b: without half of the attention a token takes less time.

    The thesis' abstract says 21 % for one token of Llama-2 7B, not for how much of the
    attention: the comparison with half of it is ours.
    """
    study, timed = context.study, decoding(context)
    if not timed:
        return absent("times of skipped attention")
    depth = study.original.depths[-1]
    if study.timed_checkpoint:
        depth = study.names[study.timed_on].depth
    k = min(timed, key=lambda each: abs(each - depth / 2))
    ratio, _ = timed[k]
    found = within(ratio, (1.0, np.inf), 1.0)
    low, high = ratio.ci_low, ratio.ci_high
    place = "below" if high < CLAIMED else "above" if low > CLAIMED else "around"
    note = (
        f"{k} of {depth} attention sublayers, {100 * k / depth:.0f} %; the interval "
        f"lies {place} {CLAIMED:g}, which the thesis states of Llama-2 7B; that it is "
        "of half of the attention is our reading"
    )
    return replace(found, note=joined(found.note, note))


# --- further comparisons --------------------------------------------------------------


def comparisons(study: Study) -> Iterator[Comparison]:
    """Cost and speed-up of skipped sublayers, and the cost of fewer blocks."""
    for label in skips(study):
        base = source(study.names[label])
        yield change(label, base)
        yield speedup(base, label, "per_token")
    for label in sublayers(study):
        yield change(label, source(study.names[label]))
    for label in depth_baselines(study):
        if label != study.deepest_baseline:
            yield change(label, study.deepest_baseline)
    for label, name in original_skips(study).items():
        yield original_speedup(label, name)


CLAIMS = [
    Claim(
        "S3-2",
        "attention of the last blocks is cheaper to skip than attention of the first, "
        "FFNs of the last, and the last blocks",
        "nats",
        cheapest,
        "S3",
    ),
    Claim(
        "S3-2b",
        "attention of the last blocks is cheaper to skip than blocks at equal latency",
        "nats",
        cheaper_than_blocks,
        "S3",
        timed=True,
    ),
    Claim(
        "S3-3",
        "skipping attention is as fast as the weights read predict",
        "ratio",
        as_predicted,
        "S3",
        kind="cost",
        scale="original",
        weights="untrained",
        timed=True,
    ),
    Claim(
        "S3-3b",
        "without half of its attention a model decodes faster",
        "ratio",
        faster_by_half,
        "S3",
        kind="cost",
        scale="original",
        weights="untrained",
        timed=True,
    ),
    Claim("S3-4", "quality can improve by skipping", "nats", can_improve, "S3"),
    Claim(
        "S3-5", "keeping the last block's sublayer matters", "nats", last_matters, "S3"
    ),
]
