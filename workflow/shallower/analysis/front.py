"""The front: every model by quality and latency, its costs, and what it gains.

A point takes its cross-entropy (nats, lower is better) and its time (microseconds) from
the same trained model at the study's scale, in the form that is deployed. Seeds are the
unit of quality, sessions (one process each) that of time.

Every pretrained checkpoint has a front of its own, of the interventions on it, with
documents as the unit of quality. The plain way to make it faster is to leave out its
last blocks, as fewer blocks are for what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis import gains
from shallower.analysis.claims.base import Context, Fact, plain
from shallower.analysis.estimates import Comparison, Estimate, Kind
from shallower.analysis.gains import (
    FAVOUR,
    Gain,
    Measured,
    non_dominated,
    on_front_probability,
)
from shallower.analysis.interactions import interaction_counts, interactions
from shallower.analysis.interventions import (
    AXES,
    CONTINUATION,
    against_curve,
    against_training,
    change,
    curve_of,
    depth_baselines,
    measured,
    quality_of,
    speedup,
)
from shallower.analysis.result_files import labelled
from shallower.analysis.results import Results
from shallower.analysis.statistics import t_interval
from shallower.analysis.verdicts import Finding, joined, within
from shallower.study.names import ModelName
from shallower.study.study import Study

NAN = float("nan")
OF_DEPTH = "of fewer blocks alone"  # begins the note of a gain that counts for nothing
LIKELY = 0.2  # probability from which a model may well be on the front
PARETO_COLUMNS = [
    *("model", "intervention", "system", "axis", "scale"),
    # nats; 95 %, t over seeds, of a checkpoint over documents
    *("quality", "quality_ci_low", "quality_ci_high"),
    *("latency", "latency_ci_low", "latency_ci_high"),  # us; 95 %, t over sessions
    "on_front_probability",
    "on_front",  # by the means
    "by_construction",  # the fastest: on the front, whatever its quality
    *("seeds", "sessions"),  # which
    "documents",  # how many, of a checkpoint, which has no seeds
]
# --- measurements ---------------------------------------------------------------------


def _front_rows(results: Results, data: Measured) -> pd.DataFrame:
    """The rows of pareto.csv for one axis, fastest first."""
    chances, fastest = on_front_probability(data), data.latency.mean().idxmin()
    best = non_dominated(data.quality.mean().to_numpy(), data.latency.mean().to_numpy())
    rows = []
    for label, on_front in zip(data.models, best, strict=True):
        row = identity(results.study.names[label])
        scale = results.scale_of(label)
        row |= {"axis": data.axis, "scale": scale, "on_front": bool(on_front)}
        row["on_front_probability"] = chances[label]
        row["by_construction"] = label == fastest
        columns = data.quality[label].dropna(), data.latency[label].dropna()
        for name, unit, values in zip(
            ("quality", "latency"), ("seeds", "sessions"), columns, strict=True
        ):
            low, high = t_interval(values.to_numpy())
            row |= {name: values.mean(), f"{name}_ci_low": low, f"{name}_ci_high": high}
            row[unit] = " ".join(map(str, values.index))
        if scale == "pretrained":
            row |= {"seeds": "", "documents": str(len(columns[0]))}
        rows.append(row)
    table = pd.DataFrame(rows, columns=PARETO_COLUMNS)
    return table.sort_values(["latency", "quality"], ignore_index=True)


def identity(name: ModelName) -> dict[str, Any]:
    """The columns that say which model a row is of."""
    done = str(name.intervention)
    return {"model": str(name.run), "intervention": done, "system": name.system}


# --- training cost --------------------------------------------------------------------


def training_flops(results: Results, labels: list[str]) -> dict[str, float]:
    """FLOPs of all training behind each model: its run, and what that went on from.

    Parents and teachers are counted with theirs, each run once; an intervention costs
    what its run costs. Means over seeds.
    """
    study, own, found = results.study, dict[str, float](), {}
    for label in labels:
        runs = lineage(study, str(study.names[label].run))
        for run in runs - set(own):
            seeds = study.seeds_of(run)
            own[run] = float(
                np.mean([results.training(run, s)["flops"] for s in seeds])
            )
        found[label] = float(sum(own[run] for run in sorted(runs)))
    return found


def lineage(study: Study, run: str) -> set[str]:
    """A run with its parent and its teacher, and theirs."""
    found: set[str] = set()
    waiting = [run]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            name = study.models[each]
            before = (name.parent and str(name.parent), name.teacher)
            waiting += [label for label in before if label]
    return found


# --- gains ----------------------------------------------------------------------------


def gain_over(
    context: Context, data: Measured, label: str, curve: str
) -> tuple[Estimate, Estimate]:
    """A model's gain at equal latency, and its speed-up at equal quality."""
    others = curve_of(context.study, data, curve)
    answers, replicates = [], context.results.replicates_of(label)
    measures: dict[Kind, Callable[[Measured, str, list[str]], Gain]] = {
        "gain": gains.gain_at_equal_latency,
        "speedup": gains.speedup_at_equal_quality,
    }
    for kind, measure in measures.items():
        asked = context.results.placed(against_curve(label, curve, data.axis, kind))
        if not others:
            answers.append(Estimate.missing(asked, f"no curve of {curve} was timed"))
            continue
        if asked.id not in context.used:
            method = f"t over {replicates} and sessions"
            found = measure(data, label, others)
            context.keep(_estimate(asked, found, method, replicates))
        answers.append(context.used[asked.id])
    return answers[0], answers[1]


def _estimate(
    asked: Comparison, found: Gain, method: str, replicates: str = "seeds"
) -> Estimate:
    notes = [found.note, "curve: " + ", ".join(found.models) if found.models else ""]
    return Estimate.of(
        asked,
        unit="ratio" if asked.kind == "speedup" else "nats",
        replicates=replicates,
        n=found.seeds,
        effect=found.effect,
        ci_low=found.low,
        ci_high=found.high,
        method=method,
        note="; ".join(note for note in notes if note),
    )


def judged_gain(found: Estimate, favour: float = FAVOUR) -> Finding:
    """The claim that a gain is below zero, refuted only beyond what favours a curve."""
    judged = within(found, (-np.inf, 0.0))
    if found.note.startswith(OF_DEPTH):
        return replace(judged, verdict="not tested", note=OF_DEPTH)
    if judged.verdict == "not supported" and found.ci_low <= favour:
        return replace(judged, verdict="inconclusive")
    return judged


def gains_over_training(context: Context, labels: Iterable[str]) -> list[Estimate]:
    """Gains of these models over the deepest baseline at as many training FLOPs."""
    results, study = context.results, context.study
    quality = quality_of(results)
    flops = training_flops(results, list(quality))
    deepest = study.deepest_baseline
    controls = [m for m in quality if str(study.names[m].without("steps")) == deepest]
    found = []
    for label in labels:
        if label in controls:
            continue
        asked = against_training(label)
        made = Estimate.missing(asked, "no control")
        if controls:
            gain = gains.gain_at_equal_flops(quality, label, controls, flops)
            made = _estimate(asked, gain, "paired difference, t over seeds")
            if made.ci_high < 0 and not _beats_its_depth(context, label):
                made = replace(made, note=joined(OF_DEPTH, made.note))
        found.append(context.keep(made) if made.exists else made)
    return found


def comparisons(study: Study) -> Iterator[Comparison]:
    """Of checkpoints: their quality; what two interventions cost and gain together."""
    for checkpoint in study.pretrained.chosen:
        yield Comparison(checkpoint, "", CONTINUATION, kind="level")
    for label, name in (study.checkpoints | study.pooled).items():
        if {"skip", "eliminate"} <= set(name.options):
            yield change(label, str(name.run))
            for axis in AXES:
                yield speedup(str(name.run), label, axis)


def _beats_its_depth(context: Context, label: str) -> bool:
    """Whether a model is better than the plain baseline of as many blocks.

    Else what it gains at equal training FLOPs is that of fewer blocks, each trained
    longer: even a layer that adds no function gains so. True of what has as many blocks
    as the deepest baseline.
    """
    study = context.study
    depth = study.names[label].depth
    if depth == study.names[study.deepest_baseline].depth:
        return True
    return context.estimate(change(label, plain("baseline", depth))).ci_high < 0


# --- tables and facts -----------------------------------------------------------------


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """pareto.csv."""
    results = context.results
    bases = (results.study.deepest_baseline, *results.study.pretrained.chosen)
    measurements = [measured(results, axis, base) for base in bases for axis in AXES]
    fronts = [_front_rows(results, data) for data in measurements if data.models]
    empty = pd.DataFrame(columns=PARETO_COLUMNS)
    return {"pareto": pd.concat(fronts, ignore_index=True) if fronts else empty}


def gated(context: Context, gain: Estimate, favour: float = FAVOUR) -> Finding:
    """The verdict on a gain, if the model and what makes the curve pass the gates."""
    found = judged_gain(gain, favour)
    if gain.scale != "study":
        return found
    curve = tuple(depth_baselines(context.study))
    return context.gated(replace(found, models=(gain.left, *curve)))


def facts(context: Context) -> Iterator[Fact]:
    """How many models there are, are on a front, and gain."""
    study = context.study
    measurements = [measured(context.results, axis) for axis in AXES]
    yield from _checkpoint_facts(context)
    seen = dict.fromkeys(m for data in measurements for m in data.models)
    depths = set(depth_baselines(study))
    yield Fact("front.models", len(seen))
    yield Fact("front.depth", len(depths & set(seen)))
    for system in ("S1", "S2", "S3", "S4", "combined"):
        models = [m for m in seen if study.names[m].system == system]
        yield Fact(f"front.{system}", len(set(models) - depths))
    for data in measurements:
        key = f"front.{data.axis}"
        if data.models:
            yield from _on_front(key, _front_rows(context.results, data), depths)
            yield from _rank(key, data)
        found = []
        for label in data.models:
            if label not in depths:
                found.append(gain_over(context, data, label, "depth")[0])
            skipped = "skip" in study.names[label].options
            if skipped and label not in curve_of(study, data, "blocks"):
                gain_over(context, data, label, "blocks")
        yield from gain_counts(context, key, found)
    trained = [e for e in gains_over_training(context, seen) if e.left not in depths]
    yield from gain_counts(context, "front.training", trained, 0.0)
    found = list(interactions(context))
    trained = [e for e in found if e.scale == "study"]
    yield from interaction_counts("front.interactions", trained)
    own = [e for e in found if str(study.names[e.left].run) == study.intervened_on]
    if study.scored:
        yield from interaction_counts("pretrained.interactions", own)


def _checkpoint_facts(context: Context) -> Iterator[Fact]:
    """The same of the first checkpoint; gains over left out blocks of every one.

    Keys begin with `pretrained.`.
    """
    study = context.study
    for base in study.pretrained.chosen:
        first = base == study.timed_on
        data = {axis: measured(context.results, axis, base) for axis in AXES}
        if first:
            seen = {label for each in data.values() for label in each.models}
            yield Fact("pretrained.models", len(seen))
        for axis, each in data.items():
            key, curve = f"pretrained.{axis}", curve_of(study, each, "blocks")
            others = [label for label in each.models if label not in curve]
            found = [gain_over(context, each, m, "blocks")[0] for m in others]
            if first:
                yield from gain_counts(context, key, found)
            if first and each.models:
                yield from _on_front(key, _front_rows(context.results, each), {*curve})


def gain_counts(
    context: Context, key: str, found: list[Estimate], favour: float = FAVOUR
) -> Iterator[Fact]:
    """How many gains have each verdict, and how many there are."""
    verdicts = [gated(context, gain, favour).verdict for gain in found]
    for verdict in ("supported", "not supported", "inconclusive", "not tested"):
        number = verdicts.count(verdict)
        yield Fact(f"{key}.gains.{verdict.replace(' ', '_')}", number)
    known = sum(np.isfinite(gain.effect) for gain in found)
    yield Fact(f"{key}.gains.compared", int(known))


def _rank(key: str, data: Measured) -> Iterator[Fact]:
    """Of the covariance that probabilities are drawn with: with few seeds it is small.

    Each pair of models is compared as by a paired t test, but the draws of many models
    move together in so many directions alone.
    """
    quality, _ = data.paired(data.models)
    yield Fact(f"{key}.rank", min(max(len(quality) - 1, 0), len(data.models)))


def _on_front(key: str, table: pd.DataFrame, depths: set[str]) -> Iterator[Fact]:
    best, others = table[table["on_front"]], table[~table["on_front"]]
    yield Fact(f"{key}.size", len(best))
    yield Fact(f"{key}.depths", int(labelled(best)["label"].isin(depths).sum()))
    near = others["on_front_probability"] >= LIKELY
    yield Fact(f"{key}.near", int(near.sum()))
