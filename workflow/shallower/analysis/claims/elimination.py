"""Claims of the fourth system: token elimination (S4).

Kachuee and Sharifkhani (arXiv 2201.03327), of whose paper abstracts alone were at hand.
Quality is the cross-entropy of continuations, of which no token is eliminated, of the
deepest baseline and of what was fine-tuned from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from shallower.analysis.claims.base import Claim, Context, divided
from shallower.analysis.estimates import ONE_SIDED, Comparison, Estimate, mean_level
from shallower.analysis.interventions import (
    CONTINUATION,
    PROMPT,
    accuracy,
    change,
    eliminations,
    fine_tuned,
    measured,
    predicted,
    source,
    speedup,
    task_changes,
)
from shallower.analysis.results import original_names
from shallower.analysis.verdicts import (
    Finding,
    absent,
    assay,
    conjunction,
    joined,
    non_inferiority,
    superiority,
    within,
)
from shallower.corpus.tasks import TASKS
from shallower.study.study import Study

WITHIN = (0.85, 1.15)  # measured over predicted
SPEEDUP = 2.0  # the predicted one that most claims are about
MARGIN = math.log(1.02)  # nats: 2 % of perplexity
PASSABLE = 1.05  # perplexity ratio up to which a speed-up counts
MONOTONE = 0.01  # nats by which a larger speed-up may seem better
CLAIMED = 2.9  # of Llama-3's time to the first token
REACHED = 0.95  # of the speed-up asked for, that an intervention must have
Key = tuple[str, float]  # rule and predicted speed-up


def by_run(context: Context) -> dict[str, dict[Key, str]]:
    """Interventions that only eliminate, by run: deepest baseline, fine-tuned ones.

    Without those that stay behind the speed-up of their label, as with a flat profile:
    what hardly eliminates shows nothing about elimination.
    """
    study, found = context.study, dict[str, dict[Key, str]]()
    given = predicted(context.results, "predicted_prefill")
    for label, choice in eliminations(study).items():
        name = study.names[label]
        reached = given.get(label, choice.speedup) >= REACHED * choice.speedup
        if reached and source(name) == study.intervened_on:
            key = (choice.rule, choice.speedup)
            found.setdefault(str(name.run), {})[key] = label
    return found


def tuned(context: Context) -> dict[str, dict[Key, str]]:
    """Those on runs that were fine-tuned with elimination; on the checkpoint itself.

    Nothing of a checkpoint is trained here.
    """
    base, found = context.study.intervened_on, by_run(context)
    if context.study.scored:
        return {run: labels for run, labels in found.items() if run == base}
    return {run: labels for run, labels in found.items() if run != base}


def nats(context: Context, left: str, right: str, one_sided: bool = False) -> Estimate:
    """left - right in the cross-entropy of continuations."""
    asked = change(left, right)
    return context.estimate(asked.at(ONE_SIDED) if one_sided else asked)


# --- profile and time -----------------------------------------------------------------


def falls_with_depth(context: Context) -> Finding:
    """S4-1: the share of tokens that carries the attention falls from block to block.

    Spearman's correlation of block and contribution, one for each seed; of a checkpoint
    one for each document.
    """
    model, found = context.study.intervened_on, []
    for run in context.results.choices:
        if run["model"] == model and run["contribution"]:
            measured_on = run.get("contribution_by_document", [run["contribution"]])
            found += [rank_correlation(values) for values in measured_on]
    if not found:
        return absent("contributions of attention")
    over = "documents" if context.study.scored else "seeds"
    asked = Comparison(model, "", "validation", "contribution", "correlation")
    asked = context.results.placed(asked)
    how = {"unit": "correlation", "method": f"Spearman's, t over {over}"}
    made = mean_level(asked, np.array(found), over, **how)
    # A t interval of few seeds does not know that correlations end at one.
    low, high = np.clip([made.ci_low, made.ci_high], -1, 1).tolist()
    return superiority(context.keep(replace(made, ci_low=low, ci_high=high)))


def rank_correlation(values: list[float]) -> float:
    """Spearman's, of values with their order. NaN if all are one."""
    if len(values) < 2 or len(set(values)) == 1:
        return float("nan")
    return float(stats.spearmanr(range(len(values)), values).statistic)


def prompt_speedup(
    context: Context, base: str, label: str, scale: str, tokens: int
) -> Estimate:
    """Of the first token, after a prompt of so many tokens."""
    asked = speedup(base, label, "first_token", f"{PROMPT}{tokens}", scale)
    return context.estimate(asked)


class Prefill(NamedTuple):
    """A speed-up of the first token, measured and predicted."""

    label: str
    asked: float  # the speed-up that the intervention was solved for
    tokens: int  # of the prompt
    timed: Estimate
    predicted: float


def original_prefills(context: Context) -> list[Prefill]:
    """Eliminations at the original's size that were timed, by prompt length."""
    names, found = original_names(context.study), []
    table = context.results.predictions.dropna(subset=["predicted_prefill"])
    for row in table.to_dict("records"):
        name = names.get(row["label"])
        choice = name.intervention.eliminate if name else None
        if name is None or choice is None:
            continue
        label, tokens = str(row["label"]), int(row["prompt_tokens"])
        timed = prompt_speedup(context, str(name.run), label, "original", tokens)
        if timed.exists:
            due = float(row["predicted_prefill"])
            found.append(Prefill(label, choice.speedup, tokens, timed, due))
    return found


def checkpoint_prefills(context: Context) -> list[Prefill]:
    """ACC eliminations on the checkpoint that were timed, at the scored prompt length.

    What is kept was chosen there, and with it the predicted speed-up.
    """
    study, found = context.study, []
    due = predicted(context.results, "predicted_prefill")
    labels = by_run(context).get(study.intervened_on, {})
    for (rule, asked), label in labels.items():
        timed = context.estimate(speedup(study.intervened_on, label, "first_token"))
        if rule == "acc" and timed.exists:
            tokens = study.pretrained.prompt_tokens
            found.append(Prefill(label, asked, tokens, timed, due[label]))
    return found


def prefill_as_predicted(context: Context) -> Finding:
    """S4-2: the prefill's speed-up is the predicted one within 15 %.

    Of the checkpoint, else at the original's size and the longest prompt, with the
    study's own size in the note.
    """
    on_checkpoint = context.study.timed_checkpoint
    timed = checkpoint_prefills if on_checkpoint else original_prefills
    rows = [row for row in timed(context) if row.asked == SPEEDUP]
    if not rows:
        return absent(f"times of elimination for {SPEEDUP:g}")
    last = max(rows, key=lambda row: row.tokens)
    found = within(divided(last.timed, last.predicted), WITHIN)
    note = f"{last.timed.effect:.2f} of {last.predicted:.2f} at {last.tokens} tokens"
    if not on_checkpoint:
        note += _at_study_size(context)
    return replace(found, note=joined(found.note, note))


def _at_study_size(context: Context) -> str:
    """The first token's speed-up of the study's own model, at its longest prompt."""
    base = context.study.intervened_on
    label = by_run(context).get(base, {}).get(("acc", SPEEDUP))
    timed = context.study.latency.interventions
    for tokens in sorted(timed.study.lengths if timed and label else [])[::-1]:
        small = prompt_speedup(context, base, str(label), "study", tokens)
        if small.exists:
            return f"; at the study's size {small.effect:.2f} at {tokens}"
    return ""


def first_token(context: Context) -> Finding:
    """S4-7: the first token comes 2.9 times as fast, at 5 % of perplexity or less.

    Of the ACC interventions whose perplexity, in the mean over seeds, is within 5 % of
    the unchanged model's, the one with the largest predicted speed-up; its measured one
    is judged.
    """
    data, base = (
        measured(context.results, "first_token"),
        context.study.intervened_on,
    )
    tried = [
        (speed, label)
        for labels in by_run(context).values()
        for (rule, speed), label in labels.items()
        if rule == "acc" and {label, base} <= set(data.models)
    ]
    losses = {label: nats(context, label, base) for _, label in tried}
    if not any(loss.n > 1 for loss in losses.values()):
        return absent("two seeds of ACC elimination with times")
    passable = [
        (speed, -losses[label].effect, label)
        for speed, label in tried
        if losses[label].n > 1 and math.exp(losses[label].effect) <= PASSABLE
    ]
    if not passable:
        note = f"no speed-up that was tried keeps within {PASSABLE:g} of perplexity"
        nan = float("nan")
        return Finding(1.0, nan, nan, nan, CLAIMED, "not supported", note)
    speed, loss, label = max(passable)
    ratio = context.estimate(speedup(base, label, "first_token"))
    found = within(ratio, (CLAIMED, np.inf), CLAIMED)
    note = f"{label}: predicted {speed:g}, perplexity times {math.exp(-loss):.3f}"
    if speed == max(s for s, _ in tried) and speed < CLAIMED:
        note += "; no larger one was tried"
        if found.verdict == "not supported":
            found = replace(found, verdict="not tested")
    return replace(found, note=joined(found.note, note))


# --- quality --------------------------------------------------------------------------


def one_model_for_all(context: Context) -> Finding:
    """S4-3: from one fine-tuned model, a larger speed-up never gives a better one.

    A seed's largest fall from one speed-up to the next, below .01 nats; the fine-tuned
    model itself, which eliminates nothing, is the first. Three speed-ups are a range.
    Only where random elimination costs more.
    """
    paths = {run: _path(run, labels) for run, labels in tuned(context).items()}
    run = max(paths, key=lambda each: len(paths[each]), default=None)
    if run is None or len(paths[run]) < 3:
        return absent("a fine-tuned model that reaches three speed-ups")
    path = paths[run]
    where = (CONTINUATION, "cross_entropy")
    steps = pd.DataFrame(
        {
            large: context.results.values(path[small], *where)
            - context.results.values(path[large], *where)
            for small, large in pairwise(sorted(path))
        }
    ).dropna()
    asked = Comparison(run, dataset=CONTINUATION, kind="maximum", level=ONE_SIDED)
    largest = steps.max(axis=1).to_numpy(float)
    method = "largest fall between neighbouring speed-ups, t over seeds"
    made = context.keep(mean_level(asked, largest, "seeds", method=method))
    found = non_inferiority(made, MONOTONE, _sensitive(context, run, MONOTONE))
    rise = nats(context, path[max(path)], path[min(path)])
    rise_note = f"{rise.effect:+.3f} nats in all" if rise.exists else ""
    range_of = f"{len(path)} speed-ups of {run}, {min(path):g} to {max(path):g}"
    return replace(found, note=joined(found.note, range_of, rise_note))


def _path(run: str, labels: dict[Key, str]) -> dict[float, str]:
    """ACC interventions on a run by speed-up, and the run itself at 1."""
    found = {speed: label for (rule, speed), label in labels.items() if rule == "acc"}
    return {1.0: run} | found


def _at_random(context: Context, run: str) -> tuple[str, str] | None:
    """Random elimination and what it costs over: the run, or the deepest baseline.

    Where it costs nothing, that another rule costs nothing says nothing.
    """
    found, key = by_run(context), ("random", SPEEDUP)
    for control in (run, context.study.intervened_on):
        label = found.get(control, {}).get(key)
        if label is not None:
            return label, control
    return None


def _sensitive(context: Context, run: str, margin: float) -> bool:
    """Assay sensitivity: random elimination is worse, by more than the margin."""
    pair = _at_random(context, run)
    if pair is None:
        return False
    return assay(nats(context, *pair), nats(context, *pair, one_sided=True), margin)


def small_drop(context: Context) -> Finding:
    """S4-4: at a speed-up of 2 the fine-tuned model loses less than 2 % of perplexity.

    Against the model it was tuned from, and against itself without elimination, as
    tuning is training too. Only where random elimination is worse by more.
    """
    parts, labels, base = [], [], context.study.intervened_on
    for run, found in tuned(context).items():
        label = found.get(("acc", SPEEDUP))
        if label is None:
            continue
        sensitive = _sensitive(context, run, MARGIN)
        for other in dict.fromkeys((base, run)):
            part = nats(context, label, other, one_sided=True)
            parts.append(non_inferiority(part, MARGIN, sensitive))
            labels.append(f"{label} against {other}")
    if not parts:
        return absent(f"fine-tuned ACC elimination that reaches {SPEEDUP:g}")
    shown = conjunction(parts, labels)
    untuned = by_run(context).get(base, {}).get(("acc", SPEEDUP))
    loss = nats(context, untuned, base) if untuned is not None else None
    if loss is not None and loss.exists:
        shown = replace(shown, note=f"{shown.note}; untuned {loss.effect:+.3f} nats")
    return shown


def better_than(control: str) -> Callable[[Context], Finding]:
    """S4-5, S4-6: ACC loses less than a control, at every speed-up that has both.

    Where random elimination costs nothing that can be told from zero, neither can the
    rules be told apart: without a difference nothing was tested.
    """

    def judge(context: Context) -> Finding:
        parts, labels = [], []
        for run, found in by_run(context).items():
            pair = _at_random(context, run)
            cost = superiority(nats(context, *pair), False) if pair else None
            blind = cost is None or cost.verdict != "supported"
            for (rule, speed), label in found.items():
                rival = found.get((control, speed))
                if rule == "acc" and rival is not None and speed > 1:
                    part = superiority(nats(context, label, rival))
                    if blind and part.verdict == "inconclusive":
                        note = "no assay sensitivity"
                        part = replace(part, verdict="not tested", note=note)
                    parts.append(part)
                    labels.append(label)
        if not parts:
            return absent(f"ACC beside {control} elimination, with what it asks for")
        return conjunction(parts, labels)

    return judge


# --- further comparisons --------------------------------------------------------------


def comparisons(study: Study) -> Iterator[Comparison]:
    """Cost and speed-up of every model that eliminates tokens or was tuned for it."""
    for label in [*eliminations(study), *fine_tuned(study)]:
        base = source(study.names[label])
        yield change(label, base)
        yield speedup(base, label, "first_token")
        timed = study.latency.pretrained
        if study.names[label].pretrained and timed and timed.prompts:
            for tokens in timed.prompts.lengths:
                yield speedup(base, label, "first_token", f"{PROMPT}{tokens}")
    yield from task_changes(study)
    for checkpoint, _ in study.scored if study.pretrained.tasks else []:
        for task in TASKS:
            yield accuracy(checkpoint, task)
            yield accuracy(checkpoint, task, "accuracy.control")


CLAIMS = [
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
        kind="cost",
        scale="original",
        weights="untrained",
    ),
    Claim(
        "S4-3",
        "one fine-tuned model serves a wide range of speed-ups",
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
        kind="cost",
    ),
]
