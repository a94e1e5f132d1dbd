"""Claims of the third system: skipped sublayers (specs S3.6).

Tyukin (arXiv 2404.05741) and Tyukin et al. (2407.15516) on Llama-2; S3-1, that skipping
is exact, is arithmetic and in tests/test_skipping.py. Quality is the cross-entropy of
continuations, over the deepest baseline.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shallower.analysis.claim import Claim, absent
from shallower.analysis.claims_arms import (
    WITHIN,
    Ratio,
    difference,
    joined,
    over,
    paper_sizes,
    time_ratio,
    timed_arms,
    whole,
)
from shallower.analysis.evidence import PER_TOKEN, Evidence
from shallower.analysis.front_tables import block_null, compared, gain_verdict
from shallower.analysis.gains import FAVOUR, Gain
from shallower.analysis.statistics import LEVEL, holm_levels, paired_t
from shallower.analysis.verdicts import (
    Finding,
    Verdict,
    annotated,
    conjunction,
    ratio_within,
    superiority,
)
from shallower.models.arithmetic import weights_read
from shallower.models.choices import SkipChoice, parse_skip
from shallower.models.variants import entry
from shallower.words import counted

LATTER = ("attention", "latter")
RIVALS = {
    ("attention", "early"): "early attention",
    ("ffn", "latter"): "latter FFNs",
    ("block", "latter"): "latter blocks",
}
CLAIMED = 1.21  # of Llama-2 7B, generating one token
Key = tuple[str, str]  # part and rule


def skips(evidence: Evidence) -> dict[Key, dict[int, str]]:
    """Arms over the deepest baseline that skip and do nothing else, by rule and k."""
    found: dict[Key, dict[int, str]] = {}
    for arm, name in evidence.study.arms.items():
        if str(name.without("skip")) == whole(evidence):
            choice = parse_skip(str(name.options["skip"]))
            found.setdefault((choice.part, choice.rule), {})[choice.k] = arm
    return {key: dict(sorted(arms.items())) for key, arms in found.items()}


# --- quality ------------------------------------------------------------------------


def cheapest(evidence: Evidence) -> Finding:
    """S3-2: latter attention costs less than each rival, wherever k has them all."""
    found = skips(evidence)
    latter = found.get(LATTER, {})
    rivals = {words: found.get(key, {}) for key, words in RIVALS.items()}
    shared = [k for k in latter if all(k in arms for arms in rivals.values())]
    if not shared:
        return absent(f"latter attention beside {', '.join(rivals)}, equally many")
    parts, labels = [], []
    for k in shared:
        for words, arms in rivals.items():
            parts.append(superiority(difference(evidence, latter[k], arms[k])))
            labels.append(f"{words} ({k})")
    return annotated(parts, labels)


def cheaper_than_blocks(evidence: Evidence) -> Finding:
    """S3-2b: at equal latency too, against whole blocks; where their curve reaches."""
    axis = evidence.axes["per_token"]
    arms = skips(evidence).get(LATTER, {})
    blocks = [] if axis is None else block_null(axis.models, whole(evidence))
    if axis is None or not blocks or not arms:
        return absent("times of latter attention and of latter blocks")
    parts, labels, outside = [], [], []
    for k, arm in arms.items():
        if arm not in axis.models:
            continue
        gain, _ = compared(axis, arm, blocks, "block")
        if np.isnan(gain.effect):
            outside.append(f"{k} ({gain.note})")
        else:
            parts.append(_of_gain(gain))
            labels.append(counted(k, "block"))
    note = f"left out: {', '.join(outside)}" if outside else ""
    shown = annotated(parts, labels) if parts else absent("times among the blocks'")
    return replace(shown, note=joined(shown.note, note))


def _of_gain(gain: Gain) -> Finding:
    """A gain with its total interval; the null is favoured, as in gains.csv."""
    interval = gain.effect, gain.total_low, gain.total_high
    found = ratio_within(*interval, (-np.inf, 0.0))
    return replace(found, verdict=gain_verdict(gain, FAVOUR))


def can_improve(evidence: Evidence) -> Finding:
    """S3-4: for some k, the model without its last k attentions is better.

    Supported if one is, adjusted by Holm; not supported if each is worse, which needs
    no adjustment. Shown is the best k, with its adjusted interval.
    """
    arms = skips(evidence).get(LATTER, {})
    found = {k: difference(evidence, arm, whole(evidence)) for k, arm in arms.items()}
    found = {k: values for k, values in found.items() if len(values) > 1}
    if not found:
        return absent("two seeds of latter attention skipped")
    levels = holm_levels([paired_t(values) for values in found.values()])
    parts = {
        k: superiority(values, level=LEVEL if np.isnan(level) else level)
        for (k, values), level in zip(found.items(), levels, strict=True)
    }
    better = {k: part for k, part in parts.items() if part.verdict == "supported"}
    each = conjunction([superiority(values, False) for values in found.values()])
    verdict: Verdict = "supported" if better else "inconclusive"
    if each.verdict == "supported":  # each is worse
        verdict = "not supported"
    best = min(better or parts, key=lambda k: parts[k].effect)
    effects = ", ".join(f"{k}: {part.effect:+.3f}" for k, part in parts.items())
    note = f"{best} of {evidence.deep} skipped, adjusted (Holm); by number {effects}"
    return replace(parts[best], verdict=verdict, note=joined(parts[best].note, note))


def last_matters(evidence: Evidence) -> Finding:
    """S3-5: of equally many, those before the last are the better ones to skip."""
    found, parts, labels = skips(evidence), [], []
    for part in ("attention", "ffn", "block"):
        latter = found.get((part, "latter"), {})
        for k, keeping in found.get((part, "latter_keep_last"), {}).items():
            if k in latter:
                parts.append(superiority(difference(evidence, keeping, latter[k])))
                labels.append(f"{part} ({k})")
    if not parts:
        return absent("the last block kept, beside equally many without it")
    return annotated(parts, labels)


# --- time ---------------------------------------------------------------------------


def as_predicted(evidence: Evidence) -> Finding:
    """S3-3: time a token falls as the weights that are read, within 15 %."""
    timed = decoding(evidence)
    if not timed:
        return absent("skipped attention of the paper's size")
    parts, labels = [], []
    for k, ratio in timed.items():
        predicted = predicted_decode(evidence, k)
        parts.append(ratio_within(*over(ratio, predicted), WITHIN))
        labels.append(f"{counted(k, 'block')} {ratio[0]:.2f} of {predicted:.2f}")
    return annotated(parts, labels)


def faster_by_half(evidence: Evidence) -> Finding:
    """S3-3b: without half of the attention a token takes less time; 21 % less?"""
    timed, depth = decoding(evidence), evidence.study.paper_scale.depths[-1]
    if not timed:
        return absent("skipped attention of the paper's size")
    k = min(timed, key=lambda each: abs(each - depth / 2))
    ratio, low, high = timed[k]
    found = replace(ratio_within(ratio, low, high, (1.0, np.inf)), threshold=1.0)
    place = "below" if high < CLAIMED else "above" if low > CLAIMED else "around"
    note = (
        f"{k} of {depth} attention sublayers, {100 * k / depth:.0f} %; the interval "
        f"lies {place} the {CLAIMED:g} of Llama-2"
    )
    return replace(found, note=joined(found.note, note))


def decoding(evidence: Evidence) -> dict[int, Ratio]:
    """Time a token of the whole model over that without its last k attentions.

    At the paper's size, by k; of those that were timed.
    """
    found: dict[int, Ratio] = {}
    dataset, metric = PER_TOKEN
    for model, name in timed_arms(evidence, "skip", dataset):
        choice = parse_skip(str(name.options["skip"]))
        if (choice.part, choice.rule) == LATTER:
            slow = str(name.without("skip"))
            found[choice.k] = time_ratio(
                evidence, slow, model, dataset, metric, "paper"
            )
    return dict(sorted(found.items()))


def predicted_decode(evidence: Evidence, k: int) -> float:
    """Weights read for a token, of the whole model over that without k attentions."""
    sizes, choice = paper_sizes(evidence), SkipChoice("attention", "latter", k)
    skipped = entry(choice.skip(choice.blocks(sizes["depth"])))
    return weights_read(sizes) / weights_read(sizes | {"skip": skipped})


SKIPPING = [
    Claim(
        "S3-2",
        "latter attention is cheaper to skip than early attention, latter FFNs and "
        "latter blocks",
        "nats",
        cheapest,
        "S3",
    ),
    Claim(
        "S3-2b",
        "latter attention is cheaper to skip than blocks at equal latency",
        "nats",
        cheaper_than_blocks,
        "S3",
    ),
    Claim(
        "S3-3",
        "skipping attention is as fast as the weights read predict",
        "ratio",
        as_predicted,
        "S3",
    ),
    Claim(
        "S3-3b",
        "without half of its attention a model decodes faster (Llama-2: 21 %)",
        "ratio",
        faster_by_half,
        "S3",
    ),
    Claim("S3-4", "quality can improve by skipping", "nats", can_improve, "S3"),
    Claim(
        "S3-5", "keeping the last block's sublayer matters", "nats", last_matters, "S3"
    ),
]
