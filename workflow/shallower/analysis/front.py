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
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis import gains
from shallower.analysis.claims.base import Context, Fact
from shallower.analysis.estimates import Comparison, Estimate, Kind
from shallower.analysis.gains import (
    FAVOUR,
    Gain,
    Measured,
    non_dominated,
    on_front_probability,
)
from shallower.analysis.interventions import (
    AXES,
    CONTINUATION,
    against_curve,
    against_training,
    change,
    curve_of,
    depth_baselines,
    intervention_table,
    measured,
    predicted,
    profile_table,
    quality_of,
    speedup,
    sublayers,
)
from shallower.analysis.results import Results, labelled
from shallower.analysis.statistics import t_interval
from shallower.analysis.verdicts import Finding, within
from shallower.models.registry import FFNS
from shallower.study.names import DISTILLED, ModelName
from shallower.study.study import Study

NAN = float("nan")
LIKELY = 0.2  # probability from which a model may well be on the front
FP32 = 4  # bytes
PARETO_COLUMNS = [
    *("model", "intervention", "system", "axis", "scale"),
    # nats; 95 %, t over seeds, of a checkpoint over documents
    *("quality", "quality_ci_low", "quality_ci_high"),
    *("latency", "latency_ci_low", "latency_ci_high"),  # us; 95 %, t over sessions
    "on_front_probability",
    "on_front",  # by the means
    *("seeds", "sessions"),  # which
    "documents",  # how many, of a checkpoint, which has no seeds
]
METHOD_COLUMNS = [
    *("model", "intervention", "system"),
    "cache_bytes",  # single precision, for a prompt and its continuation
    "cache_share",  # of that of the run without the intervention
    "training_flops",  # of all that was trained for it
    "training_share",  # of the deepest baseline's
    *("predicted_decode", "predicted_prefill"),  # speed-ups, means over seeds
    "axis",  # that the method is for, and that the verdict is about
    "verdict",  # on the gain over fewer blocks, which themselves have none
]


# --- measurements ---------------------------------------------------------------------


def _front_rows(results: Results, data: Measured) -> pd.DataFrame:
    """The rows of pareto.csv for one axis, fastest first."""
    chances = on_front_probability(data)
    best = non_dominated(data.quality.mean().to_numpy(), data.latency.mean().to_numpy())
    rows = []
    for label, on_front in zip(data.models, best, strict=True):
        row = _identity(results.study.names[label])
        scale = results.scale_of(label)
        row |= {"axis": data.axis, "scale": scale, "on_front": bool(on_front)}
        row["on_front_probability"] = chances[label]
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


def _identity(name: ModelName) -> dict[str, Any]:
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
        found.append(context.keep(made) if made.exists else made)
    return found


# --- two changes of one model ---------------------------------------------------------

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


def comparisons(study: Study) -> Iterator[Comparison]:
    """Of checkpoints: their quality; what two interventions cost and gain together."""
    for checkpoint in study.pretrained.chosen:
        yield Comparison(checkpoint, "", CONTINUATION, kind="level")
    for label, name in (study.checkpoints | study.pooled).items():
        if {"skip", "eliminate"} <= set(name.options):
            yield change(label, str(name.run))
            for axis in AXES:
                yield speedup(str(name.run), label, axis)


def interactions(context: Context) -> Iterator[Estimate]:
    """What two changes of a model do beyond the sum of both, in nats.

    Zero if they add up; negative if together they do better. For every pair of changes
    whose four models (both, either, neither) were scored, of what is trained and of
    checkpoints.
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
                values = values.dropna()
                low, high = t_interval(values.to_numpy())
                mean = float(values.mean()) if len(values) else NAN
                gain = Gain(mean, low, high, len(values), note=f"of {a} and {b}")
                asked = Comparison(both, base, CONTINUATION, kind="interaction")
                asked = context.results.placed(asked)
                yield context.keep(_estimate(asked, gain, f"t over {over}", over))


# --- tables and facts -----------------------------------------------------------------


def tables(context: Context) -> dict[str, pd.DataFrame]:
    """pareto.csv, methods.csv, interventions.csv and profiles.csv."""
    results = context.results
    bases = (results.study.deepest_baseline, *results.study.pretrained.chosen)
    measurements = [measured(results, axis, base) for base in bases for axis in AXES]
    fronts = [_front_rows(results, data) for data in measurements if data.models]
    empty = pd.DataFrame(columns=PARETO_COLUMNS)
    chosen = intervention_table(results)
    return {
        "pareto": pd.concat(fronts, ignore_index=True) if fronts else empty,
        "methods": _method_table(context, chosen),
        "interventions": chosen,
        "profiles": profile_table(results),
    }


def purpose(name: ModelName) -> str:
    """The axis that a method is for: elimination shortens the prefill alone.

    So does fine-tuning for elimination.
    """
    first = bool({"eliminate", "tuned"} & set(name.options))
    return "first_token" if first else "per_token"


def checkpoints(study: Study) -> list[str]:
    """Bases of models that are scored by document, or pooled over checkpoints."""
    return [*study.pretrained.chosen, *([study.intervened_on] if study.pooled else [])]


def _method_table(context: Context, chosen: pd.DataFrame) -> pd.DataFrame:
    """A row for every model that was scored: what it costs, and its verdict.

    But for checkpoints without single sublayers, which are a profile.
    """
    results, study = context.results, context.study
    flops = training_flops(results, list(quality_of(results)))
    keys = [chosen["model"], chosen["intervention"]]
    means = chosen.groupby(keys).mean(numeric_only=True)
    shown = {*study.front, *study.checkpoints, *study.pooled} - {*sublayers(study)}
    rows = []
    for base in (study.deepest_baseline, *checkpoints(study)):
        by_axis = {axis: measured(results, axis, base) for axis in AXES}
        for label in quality_of(results, base):
            if label in shown:
                row = _costs(results, label, means)
                row["training_flops"] = flops.get(label, NAN)
                whole = flops.get(study.deepest_baseline, NAN)
                row["training_share"] = row["training_flops"] / whole
                row["verdict"] = _verdict(context, by_axis[row["axis"]], label)
                rows.append(row)
    return pd.DataFrame(rows, columns=METHOD_COLUMNS)


def _costs(results: Results, label: str, means: pd.DataFrame) -> dict[str, Any]:
    """What a model is, and the memory and speed that were predicted of it."""
    study, name = results.study, results.study.names[label]
    row = _identity(name) | {"axis": purpose(name), "cache_bytes": NAN}
    unhealed = name.without("healed", "by")
    key = (str(unhealed.run), str(unhealed.intervention))
    if key in means.index:
        row |= means.loc[key, ["predicted_decode", "predicted_prefill"]].to_dict()
        row["cache_bytes"] = means.loc[key, "cache_bytes"]
        row["cache_share"] = row["cache_bytes"] / means.loc[key, "run_cache_bytes"]
    elif label in study.models:
        row["cache_bytes"] = _cache_bytes(results, label)
    elif label in study.pooled:
        for column in ("predicted_decode", "predicted_prefill"):
            row[column] = predicted(results, column).get(label, NAN)
    return row


def _verdict(context: Context, data: Measured, label: str) -> str:
    """On the gain over fewer blocks, or over blocks left out of the checkpoint.

    These themselves have none.
    """
    name = context.study.names[label]
    curve = "blocks" if name.pretrained else "depth"
    if name.is_depth_baseline or label in curve_of(context.study, data, curve):
        return ""
    if label not in data.models:
        return "not tested"
    return _gated(context, gain_over(context, data, label, curve)[0]).verdict


def _gated(context: Context, gain: Estimate, favour: float = FAVOUR) -> Finding:
    """The verdict on a gain, if the model and what makes the curve pass the gates."""
    found = judged_gain(gain, favour)
    if gain.scale != "study":
        return found
    curve = tuple(depth_baselines(context.study))
    return context.gated(replace(found, models=(gain.left, *curve)))


def _cache_bytes(results: Results, label: str) -> float:
    """Of a run: keys and values of a prompt and its continuation."""
    study = results.study
    tokens = study.prompt_tokens + study.evaluation.new_tokens
    model = study.spec(label, 0).model
    blocks = results.size(label, "attending_blocks")
    return float(2 * blocks * tokens * model.inner * FP32)


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
    yield from _interaction_counts("front.interactions", trained)
    own = [e for e in found if str(study.names[e.left].run) == study.intervened_on]
    if study.scored:
        yield from _interaction_counts("pretrained.interactions", own)


def _interaction_counts(key: str, found: list[Estimate]) -> Iterator[Fact]:
    """How many pairs of changes there are, and which do not add up."""
    yield Fact(key, len(found))
    yield Fact(f"{key}.better", sum(e.ci_high < 0 for e in found))
    yield Fact(f"{key}.worse", sum(e.ci_low > 0 for e in found))


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
    verdicts = [_gated(context, gain, favour).verdict for gain in found]
    for verdict in ("supported", "not supported", "inconclusive", "not tested"):
        number = verdicts.count(verdict)
        yield Fact(f"{key}.gains.{verdict.replace(' ', '_')}", number)
    known = sum(np.isfinite(gain.effect) for gain in found)
    yield Fact(f"{key}.gains.compared", int(known))


def _on_front(key: str, table: pd.DataFrame, depths: set[str]) -> Iterator[Fact]:
    best, others = table[table["on_front"]], table[~table["on_front"]]
    yield Fact(f"{key}.size", len(best))
    yield Fact(f"{key}.depths", int(labelled(best)["label"].isin(depths).sum()))
    near = others["on_front_probability"] >= LIKELY
    yield Fact(f"{key}.near", int(near.sum()))
