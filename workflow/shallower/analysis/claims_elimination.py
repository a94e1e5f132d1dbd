"""Claims of the fourth system: token elimination (specs S4.5).

Kachuee and Sharifkhani (arXiv 2201.03327), of whose paper abstracts alone were at hand.
Quality is the cross-entropy of continuations, of which no token is eliminated, over the
deepest baseline and what was tuned from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from shallower.analysis.arm_facts import arm_table
from shallower.analysis.claim import Claim, absent
from shallower.analysis.claims_arms import (
    SCORED,
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
from shallower.analysis.evidence import Evidence
from shallower.analysis.statistics import ratio_interval
from shallower.analysis.verdicts import (
    Finding,
    annotated,
    non_inferiority,
    ratio_within,
    superiority,
)
from shallower.models.choices import (
    EliminationChoice,
    parse_elimination,
    untrained_speedup,
)

SPEEDUP = 2.0  # the predicted one that most claims are held to
MARGIN = math.log(1.02)  # nats: 2 % of perplexity
PASSABLE = 1.05  # perplexity ratio up to which a speed-up counts
MONOTONE = 0.01  # nats by which a larger speed-up may seem better
CLAIMED = 2.9  # of Llama-3's time to the first token
REACHED = 0.95  # of the speed-up asked for, that an arm is to have
FIRST_TOKEN = "time_to_first_token"
PROMPT = "prompt_"  # of a workload, before its number of tokens
Key = tuple[str, float]  # rule and predicted speed-up


def eliminations(evidence: Evidence) -> dict[str, dict[Key, str]]:
    """Arms that eliminate and do nothing else, by run; the whole and tuned models.

    Without those that stay behind the speed-up of their name, as a flat profile does:
    what hardly eliminates shows nothing about elimination.
    """
    found: dict[str, dict[Key, str]] = {}
    given = reached(evidence)
    for arm, name in evidence.study.arms.items():
        if str(name.without("tuned", "eliminate")) == whole(evidence):
            choice = parse_elimination(str(name.options["eliminate"]))
            if given.get(arm, choice.speedup) >= REACHED * choice.speedup:
                key = (choice.rule, choice.speedup)
                found.setdefault(str(name.run), {})[key] = arm
    return found


def reached(evidence: Evidence) -> dict[str, float]:
    """Predicted speed-up of the prefill by arm, in the mean over seeds."""
    table = arm_table(evidence.arm_facts)
    means = table.groupby("model")["predicted_prefill"].mean()
    return {str(arm): float(speedup) for arm, speedup in means.items()}


def tuned(evidence: Evidence) -> dict[str, dict[Key, str]]:
    """Those over models that were trained on with elimination."""
    found = eliminations(evidence)
    return {run: arms for run, arms in found.items() if run != whole(evidence)}


# --- profile and time ---------------------------------------------------------------


def falls_with_depth(evidence: Evidence) -> Finding:
    """S4-1: the share of tokens that carries the attention falls from block to block.

    Spearman's correlation of block and contribution, one for each seed.
    """
    model = whole(evidence)
    found = [
        rank_correlation(facts["contribution"])
        for facts in evidence.arm_facts
        if facts["model"] == model
    ]
    if not found:
        return absent("contributions of attention")
    judged = superiority(found)
    # A t interval of few seeds does not know that correlations end at one.
    low, high = max(judged.ci_low, -1.0), min(judged.ci_high, 1.0)
    return replace(judged, ci_low=low, ci_high=high)


def rank_correlation(values: list[float]) -> float:
    """Spearman's, of values with their order; ties share ranks. NaN if all are one."""
    ranks = pd.Series(values, dtype=float).rank().to_numpy()
    if len(ranks) < 2 or ranks.std() == 0:
        return float("nan")
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def prefill_as_predicted(evidence: Evidence) -> Finding:
    """S4-2: the prefill's speed-up is the predicted one within 15 %.

    At the paper's size and the longest prompt; the study's own size in the note.
    """
    timed = _prefills(evidence, "paper")
    if not timed:
        return absent(f"elimination for {SPEEDUP:g} at the paper's size")
    tokens = max(timed)
    (choice, ratio), sizes = timed[tokens], paper_sizes(evidence)
    predicted = untrained_speedup(sizes, choice, tokens, tokens)
    found = ratio_within(*over(ratio, predicted), WITHIN)
    note = f"{ratio[0]:.2f} of {predicted:.2f} at {tokens} tokens"
    small = _prefills(evidence, "study")
    if small:
        longest = max(small)
        note += f"; at the study's size {small[longest][1][0]:.2f} at {longest}"
    return replace(found, note=joined(found.note, note))


def _prefills(
    evidence: Evidence, scale: str
) -> dict[int, tuple[EliminationChoice, Ratio]]:
    """Time to the first token without over with elimination, by prompt length."""
    datasets = [str(name) for name in evidence.units["dataset"].unique()]
    found: dict[int, tuple[EliminationChoice, Ratio]] = {}
    for dataset in datasets:
        if not dataset.startswith(PROMPT):
            continue
        for model, name in timed_arms(evidence, "eliminate", dataset, scale):
            choice = parse_elimination(str(name.options["eliminate"]))
            slow = str(name.without("eliminate"))
            ratio = time_ratio(evidence, slow, model, dataset, FIRST_TOKEN, scale)
            usual = choice.rule == ("linear" if scale == "paper" else "acc")
            if choice.speedup == SPEEDUP and usual and not np.isnan(ratio[0]):
                found[int(dataset.removeprefix(PROMPT))] = choice, ratio
    return found


def first_token(evidence: Evidence) -> Finding:
    """S4-7: the first token comes 2.9 times as fast, at 5 % of perplexity or less.

    Of the ACC arms whose perplexity, in the mean over seeds, is within 5 % of the whole
    model's, the one with the largest predicted speed-up; its measured one is judged.
    """
    axis, base = evidence.axes["first_token"], whole(evidence)
    tried = [
        (speedup, arm)
        for arms in eliminations(evidence).values()
        for (rule, speedup), arm in arms.items()
        if rule == "acc" and axis is not None and {arm, base} <= set(axis.models)
    ]
    losses = {arm: difference(evidence, arm, base) for _, arm in tried}
    if axis is None or not any(len(values) > 1 for values in losses.values()):
        return absent("two seeds of ACC elimination with times")
    passable = [
        (speedup, -float(losses[arm].mean()), arm)
        for speedup, arm in tried
        if len(losses[arm]) > 1 and math.exp(losses[arm].mean()) <= PASSABLE
    ]
    if not passable:
        note = f"no speed-up that was tried keeps within {PASSABLE:g} of perplexity"
        nan = float("nan")
        return Finding(1.0, nan, nan, CLAIMED, "not supported", note)
    speedup, loss, arm = max(passable)
    _, latency = axis.paired([base, arm])
    measured = ratio_interval(*latency.T) if len(latency) else (float("nan"),) * 3
    found = replace(ratio_within(*measured, (CLAIMED, np.inf)), threshold=CLAIMED)
    note = f"{arm}: predicted {speedup:g}, perplexity times {math.exp(-loss):.3f}"
    if speedup == max(s for s, _ in tried) and speedup < CLAIMED:
        note += "; no larger one was tried"
        if found.verdict == "not supported":
            found = replace(found, verdict="not tested")
    return replace(found, note=joined(found.note, note))


# --- quality ------------------------------------------------------------------------


def one_model_for_all(evidence: Evidence) -> Finding:
    """S4-3: from one tuned model, a larger speed-up never gives a better one.

    A seed's largest fall from one speed-up to the next, below .01 nats; the tuned model
    itself, which eliminates nothing, is the first. Three speed-ups are a range. Only
    where random elimination costs more.
    """
    by_run = {run: _path(run, arms) for run, arms in tuned(evidence).items()}
    run = max(by_run, key=lambda each: len(by_run[each]), default=None)
    if run is None or len(by_run[run]) < 3:
        return absent("a tuned model that reaches three speed-ups")
    path = by_run[run]
    steps = pd.DataFrame(
        {
            large: evidence.values(path[small], *SCORED)
            - evidence.values(path[large], *SCORED)
            for small, large in pairwise(sorted(path))
        }
    ).dropna()
    assay = _chance(evidence, run, tuned(evidence)[run])
    found = non_inferiority(steps.max(axis=1).to_numpy(), MONOTONE, assay)
    rise = difference(evidence, path[max(path)], path[min(path)])
    whole_rise = f"{rise.mean():+.3f} nats in all" if len(rise) else ""
    range_of = f"{len(path)} speed-ups of {run}, {min(path):g} to {max(path):g}"
    note = joined(range_of, whole_rise)
    return replace(found, note=joined(found.note, note))


def _path(run: str, arms: dict[Key, str]) -> dict[float, str]:
    """ACC arms of a run by speed-up, and the run itself at 1."""
    found = {speedup: arm for (rule, speedup), arm in arms.items() if rule == "acc"}
    return {1.0: run} | found


def _chance(evidence: Evidence, run: str, arms: dict[Key, str]) -> list[np.ndarray]:
    """What random elimination costs the run, or the whole model, in nats by seed.

    Where it costs nothing, that another costs nothing says nothing.
    """
    key, base = ("random", SPEEDUP), whole(evidence)
    control, chance = run, arms.get(key)
    if chance is None:
        control, chance = base, eliminations(evidence).get(base, {}).get(key)
    return [] if chance is None else [difference(evidence, chance, control)]


def small_drop(evidence: Evidence) -> Finding:
    """S4-4: at a speed-up of 2 the tuned model loses less than 2 % of perplexity.

    Against the model it was tuned from, and against itself without elimination, as
    tuning is training too. Only where random elimination is worse by more.
    """
    parts, labels, base = [], [], whole(evidence)
    arms = eliminations(evidence)
    for run, found in tuned(evidence).items():
        arm = found.get(("acc", SPEEDUP))
        if arm is None:
            continue
        assay = _chance(evidence, run, found)
        for other in (base, run):
            found_part = difference(evidence, arm, other)
            parts.append(non_inferiority(found_part, MARGIN, assay))
            labels.append(f"{arm} against {other}")
    if not parts:
        return absent(f"tuned ACC elimination that reaches {SPEEDUP:g}")
    shown = annotated(parts, labels)
    untuned = arms.get(base, {}).get(("acc", SPEEDUP))
    if untuned is not None and len(loss := difference(evidence, untuned, base)):
        shown = replace(shown, note=f"{shown.note}; untuned {loss.mean():+.3f} nats")
    return shown


def better_than(control: str) -> Callable[[Evidence], Finding]:
    """S4-5, S4-6: ACC loses less than a control, at every speed-up that has both.

    Where random elimination costs nothing that can be told from zero, neither can the
    rules be told apart: without a difference nothing was tested.
    """

    def judge(evidence: Evidence) -> Finding:
        parts, labels = [], []
        for run, arms in eliminations(evidence).items():
            chance = _chance(evidence, run, arms)
            sees = [superiority(cost, lower_is_better=False) for cost in chance]
            blind = not any(found.verdict == "supported" for found in sees)
            for (rule, speedup), arm in arms.items():
                rival = arms.get((control, speedup))
                if rule == "acc" and rival is not None and speedup > 1:
                    found = superiority(difference(evidence, arm, rival))
                    if blind and found.verdict == "inconclusive":
                        note = "no assay sensitivity"
                        found = replace(found, verdict="not tested", note=note)
                    parts.append(found)
                    labels.append(arm)
        if not parts:
            return absent(f"ACC beside {control} elimination, with what it asks for")
        return annotated(parts, labels)

    return judge


ELIMINATION = [
    Claim(
        "S4-1",
        "higher blocks need fewer tokens: ACC falls with depth",
        "correlation",
        falls_with_depth,
        "S4",
    ),
    Claim(
        "S4-2",
        "the predicted speed-up of the prefill is accurate",
        "ratio",
        prefill_as_predicted,
        "S4",
    ),
    Claim(
        "S4-3",
        "one tuned model serves a wide range of speed-ups",
        "nats",
        one_model_for_all,
        "S4",
    ),
    Claim(
        "S4-4",
        "at half of the prefill's cost quality hardly drops",
        "nats",
        small_drop,
        "S4",
    ),
    Claim(
        "S4-5",
        "ACC is better than random elimination",
        "nats",
        better_than("random"),
        "S4",
    ),
    Claim(
        "S4-6",
        "ACC is better than keeping recent tokens",
        "nats",
        better_than("recent"),
        "S4",
    ),
    Claim(
        "S4-7",
        "the first token comes up to 2.9 times as fast",
        "ratio",
        first_token,
        "S4",
    ),
]
