"""Numbers of the text about skipping and elimination that are no estimates.

Of the models that claims are judged on (`Study.intervened_on`); times are those of
`Study.timed_on`, which differs where several checkpoints are pooled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from shallower.analysis.claims.base import Context, Fact
from shallower.analysis.claims.elimination_runs import nats
from shallower.analysis.claims.elimination_speed import Prefill, original_prefills
from shallower.analysis.claims.skipping import CLAIMED, skipped
from shallower.analysis.front import gain_counts, gain_over
from shallower.analysis.interventions import (
    KINDS,
    change,
    curve_of,
    eliminations,
    measured,
    predicted,
    skips,
    source,
    speedup,
    sublayers,
)
from shallower.interventions.eliminate import Eliminate
from shallower.interventions.skip import PARTS
from shallower.models.config import LlamaConfig
from shallower.study.study import Study

# Touvron et al. (arXiv 2307.09288); of its sizes the source's 21 % is.
LLAMA2_7B = LlamaConfig(
    vocabulary=32000, width=4096, heads=32, ffn_hidden=11008, depth=32, context=4096
)


def facts(context: Context) -> Iterator[Fact]:
    """What was done to models, how well times are predicted, and gains over depth."""
    yield from _skipping(context)
    yield from _sublayers(context)
    yield from _llama2()
    yield from _elimination(context)


def _gains(
    context: Context, key: str, axis: str, curve: str, labels: list[str]
) -> Iterator[Fact]:
    """Verdicts on the gains of these models over a curve that they are not part of."""
    data = measured(context.results, axis, context.study.timed_on)
    members = curve_of(context.study, data, curve)
    found = [
        gain_over(context, data, label, curve)[0]
        for label in labels
        if label in data.models and label not in members and members
    ]
    yield from gain_counts(context, key, found)


# --- skipping -------------------------------------------------------------------------


def _skipping(context: Context) -> Iterator[Fact]:
    """What was skipped, how well times are predicted, and gains over depth."""
    study = context.study
    labels = [
        label
        for label in skips(study)
        if source(study.names[label]) == study.intervened_on
    ]
    healed = [m for m in labels if "healed" in study.names[m].options]
    unhealed = [m for m in labels if m not in healed]
    yield Fact("skipping.models", len(labels))
    yield Fact("skipping.unhealed", len(unhealed))
    yield Fact("skipping.healed.models", len(healed))
    k = common_number(study)
    if k:
        yield Fact("skipping.k", k)
    due = predicted(context.results, "predicted_decode")
    for kind, key in KINDS.items():
        label = skipped(study).get(key, {}).get(k)
        if label in due:
            yield Fact(f"skipping.{kind}.predicted", due[label], "ratio")
    errors, base = [], study.timed_on
    alone = [m for m in skips(study) if source(study.names[m]) == base]
    unhealed = [m for m in alone if "healed" not in study.names[m].options]
    healed = [m for m in alone if m not in unhealed]
    for label in unhealed:
        timed = context.estimate(speedup(base, label, "per_token"))
        if timed.exists and label in due:
            errors.append(abs(timed.effect / due[label] - 1))
    if errors:
        yield Fact("skipping.error", 100 * max(errors), "percent")
    yield from _gains(context, "skipping", "per_token", "depth", unhealed)
    yield from _gains(context, "skipping.blocks", "per_token", "blocks", unhealed)
    yield from _gains(context, "skipping.healed", "per_token", "depth", healed)


def _sublayers(context: Context) -> Iterator[Fact]:
    """Cost of single sublayers of a checkpoint, nats: in the median block, and most."""
    study, base = context.study, context.study.intervened_on
    for part in PARTS:
        costs = {
            skip.draw + 1: context.estimate(change(label, base)).effect
            for label, skip in sublayers(study).items()
            if skip.part == part and source(study.names[label]) == base
        }
        if costs:
            most = max(costs, key=lambda block: costs[block])
            key = f"skipping.only.{part}"
            yield Fact(key, float(np.median(list(costs.values()))), "nats")
            yield Fact(f"{key}.most", costs[most], "nats")
            yield Fact(f"{key}.block", most)


def _llama2() -> Iterator[Fact]:
    """By the weights read, of Llama-2-7B: without half of its attention; 21 %."""
    c = LLAMA2_7B
    attention = 4 * c.width**2
    read = c.depth * (attention + 3 * c.width * c.ffn_hidden)
    read += c.width * c.vocabulary
    half = read / (read - c.depth // 2 * attention)
    yield Fact("skipping.llama2.half", half, "ratio")
    yield Fact("skipping.llama2.claimed", read * (1 - 1 / CLAIMED) / attention)


def common_number(study: Study) -> int:
    """The most blocks that every kind in the text was tried with; 0 without any."""
    found = skipped(study)
    wanted = [set(found[kind]) for kind in KINDS.values() if kind in found]
    return max(set.intersection(*wanted), default=0) if wanted else 0


# --- elimination ----------------------------------------------------------------------


def _elimination(context: Context) -> Iterator[Fact]:
    """What was eliminated, how well times are predicted, and gains over depth."""
    study, base = context.study, context.study.intervened_on
    found = _of_deepest(study)
    yield Fact("elimination.models", len(found))
    if asked := common_speedup(study):
        yield Fact("elimination.speedup", asked, "ratio")
        chance = [
            m for m, choice in found.items() if choice == Eliminate("random", asked)
        ]
        costs = [nats(context, m, base) for m in chance[:1]]
        blind = any(cost.exists and not cost.ci_low > 0 for cost in costs)
        yield Fact("elimination.blind", int(blind))
    for key, is_tuned in (("most", False), ("most.tuned", True)):
        acc = {
            choice.speedup: label
            for label, choice in found.items()
            if choice.rule == "acc"
            and ("tuned" in study.names[label].options) == is_tuned
        }
        if acc:
            most = max(acc)
            yield Fact(f"elimination.{key}", most, "ratio")
            percent = 100 * (math.exp(nats(context, acc[most], base).effect) - 1)
            yield Fact(f"elimination.{key}.perplexity", percent, "percent")
    yield from _contributions(context)
    alone = _of_deepest(study, study.timed_on)
    yield from _errors(context, alone)
    curve = "blocks" if study.scored else "depth"
    if curve_of(study, measured(context.results, "first_token", study.timed_on), curve):
        yield from _gains(context, "elimination", "first_token", curve, [*alone])


def common_speedup(study: Study) -> float:
    """The largest speed-up at which ACC has a control, and is fine-tuned if it can be.

    0 if there is none.
    """

    def of(rule: str, is_tuned: bool) -> set[float]:
        return {
            choice.speedup
            for label, choice in _of_deepest(study).items()
            if choice.rule == rule
            and ("tuned" in study.names[label].options) == is_tuned
        }

    acc = of("acc", False)
    wanted = [s for s in (of("random", False), of("acc", True)) if s]
    for others in (wanted, wanted[:1], []):
        both = set.intersection(acc, *others)
        if both:
            return max(both)
    return 0.0


def _of_deepest(study: Study, base: str = "") -> dict[str, Eliminate]:
    """Interventions that only eliminate, on the deepest baseline or tuned from it.

    Or on what claims are judged on in its place, unless `base` is another model.
    """
    return {
        label: choice
        for label, choice in eliminations(study).items()
        if source(study.names[label]) == (base or study.intervened_on)
    }


def _contributions(context: Context) -> Iterator[Fact]:
    """Share of tokens that carries most attention, first and last block, in percent."""
    study = context.study
    models = study.pretrained.chosen if study.pooled else [study.intervened_on]
    ends = [
        (run["contribution"][0], run["contribution"][-1])
        for run in context.results.choices
        if run["model"] in models and run["contribution"]
    ]
    if ends:
        means = 100 * np.mean(ends, axis=0)
        yield Fact("elimination.contribution.first", means[0], "percent")
        yield Fact("elimination.contribution.last", means[1], "percent")


def _errors(context: Context, found: dict[str, Eliminate]) -> Iterator[Fact]:
    """Largest relative error of a predicted speed-up of the first token, in percent."""
    base, study = context.study.timed_on, context.study
    due = predicted(context.results, "predicted_prefill")
    tokens = study.pretrained.prompt_tokens if study.scored else study.prompt_tokens
    at_study = [
        Prefill(label, due[label], tokens, timed, due[label])
        for label in found
        if (timed := context.estimate(speedup(base, label, "first_token"))).exists
        and label in due
    ]
    for scale, rows in (("study", at_study), ("original", original_prefills(context))):
        if not rows:
            continue
        longest = max(row.tokens for row in rows)
        last = [row for row in rows if row.tokens == longest]
        errors = [abs(row.timed.effect / row.predicted - 1) for row in last]
        yield Fact(f"elimination.{scale}.length", longest, "tokens")
        yield Fact(f"elimination.{scale}.error", 100 * max(errors), "percent")
        most = max(row.predicted for row in last)
        yield Fact(f"elimination.{scale}.predicted", most, "ratio")
