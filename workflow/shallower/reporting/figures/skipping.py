"""Figure of skipping: its cost by the number of blocks, and what each block does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shallower.analysis.estimates import Estimate
from shallower.analysis.interventions import (
    change,
    depth_baselines,
    skips,
    source,
    sublayers,
)
from shallower.analysis.results import Results
from shallower.interventions.skip import RULES, Skip
from shallower.reporting import style

COLOURS = {"attention": "#CC79A7", "ffn": "#009E73", "block": "#E69F00"}
PARTS = {"attention": "attention", "ffn": "FFN", "block": "whole block"}
# Rules whose points are joined over k.
LINES: dict[str, Any] = {"last": "-", "first": (0, (2, 1.2))}
HEALED: dict[str, Any] = {"marker": "X", "ms": 5.5, "mec": "0.1", "mew": 0.5}
ROOM = 0.5  # of what the points span, beyond them, for intervals


def draw(results: Results) -> Figure:
    """Change of cross-entropy against k; importance by block."""
    study = results.study
    base = study.intervened_on
    chosen = {
        label: skip
        for label, skip in skips(study).items()
        if source(study.names[label]) == base
    }
    if not chosen:
        return style.absent("skipping", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 2.6))
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    _by_number(left, results, chosen)
    if any(source(study.names[label]) == base for label in sublayers(study)):
        _profile(right, results, base)
    else:
        _importance(right, results, base)
    _legend(figure, results, chosen)
    return figure


def _healed(results: Results, label: str) -> bool:
    return "healed" in results.study.names[label].options


def _shallower(results: Results) -> list[str]:
    """Baselines of other depths; a checkpoint has none."""
    study = results.study
    pretrained = study.names[study.intervened_on].pretrained
    return [] if pretrained else depth_baselines(study)


def _by_number(axes: Axes, results: Results, chosen: dict[str, Skip]) -> None:
    """Skipped blocks, and beside them baselines trained with as many blocks fewer."""
    base = results.study.intervened_on
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    found = {label: results.estimate(change(label, base)) for label in chosen}
    shifts = {rule: 0.08 * (i - 1) for i, rule in enumerate(RULES)}
    for part, colour in COLOURS.items():
        for rule, dash in LINES.items():
            points = sorted(
                (skip.k, found[label].effect)
                for label, skip in chosen.items()
                if (skip.part, skip.rule) == (part, rule)
                and not _healed(results, label)
            )
            if not points:
                continue
            at = [0.0, *(k + shifts[rule] for k, _ in points)]
            heights = [0.0, *(nats for _, nats in points)]
            axes.plot(at, heights, color=colour, linestyle=dash, zorder=2)
    for label, skip in chosen.items():
        looks: dict[str, Any] = {"marker": RULES[skip.rule].marker, "ms": 3.8}
        if _healed(results, label):
            looks = HEALED
        x = skip.k + shifts[skip.rule]
        _point(axes, x, found[label], COLOURS[skip.part], looks)
    fewer = {
        results.study.names[base].depth - results.study.names[m].depth: m
        for m in _shallower(results)
        if m != base
    }
    blocks = {k: results.estimate(change(m, base)) for k, m in sorted(fewer.items())}
    trained = {"marker": "o", "ms": 5, "mec": "white", "mew": 0.4}
    for k, one in blocks.items():
        _point(axes, k - 0.16, one, style.COLOURS["baseline"], trained)
    drawn = [one.effect for one in (*found.values(), *blocks.values())]
    within(axes, [0.0, *(float(skip.k) for skip in chosen.values())], [0.0, *drawn])
    if results.study.names[base].pretrained:
        _hundredths_to_tens(axes)
    axes.set(xlabel="blocks", ylabel="change of cross-entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _point(
    axes: Axes, x: float, found: Estimate, colour: str, looks: dict[str, Any]
) -> None:
    """A mark with its interval over seeds."""
    ends = [found.ci_low, found.ci_high]
    axes.plot([x, x], ends, color=colour, lw=0.7, alpha=0.6, zorder=3)
    axes.plot(x, found.effect, color=colour, zorder=4, **looks)


def within(axes: Axes, x: Iterable[float], y: Iterable[float]) -> None:
    """Limits by what is drawn at x and y, not by intervals many times as wide.

    With two sessions or seeds a t interval may be, and would hide the rest.
    """
    limits: list[tuple[Iterable[float], Callable[..., Any], Callable[..., Any]]] = [
        (x, axes.get_xlim, axes.set_xlim),
        (y, axes.get_ylim, axes.set_ylim),
    ]
    for values, get, limit in limits:
        known = [value for value in values if not np.isnan(value)] or [0.0]
        room = ROOM * (max(known) - min(known) or 1.0)
        low, high = get()
        limit(max(low, min(known) - room), min(high, max(known) + room))


def _importance(axes: Axes, results: Results, base: str) -> None:
    """1 - cosine of what goes into a sublayer and what comes out, by block."""
    for part, colour in COLOURS.items():
        by_block(axes, profile(results, base, f"importance_{part}"), colour)
    axes.set(xlabel="block", ylabel="importance (1 − cosine)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _profile(axes: Axes, results: Results, base: str) -> None:
    """Change of cross-entropy without a single sublayer, by its block."""
    study = results.study
    for part, colour in COLOURS.items():
        found = {
            skip.draw + 1: results.estimate(change(label, base))
            for label, skip in sublayers(study).items()
            if skip.part == part and source(study.names[label]) == base
        }
        blocks = sorted(found)
        low, middle, high = (
            [getattr(found[block], end) for block in blocks]
            for end in ("ci_low", "effect", "ci_high")
        )
        axes.fill_between(blocks, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(blocks, middle, color=colour, marker="o", ms=2.4)
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    _hundredths_to_tens(axes)
    axes.set(xlabel="block left out alone", ylabel="change of cross-entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _hundredths_to_tens(axes: Axes) -> None:
    """A scale from hundredths of a nat to tens: linear around 0, else logarithmic."""
    axes.set_yscale("symlog", linthresh=0.1)
    axes.yaxis.set_major_formatter("{x:g}")  # powers would be small print


def profile(results: Results, model: str, metric: str) -> pd.DataFrame:
    """Blocks, counted from 1, x seeds."""
    rows = results.profiles
    rows = rows[(rows["model"] == model) & (rows["metric"] == metric)]
    wide = rows.pivot(index="block", columns="seed", values="value")
    return wide.set_axis(wide.index + 1)


def by_block(axes: Axes, wide: pd.DataFrame, colour: str, **looks: Any) -> None:
    """A line for the mean over the columns, faint ones for the columns."""
    for seed in wide:
        axes.plot(wide.index, wide[seed], color=colour, lw=0.5, alpha=0.35)
    mark: dict[str, Any] = {"marker": "o", "ms": 2.8} | looks
    axes.plot(wide.index, wide.mean(axis=1), color=colour, **mark)


def _legend(figure: Figure, results: Results, chosen: dict[str, Skip]) -> None:
    """Parts by colour, rules by shape, and what was trained with fewer blocks."""
    handles = [
        style.key(PARTS[part], color=colour, lw=3)
        for part, colour in COLOURS.items()
        if any(skip.part == part for skip in chosen.values())
    ]
    unhealed = [s for m, s in chosen.items() if not _healed(results, m)]
    for name, rule in RULES.items():
        if any(skip.rule == name for skip in unhealed):
            looks: dict[str, Any] = {"marker": rule.marker, "ms": 3.8, "color": "0.3"}
            looks |= {"lw": int(name in LINES), "linestyle": LINES.get(name, "-")}
            handles.append(style.key(rule.words.format("k"), **looks))
    if len(unhealed) < len(chosen):
        handles.append(style.key("healed", color="0.3", lw=0, **HEALED))
    if len(_shallower(results)) > 1:
        looks = {"color": style.COLOURS["baseline"], "marker": "o", "ms": 5, "lw": 0}
        handles.append(style.key("trained with k blocks fewer", **looks))
    style.above(figure, handles, ncols=-(-len(handles) // 3), handlelength=1.7)


FIGURES: dict[str, Callable[[Results], Figure]] = {"skipping": draw}
