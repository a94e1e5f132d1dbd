"""Tables of the combined study: who gains what over its nulls, dominates, adds up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from shallower.analysis import gains
from shallower.analysis.changes import changes_of, without
from shallower.analysis.front_data import FrontData, plain
from shallower.analysis.gains import FAVOUR, Gain
from shallower.analysis.pareto import (
    COLUMNS,
    Measured,
    dominance,
    hypervolume,
    points,
    reference_point,
)
from shallower.analysis.verdicts import Verdict, equivalence, superiority
from shallower.models.choices import parse_skip
from shallower.names import parse_name
from shallower.systems import system_of

NAN = float("nan")
ADDS_UP = 0.03  # nats: changes within it of their sum are called additive
GAIN_COLUMNS = [
    "axis",  # per_token | first_token | training
    "model",
    "null",  # depth | block | flops
    "effect",  # model - null at equal latency (training: FLOPs), nats
    "ci_low",  # over seeds
    "ci_high",
    "total_low",  # over seeds and sessions; what the verdict goes by
    "total_high",
    "speedup",  # null / model in time, at equal quality
    "speedup_low",  # over seeds and sessions
    "speedup_high",
    "values",  # gains by seed, nats
    "nulls",  # the models that the null was made of
    "verdict",
    "note",
]
DOMINANCE_COLUMNS = [
    *("axis", "model", "over", "probability", "bootstrap"),
    *("quality", "quality_ci_low", "quality_ci_high"),  # difference, nats
    *("latency", "latency_ci_low", "latency_ci_high"),  # ratio
    *("verdict", "note"),
]
ADDITIVITY_COLUMNS = [
    *("both", "a", "b", "base", "seeds", "n", "effect", "ci_low", "ci_high"),
    *("verdict", "note"),
]
HYPERVOLUME_COLUMNS = ["axis", "system", "models", "hypervolume", "share"]
DEPTH, ALL = "depth", "all"  # beside the systems


def group_of(model: str) -> str:
    """The system of a model, or `depth` for the plain baselines."""
    return DEPTH if plain([model]) else system_of(model)


def pareto_table(data: FrontData) -> pd.DataFrame:
    """The points of both axes, fastest first."""
    found = [
        points(axis, {model: group_of(model) for model in axis.models})
        for axis in data.axes.values()
    ]
    return pd.concat(found, ignore_index=True) if found else _table([], COLUMNS)


# --- gains --------------------------------------------------------------------------


def gain_table(data: FrontData) -> pd.DataFrame:
    """Every model against depth, skipped sublayers against blocks, and equal FLOPs."""
    rows: list[dict[str, Any]] = []
    for axis in data.axes.values():
        depths, blocks = plain(axis.models), block_null(axis.models, data.deepest)
        for model in axis.models:
            if model not in depths:
                rows.append(_against(axis, model, DEPTH, depths))
            if blocks and model not in blocks and _skips(model):
                rows.append(_against(axis, model, "block", blocks))
    return _table([*rows, *_training(data)], GAIN_COLUMNS)


def block_null(models: Sequence[str], deepest: str) -> list[str]:
    """The deepest baseline, whole and without its last blocks; empty if either lacks.

    What skipping sublayers has to beat without training anything else.
    """
    prefix = f"{deepest}__skip=block.latter."
    shorter = [
        m for m in models if m.startswith(prefix) and set(_options(m)) == {"skip"}
    ]
    shorter.sort(key=lambda model: parse_skip(_options(model)["skip"]).k)
    return [deepest, *shorter] if shorter and deepest in models else []


def _options(model: str) -> dict[str, str]:
    return {key: str(value) for key, value in parse_name(model).options.items()}


def _skips(model: str) -> bool:
    return "skip" in _options(model)


def compared(
    axis: Measured, model: str, nulls: Sequence[str], null: str = DEPTH
) -> tuple[Gain, Gain]:
    """A model against a curve of others, at equal latency and at equal quality.

    NaN, with a note, where there is no curve or nothing that all of them have.
    """
    if not nulls:
        return (_none(f"no {null} was timed"),) * 2
    if not all(map(len, axis.paired([model, *nulls]))):
        return (_none("no seed, or no session, in common with all of the null's"),) * 2
    at_latency = gains.iso_latency_gain(axis, model, nulls)
    return at_latency, gains.iso_quality_speedup(axis, model, nulls)


def _against(
    axis: Measured, model: str, null: str, nulls: Sequence[str]
) -> dict[str, Any]:
    found, speedup = compared(axis, model, nulls, null)
    return _gain_row(axis.axis, model, null, found, speedup, FAVOUR)


def _training(data: FrontData) -> Iterator[dict[str, Any]]:
    """Gains over the deepest baseline at as many training FLOPs."""
    known = [model for model in data.quality if model in data.flops]
    controls = [model for model in known if _is_budget(model, data.deepest)]
    for model in data.models:
        if model not in controls and model not in data.diverged:
            found = _none("no control, or no training FLOPs")
            if controls and model in known:
                found = gains.equal_flops_gain(
                    data.quality, model, controls, data.flops
                )
            yield _gain_row("training", model, "flops", found, _none())


def _none(note: str = "") -> Gain:
    return Gain(NAN, NAN, NAN, NAN, NAN, note=note)


def _is_budget(model: str, deepest: str) -> bool:
    """Whether it is the deepest baseline, trained for however many steps."""
    name = parse_name(model)
    return str(name.without("steps")) == deepest


def _gain_row(
    axis: str, model: str, null: str, found: Gain, speedup: Gain, favour: float = 0.0
) -> dict[str, Any]:
    verdict = gain_verdict(found, favour)
    notes = [found.note]
    if verdict == "not tested" and not found.note:
        notes = ["fewer than two seeds or sessions"]
    if speedup.note and speedup.note != found.note:
        notes.append(f"speed-up: {speedup.note}")
    return {
        "axis": axis,
        "model": model,
        "null": null,
        **{key: getattr(found, key) for key in GAIN_COLUMNS[3:8]},
        "speedup": speedup.effect,
        "speedup_low": speedup.total_low,
        "speedup_high": speedup.total_high,
        "values": " ".join(f"{value:.6g}" for value in found.values),
        "nulls": " ".join(found.models),
        "verdict": verdict,
        "note": "; ".join(note for note in notes if note),
    }


def gain_verdict(gain: Gain, favour: float = 0.0) -> Verdict:
    """Supported below 0; not supported above what the null is favoured by.

    Both by the total interval, which counts in what the sessions leave open.
    """
    if not np.isfinite([gain.effect, gain.total_low, gain.total_high]).all():
        return "not tested"
    if gain.total_high < 0:
        return "supported"
    return "not supported" if gain.total_low > favour else "inconclusive"


# --- dominance, additivity, hypervolume ---------------------------------------------


def dominance_table(data: FrontData) -> pd.DataFrame:
    """Every model over every depth of the baseline, and the other way round."""
    rows = []
    for axis in data.axes.values():
        depths = plain(axis.models)
        arms = [model for model in axis.models if model not in depths]
        pairs = [(arm, depth) for arm in arms for depth in depths]
        for a, b in [*pairs, *((b, a) for a, b in pairs)]:
            found = dominance(axis, a, b)
            row = {"axis": axis.axis, "model": a, "over": b}
            row |= {key: getattr(found, key) for key in ("probability", "bootstrap")}
            for key in ("quality", "latency"):
                part = getattr(found, key)
                row |= {key: part.effect}
                row |= {f"{key}_{e}": getattr(part, e) for e in ("ci_low", "ci_high")}
            note = found.verdict.note
            rows.append(row | {"verdict": found.verdict.verdict, "note": note})
    return _table(rows, DOMINANCE_COLUMNS)


def additivity_table(data: FrontData) -> pd.DataFrame:
    """Whether two changes of a model add up: with both, either and neither."""
    quality, rows = data.quality, []
    for both in quality:
        name = parse_name(both)
        if name.t5_size:
            continue
        for first, second in combinations(changes_of(name), 2):
            a, b = (str(without(name, change)) for change in (second, first))
            base = str(without(without(name, first), second))
            if {a, b, base} <= set(quality):
                names = {"both": both, "a": a, "b": b, "base": base}
                rows.append(names | _additive(quality, *names.values()))
    return _table(rows, ADDITIVITY_COLUMNS)


def _additive(
    quality: pd.DataFrame, both: str, a: str, b: str, base: str
) -> dict[str, Any]:
    """The claim that two changes add up, refuted if the 95 % interval excludes 0."""
    found = gains.additivity(quality, a, b, both, base)
    values = (quality[both] - quality[a] - quality[b] + quality[base]).dropna()
    differs, same = superiority(values), equivalence(values, ADDS_UP)
    verdict, note = same.verdict, same.note
    if differs.verdict in ("supported", "not supported"):
        more = differs.verdict == "supported"
        verdict = "not supported"
        note = f"together {'better' if more else 'worse'} than the sum"
        note += f", within {ADDS_UP:g} nats" if same.verdict == "supported" else ""
    elif verdict == "not supported":  # the 90 % interval is, the 95 % reaches 0
        verdict = "inconclusive"
    return found | {"verdict": verdict, "note": note}


def hypervolume_table(data: FrontData) -> pd.DataFrame:
    """Area that each system dominates, with one reference, and its share of all's."""
    rows = []
    for axis in data.axes.values():
        means = {"quality": axis.quality.mean(), "latency": axis.latency.mean()}
        table = pd.DataFrame(means).rename_axis("model").reset_index()
        reference = reference_point(table)
        groups = table["model"].map(group_of)
        whole = _area(table, reference)
        names = sorted(set(groups), key=lambda name: (name != DEPTH, name))
        for name in [*names, ALL]:
            chosen = table if name == ALL else table[groups == name]
            area = _area(chosen, reference)
            share = area / whole if whole > 0 else NAN
            row = {"axis": axis.axis, "system": name, "models": len(chosen)}
            rows.append(row | {"hypervolume": area, "share": share})
    return _table(rows, HYPERVOLUME_COLUMNS)


def _area(table: pd.DataFrame, reference: tuple[float, float]) -> float:
    quality, latency = (table[k].to_numpy(float) for k in ("quality", "latency"))
    return hypervolume(quality, latency, reference)


def _table(rows: Sequence[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """With its header, even if there is no row."""
    return pd.DataFrame(list(rows), columns=columns)
