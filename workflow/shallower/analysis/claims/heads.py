"""Claims on heads (S1): C1 to C11, and folding.

docs/protocol.md says when each rule was fixed. Those about generated text are
in `heads_text`, those about the cost of training and decoding in `heads_speed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from shallower.analysis import budgets, heads_facts, learning_rates, roofline
from shallower.analysis.claims.base import Claim, Context, Fact, divided, plain
from shallower.analysis.claims.heads_speed import faster_than_deeper, step_times
from shallower.analysis.claims.heads_text import text_metrics
from shallower.analysis.estimates import (
    Comparison,
    Estimate,
    mean_difference,
    ratio_of_means,
)
from shallower.analysis.verdicts import (
    ABSENT,
    NAN,
    Finding,
    absent,
    assay,
    conjunction,
    equivalence,
    exact,
    non_inferiority,
    superiority,
    within,
)
from shallower.study.names import ModelName, blocks
from shallower.study.study import Study

# What the original states as numbers: its Table 1 and section 3.4.
PUBLISHED_SIZES = {"width": 1024, "heads": 8, "ffn_hidden": 2752, "vocabulary": 32_000}
TABLE_1 = {
    "baseline": {5: 128_789_504, 6: 141_440_000, 7: 154_090_496, 8: 166_740_992},
    "proposed": {5: 129_449_984, 6: 142_232_576, 7: 155_015_168, 8: 167_797_760},
    "added": {5: 660_480, 6: 792_576, 7: 924_672, 8: 1_056_768},
}
FOLD_TOLERANCE = {"fold_error_float64": 1e-10, "fold_error_float32": 1e-4}
MORE_TOKENS = 1.10  # what the fixed margin is compared with: so many times the tokens
SMOOTHED = 10  # of the logged losses a tenth is in the moving average of Figure 2a
TOKENS_TO_LOSS = "tokens_to_final_loss"  # metric of C9


# --- arithmetic -----------------------------------------------------------------------


def counts(context: Context) -> Finding:
    """C1: the twelve numbers of Table 1, counted on the model's own tensors."""
    sizes = context.study.original
    if any(getattr(sizes, key) != due for key, due in PUBLISHED_SIZES.items()):
        note = "other sizes than Table 1's"
        return Finding(NAN, NAN, NAN, NAN, 0.0, "not tested", note)
    depths = [depth for depth in sizes.depths if depth in TABLE_1["added"]]
    wrong = 0
    for depth in depths:
        ours = _counts(context, depth, "original")
        wrong += sum(ours[kind] != TABLE_1[kind][depth] for kind in TABLE_1)
    return exact(wrong, 3 * len(depths), "numbers are equal")


def per_block(context: Context) -> Finding:
    """C2: d^2/n + d parameters more in every block, at both scales."""
    study, wrong, total = context.study, 0, 0
    scales = [("study", study.model, study.depths)] if study.models else []
    scales += [("original", study.original, study.original.depths)]
    for scale, sizes, depths in scales:
        due = sizes.width**2 // sizes.heads + sizes.width
        for depth in depths:
            added = _counts(context, depth, scale)["added"]
            wrong, total = wrong + (added != depth * due), total + 1
    return exact(wrong, total, "models have exactly d²/n + d more per block")


def _counts(context: Context, depth: int, scale: str) -> dict[str, float]:
    """Parameters of both variants, and the difference."""
    ours = {
        variant: context.results.size(
            plain(variant, depth), "parameters_trained", scale
        )
        for variant in ("baseline", "proposed")
    }
    return ours | {"added": ours["proposed"] - ours["baseline"]}


def folds(context: Context) -> Finding:
    """The largest change of a logit by folding, over all trained models that fold."""
    return context.exact_forms(
        FOLD_TOLERANCE, f"trained models that fold: not {ABSENT}"
    )


# --- quality --------------------------------------------------------------------------


def worth_of_tokens(context: Context) -> Estimate | None:
    """Cross-entropy that 10 % more tokens gain the deepest baseline, in nats.

    Measured between half of the budget and all of it, taken as linear in the logarithm
    of the tokens. The margin is fixed and does not depend on it.
    """
    half = context.at_steps("baseline", context.deep, 0.5)
    full = context.at_steps("baseline", context.deep, 1)
    if half is None or full is None:
        return None
    share = math.log(2) / math.log(MORE_TOKENS)
    return divided(context.difference(half, full), share)


def richer(context: Context) -> Finding:
    """C3: per-head linear layers without SiLU; equal to the baseline is refuted.

    The fold shows that they add no function. What may be left is easier training.
    """
    pair = plain("linear", context.shallow), plain("baseline", context.shallow)
    if pair[0] not in context.study.models:
        return absent("linear layers without SiLU")
    better = superiority(context.difference(*pair))
    same = equivalence(context.difference(*pair, one_sided=True), context.margin)
    if better.verdict == "supported":
        return replace(better, note="better in training, although the layer folds away")
    if same.verdict == "supported":
        note = "equivalent (TOST), as folded"
        return replace(same, verdict="not supported", note=note)
    if better.verdict == "not supported":
        return replace(better, note="worse than without the layer")
    note = better.note or "TOST, 90 % interval"
    return replace(same, verdict=better.verdict, note=note)


def each_depth(dataset: str, metric: str) -> Callable[[Context], Finding]:
    """C4, C5: proposed below baseline at every depth (intersection-union)."""

    def judge(context: Context) -> Finding:
        depths = context.study.depths
        where: dict[str, Any] = {"dataset": dataset, "metric": metric}
        parts = [
            superiority(
                context.difference(plain("proposed", d), plain("baseline", d), **where)
            )
            for d in depths
        ]
        return conjunction(parts, [blocks(depth) for depth in depths])

    return judge


def matches_deeper(context: Context) -> Finding:
    """C6: proposed no worse than every deeper baseline, where depth pays at all."""
    depths, least = context.study.depths, context.margin
    pairs = [(low, high) for low in depths for high in depths if low < high]
    parts = []
    for low, high in pairs:
        sides = plain("baseline", low), plain("baseline", high)
        one_sided = context.difference(*sides, one_sided=True)
        sensitive = assay(context.difference(*sides), one_sided, least)
        found = context.difference(plain("proposed", low), sides[1], one_sided=True)
        parts.append(non_inferiority(found, least, sensitive))
    return conjunction(parts, [f"{low} against {high}" for low, high in pairs])


def converges(context: Context) -> Finding:
    """C9: tokens until the baseline's final training loss, over the baseline's."""
    parts, depths = [], context.study.depths
    for depth in depths:
        sides = plain("proposed", depth), plain("baseline", depth)
        seeds = context.study.seeds
        losses = [context.results.losses(side, seeds) for side in sides]
        shares = tokens_to_loss(*losses)
        asked = Comparison(*sides, "train", TOKENS_TO_LOSS, "ratio")
        method = "share of the steps by seed, t of its logarithm over seeds"
        whole = np.ones(len(shares))
        found = ratio_of_means(asked, shares, whole, "seeds", method=method)
        parts.append(within(context.keep(found), (-np.inf, 1.0), threshold=1.0))
    return conjunction(parts, [blocks(depth) for depth in depths])


def tokens_to_loss(left: pd.DataFrame, right: pd.DataFrame) -> pd.Series:
    """Share of the steps after which the left model has the right one's final loss.

    Losses are iterations x seeds, and are smoothed as in Figure 2a; 1 for a seed that
    never gets there, which counts against the claim.
    """
    window = max(1, len(right) // SMOOTHED)
    left, right = left.align(right, join="inner", axis=1)
    left, right = (side.rolling(window).mean().dropna() for side in (left, right))
    there = left <= right.iloc[-1]
    return there.idxmax().where(there.any(), right.index[-1]) / right.index[-1]


def deeper_is_better(context: Context) -> Finding:
    """C11: the trend of baselines over depth, at the largest budget per parameter."""
    deep, shallow = plain("baseline", context.deep), plain("baseline", context.shallow)
    notes, judged = [], absent("a budget with both depths")
    for budget in budgets.depth_budgets(context.results):
        found = context.difference(budget.deep, budget.shallow)
        judged = superiority(found)
        notes.append(f"{found.effect:+.3f} at {budget.tokens_per_parameter:.2g}")
    levels = [
        context.results.values(plain("baseline", depth), "text", "cross_entropy")
        for depth in context.study.depths
    ]
    table = pd.concat(levels, axis=1).dropna()
    slopes = [
        stats.linregress(context.study.depths, row).slope for row in table.to_numpy()
    ]
    asked = Comparison(deep, shallow, kind="slope")
    method = "least squares over depths by seed, t over seeds"
    unit = "nats per block"
    slope = mean_difference(asked, slopes, "seeds", method=method, unit=unit)
    context.keep(slope)
    note = (
        f"{context.deep} against {context.shallow} blocks by tokens per parameter of "
        "the deeper: "
        f"{', '.join(notes)}; slope at the main budget {slope.effect:+.3f} "
        f"[{slope.ci_low:.3f}, {slope.ci_high:.3f}] nats per block"
    )
    return replace(judged, note=judged.note or note)


# --- what tables, figures and text show beside the claims -----------------------------

PARTS = ("proposed", "linear", "silu_even")  # of the layer, against the SiLU alone


def comparisons(study: Study) -> Iterator[Comparison]:
    """Budgets, head variants against their baselines and SiLU, compiled decoding."""
    yield from budgets.comparisons(study)
    for model in study.models_of("head"):
        name = study.models[model]
        baseline = str(ModelName("baseline", name.depth, name.options))
        if model != baseline and baseline in study.models:
            yield Comparison(model, baseline, family="head")
    for part, depth in product(PARTS, study.depths):
        pair = plain(part, depth), plain("silu", depth)
        if {*pair} <= study.models.keys():
            yield Comparison(*pair, family="head")
    for scale, depths in (("study", study.depths), ("original", study.original.depths)):
        sides = plain("baseline", depths[-1]), plain("proposed", depths[0])
        for mode in ("compiled", "graph"):
            place = ("decode", "time_per_output_token")
            yield Comparison(*sides, *place, kind="ratio", scale=scale, mode=mode)


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """Budgets, gains, learning rates and roofline; keeps their estimates."""
    search = learning_rates.search_table(context.results)
    for comparison in learning_rates.comparisons(search):
        context.estimate(comparison)
    sessions = roofline.by_session(context.results)
    for found in roofline.estimates(context.results, sessions):
        context.keep(found)
    return {
        "budget": budgets.budget_table(context.results),
        "gain": budgets.gain_table(context),
        "learning_rate": search,
        "roofline": roofline.roofline_table(sessions),
    }


def facts(context: Context) -> Iterator[Fact]:
    """Numbers of the text (see `heads_facts`)."""
    yield from heads_facts.facts(context)
    search = learning_rates.search_table(context.results)
    yield from learning_rates.facts(context, search)
    yield from roofline.facts(roofline.by_session(context.results))
    tried = budgets.tried(context.results)
    yield Fact("heads.budget.count", len(tried))
    for key, budget in (("smallest", tried[:1]), ("largest", tried[-1:])):
        for tokens in budget:  # none where nothing is trained
            yield Fact(f"heads.budget.{key}", tokens, "tokens")
    yield Fact("heads.margin", context.margin, "nats")
    if (worth := worth_of_tokens(context)) is not None:
        for end, value in (
            ("", worth.effect),
            (".low", worth.ci_low),
            (".high", worth.ci_high),
        ):
            yield Fact(f"heads.margin.tokens{end}", value, "nats")


CLAIMS = [
    Claim(
        "C1",
        "Table 1's parameter counts",
        "numbers that differ",
        counts,
        kind="identity",
        scale="original",
        weights="untrained",
    ),
    Claim(
        "C2",
        "the layer adds d²/n + d parameters per block",
        "models that differ",
        per_block,
        kind="identity",
        scale="original",
        weights="untrained",
    ),
    Claim("C3", "linear layers make the heads richer", "nats", richer, has_margin=True),
    Claim(
        "C4",
        "the proposed block trains to a lower loss at every depth",
        "nats",
        each_depth("train", "training_loss"),
    ),
    Claim(
        "C5",
        "the proposed block has a lower test perplexity at every depth",
        "nats",
        each_depth("text", "cross_entropy"),
    ),
    Claim(
        "C6",
        "each proposed model is no worse than every deeper baseline",
        "nats",
        matches_deeper,
        has_margin=True,
    ),
    Claim(
        "C7",
        "the shallowest proposed model decodes faster than the deepest baseline",
        "ratio",
        faster_than_deeper,
        kind="cost",
        scale="original",
        weights="untrained",
    ),
    Claim(
        "C8",
        "text metrics out of distribution do not drop",
        "percent",
        text_metrics,
        has_margin=True,
    ),
    Claim("C9", "the proposed block converges faster", "ratio", converges),
    Claim(
        "C10",
        "training time grows with depth, and the layer costs little",
        "ratio",
        step_times,
        kind="cost",
    ),
    Claim("C11", "deeper is better", "nats", deeper_is_better),
    Claim(
        "fold",
        "folding the added layer changes nothing",
        "logits",
        folds,
        kind="identity",
    ),
]
