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

import pandas as pd
from scipy import stats

from shallower.analysis.claims.base import Claim, Context
from shallower.analysis.claims.elimination_runs import (
    SPEEDUP,
    Key,
    at_random,
    by_run,
    nats,
    sensitive,
    tuned,
)
from shallower.analysis.claims.elimination_speed import (
    first_token,
    prefill_as_predicted,
)
from shallower.analysis.estimates import ONE_SIDED, Comparison, Estimate, mean_level
from shallower.analysis.interventions import (
    CONTINUATION,
    PROMPT,
    accuracy,
    change,
    eliminations,
    fine_tuned,
    source,
    speedup,
    task_changes,
)
from shallower.analysis.statistics import mean_correlation
from shallower.analysis.verdicts import (
    Finding,
    absent,
    conjunction,
    joined,
    non_inferiority,
    superiority,
)
from shallower.corpus.tasks import TASKS
from shallower.study.study import Study

MARGIN = math.log(1.02)  # nats: 2 % of perplexity
MONOTONE = 0.01  # nats by which a larger speed-up may seem better


# --- profile --------------------------------------------------------------------------


def falls_with_depth(context: Context) -> Finding:
    """S4-1: the share of tokens that carries the attention falls from block to block.

    Spearman's correlation of block and contribution, one for each seed; of a checkpoint
    one for each document, of several one for each of them.
    """
    study, found, blocks = context.study, [], []
    model = study.intervened_on
    for run in context.results.choices:
        if run["model"] not in (study.pretrained.chosen if study.pooled else [model]):
            continue
        documents = run.get("contribution_by_document", [run["contribution"]])
        if run["contribution"]:
            measured_on = [run["contribution"]] if study.pooled else documents
            found += [rank_correlation(values) for values in measured_on]
            blocks.append(len(run["contribution"]))
    if not found:
        return absent("contributions of attention")
    over = context.results.replicates_of(model)
    asked = Comparison(model, "", "validation", "contribution", "correlation")
    asked = context.results.placed(asked)
    effect, low, high = mean_correlation(found, min(blocks))
    made = Estimate.of(
        asked,
        unit="correlation",
        replicates=over,
        n=len(found),
        effect=effect,
        ci_low=low,
        ci_high=high,
        df=len(found) - 1,
        method=f"Spearman's, t of Fisher's z over {over}",
    )
    return superiority(context.keep(made))


def rank_correlation(values: list[float]) -> float:
    """Spearman's, of values with their order. NaN if all are one."""
    if len(values) < 2 or len(set(values)) == 1:
        return float("nan")
    return float(stats.spearmanr(range(len(values)), values).statistic)


# --- quality --------------------------------------------------------------------------


def one_model_for_all(context: Context) -> Finding:
    """S4-3: from one model, a larger speed-up never gives a better one.

    A seed's largest fall from one speed-up to the next, below .01 nats; the fine-tuned
    model itself, which eliminates nothing, is the first. Three speed-ups are a range.
    Only where random elimination costs more.
    """
    paths = {run: _path(run, labels) for run, labels in tuned(context).items()}
    run = max(paths, key=lambda each: len(paths[each]), default=None)
    if run is None or len(paths[run]) < 3:
        return absent("a fine-tuned model that reaches three speed-ups")
    path = paths[run]
    if context.study.scored:
        return _no_step_is_better(context, run, path)
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
    margin = context.factor * MONOTONE
    found = non_inferiority(made, margin, sensitive(context, run, margin))
    rise = nats(context, path[max(path)], path[min(path)])
    rise_note = f"{rise.effect:+.3f} nats in all" if rise.exists else ""
    range_of = f"{len(path)} speed-ups of {run}, {min(path):g} to {max(path):g}"
    return replace(found, note=joined(found.note, range_of, rise_note))


def _no_step_is_better(context: Context, run: str, path: dict[float, str]) -> Finding:
    """Of a checkpoint each step to the next speed-up is judged by itself.

    A document's largest fall is one of the noise of its few tokens, which seeds, each a
    mean over documents, hardly have.
    """
    margin, parts = context.factor * MONOTONE, []
    tells = sensitive(context, run, margin)
    steps = list(pairwise(sorted(path)))
    for small, large in steps:
        fall = nats(context, path[small], path[large], one_sided=True)
        parts.append(non_inferiority(fall, margin, tells))
    found = conjunction(parts, [f"{small:g} to {large:g}" for small, large in steps])
    rise = nats(context, path[max(path)], path[min(path)])
    range_of = f"{len(path)} speed-ups of {run}, {min(path):g} to {max(path):g}"
    return replace(
        found, note=joined(found.note, range_of, f"{rise.effect:+.3f} nats in all")
    )


def _path(run: str, labels: dict[Key, str]) -> dict[float, str]:
    """ACC interventions on a run by speed-up, and the run itself at 1."""
    found = {speed: label for (rule, speed), label in labels.items() if rule == "acc"}
    return {1.0: run} | found


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
        margin = context.factor * MARGIN
        tells = sensitive(context, run, margin)
        for other in dict.fromkeys((base, run)):
            part = nats(context, label, other, one_sided=True)
            parts.append(non_inferiority(part, margin, tells))
            labels.append(f"{label} against {other}")
    if not parts:
        return absent(f"fine-tuned ACC elimination that reaches {SPEEDUP:g}")
    shown = conjunction(parts, labels)
    untuned = by_run(context).get(base, {}).get(("acc", SPEEDUP))
    loss = nats(context, untuned, base) if untuned is not None else None
    if loss is not None and loss.exists and not context.study.scored:
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
            pair = at_random(context, run)
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
        timed=True,
    ),
    Claim(
        "S4-3",
        "one model serves a range of speed-ups: a larger one is never better",
        "nats",
        one_model_for_all,
        "S4",
        has_margin=True,
    ),
    Claim(
        "S4-4",
        "at half of the prefill's cost quality hardly drops",
        "nats",
        small_drop,
        "S4",
        has_margin=True,
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
        "the first token comes 2.9 times as fast at 5 % of perplexity",
        "nats",
        first_token,
        "S4",
        timed=True,
        has_margin=True,
    ),
]
