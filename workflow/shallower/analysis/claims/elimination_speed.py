"""Claims on the speed of elimination: as predicted (S4-2), at what cost (S4-7)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shallower.analysis.claims.base import Context, divided
from shallower.analysis.claims.elimination_runs import SPEEDUP, by_run, sensitive
from shallower.analysis.estimates import ONE_SIDED, Comparison, Estimate
from shallower.analysis.gains import Measured
from shallower.analysis.interventions import (
    CONTINUATION,
    PROMPT,
    measured,
    predicted,
    speedup,
)
from shallower.analysis.results import original_names
from shallower.analysis.statistics import half_of_sum
from shallower.analysis.verdicts import (
    Finding,
    absent,
    conjunction,
    joined,
    non_inferiority,
    within,
)

WITHIN = (0.85, 1.15)  # measured over predicted
PASSABLE = math.log(1.05)  # nats: 5 % of perplexity
CLAIMED = 2.9  # of Llama-3's time to the first token


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
    base = study.timed_on
    labels = by_run(context, base).get(base, {})
    for (rule, asked), label in labels.items():
        timed = context.estimate(speedup(base, label, "first_token"))
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


# --- how fast at what cost ------------------------------------------------------------


def first_token(context: Context) -> Finding:
    """S4-7: with the first token 2.9 times as fast, perplexity rises by less than 5 %.

    Judged at the speed-up that is claimed, as measured: the cost there is read between
    the neighbouring ones (see `cost_at`), so that it does not depend on which were
    tried. Of what was fine-tuned, else of the unchanged model. Where none is as fast,
    the fastest refutes the claim if it costs too much; else nothing is tested.
    """
    base = context.study.timed_on
    data = measured(context.results, "first_token", base)
    found = by_run(context, base)
    parts, labels, margin = [], [], context.factor * PASSABLE
    for run in [run for run in found if run != base] or [base]:
        tried = found.get(run, {}).items()
        acc = [label for (rule, _), label in tried if rule == "acc"]
        curve = [run, *(label for label in acc if label in data.models)]
        if len(curve) < 2 or not {run, base} <= set(data.models):
            continue
        made, fastest = cost_at(context, data, base, curve)
        judged = non_inferiority(made, margin, sensitive(context, run, margin))
        if fastest < CLAIMED and judged.verdict != "not supported":
            judged = replace(judged, verdict="not tested")
        notes = made.note if judged.verdict != "not tested" or fastest < CLAIMED else ""
        parts.append(replace(judged, note=joined(judged.note, notes)))
        labels.append(run)
    if not parts:
        return absent("times of ACC elimination")
    return parts[0] if len(parts) == 1 else conjunction(parts, labels)


def cost_at(
    context: Context, data: Measured, base: str, curve: list[str]
) -> tuple[Estimate, float]:
    """Cost in nats at the claimed speed-up, and the largest speed-up of the curve.

    At the largest one, if that is smaller. Linear in the speed-up between neighbouring
    models of the curve. The error is that of seeds (or documents) there, plus what the
    sessions leave open: their speed-ups, times the slope; Satterthwaite's degrees of
    freedom.
    """
    quality, latency = data.paired([base, *curve])
    over = context.results.replicates_of(curve[-1])
    asked = Comparison(curve[-1], base, CONTINUATION, kind="cost", level=ONE_SIDED)
    asked = context.results.placed(asked)
    speedups = latency[:, :1] / latency[:, 1:]  # (sessions, models)
    knots = latency[:, 0].mean() / latency[:, 1:].mean(axis=0)
    order = np.argsort(knots)
    knots, speedups = knots[order], speedups[:, order]
    costs = quality[:, 1:][:, order] - quality[:, :1]
    at = min(CLAIMED, float(knots[-1]))
    place = int(np.clip(np.searchsorted(knots, at) - 1, 0, len(knots) - 2))
    share = (at - knots[place]) / (knots[place + 1] - knots[place])
    weights = np.zeros(len(knots))
    weights[place : place + 2] = 1 - share, share
    slope = np.diff(costs.mean(axis=0))[place] / np.diff(knots)[place]
    values = costs @ weights
    parts = [values, -slope * (speedups @ weights)]
    half, df = (float(each) for each in half_of_sum(parts, ONE_SIDED))
    ends = f"{curve[order[place]]} and {curve[order[place + 1]]}"
    where = f"at a measured {at:.2f}, between {ends}"
    if at < CLAIMED:
        where = f"the fastest is {at:.2f}, {curve[order[-1]]}"
    made = Estimate.of(
        asked,
        unit="nats",
        replicates=over,
        n=len(quality),
        effect=float(values.mean()),
        ci_low=float(values.mean() - half),
        ci_high=float(values.mean() + half),
        df=df,
        method=f"interpolated, t over {over} and sessions",
        note=where,
    )
    return context.keep(made), float(knots[-1])
