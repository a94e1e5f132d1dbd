"""Figures of the second system: FFN variants, distillation, and what a maximum does."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.analysis import thesis
from shallower.analysis.thesis_tables import RUNS
from shallower.reporting import style
from shallower.reporting.experiments import above, absent, key
from shallower.reporting.ffn import (
    FAMILIES,
    arms,
    compared,
    label,
    student_label,
)
from shallower.reporting.results import Results

FILLED = {"equal_tokens": True, "equal_flops": False}  # marks
SPREADS = ("Mini (Baseline)", "Base→Mini")  # rows whose spreads the figure takes


def draw(results: Results) -> Figure:
    """Forest plots: FFN arms against the plain model, students against controls."""
    left, right = arms(results), results.study.students
    if not left and not right:
        return absent("FFN variants and distillation")
    height = 1.3 + 0.22 * max(len(left), 1.6 * len(right))
    figure = Figure(figsize=(style.PAGE, height))
    axes = figure.subplots(1, 2)
    names = [label(results.study.models[model]) for model in left]
    _forest(axes[0], results, left, names, ["ffn"])
    axes[0].set_title("FFN variants", fontsize=8)
    axes[0].set_xlabel("cross-entropy − plain model (nats)")
    names = [student_label(results.study.models[model]) for model in right]
    _forest(axes[1], results, right, names, list(FAMILIES))
    axes[1].set_title("students", fontsize=8)
    axes[1].set_xlabel("cross-entropy − control (nats)")
    if right:
        marks: list[dict[str, Any]] = [{}, {"mfc": "white"}]
        handles = [
            key(text, marker="o", lw=0, ms=4, color="0.3", **mark)
            for text, mark in zip(FAMILIES.values(), marks, strict=True)
        ]
        above(figure, handles)
    return figure


def _forest(
    axes: Axes,
    results: Results,
    models: list[str],
    names: list[str],
    families: list[str],
) -> None:
    """A row a model and family: mean, 95 % t interval, and the seeds below it."""
    axes.axvline(0, color="0.6", lw=0.6, zorder=0)
    variants = list(dict.fromkeys(n.variant for n in results.study.models.values()))
    for shift, family in enumerate(families):
        table = compared(results, family)
        for place, model in enumerate(models):
            if model not in table.index:
                continue
            row, y = table.loc[model], place + 0.3 * shift
            colour = style.colour(results.study.models[model].variant, variants)
            axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1)
            fill = colour if FILLED.get(family, True) else "white"
            axes.plot(row["effect"], y, marker="o", ms=4, color=colour, mfc=fill)
            seeds = results.by_seed(model) - results.by_seed(str(row["right"]))
            axes.scatter(seeds, [y + 0.13] * len(seeds), s=3, color=colour, alpha=0.5)
    axes.set_yticks(range(len(models)), names, fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(models) - 0.3, -0.6)


def draw_maximum(results: Results) -> Figure:
    """How far the best of n runs lies above their mean, for two spreads of Table 4.6.

    Lines by theory (order statistics of a normal), marks by 20,000 drawn experiments.
    """
    spreads = thesis.distillation_rows().set_index("row")["sd"]
    figure = Figure(figsize=(style.COLUMN, 2.3))
    axes = figure.subplots()
    runs = np.arange(1, 11)
    draws = np.random.default_rng(0).standard_normal((20_000, runs[-1]))
    bests = np.maximum.accumulate(draws, axis=1).mean(axis=0)
    expected = np.array([thesis.expected_maximum(int(n)) for n in runs])
    for row, colour in zip(SPREADS, style.COLOURS.values(), strict=True):
        sd = float(spreads[row])
        axes.plot(runs, sd * expected, color=colour, label=f"{row}: sd {sd:.2f}")
        axes.plot(runs, sd * bests, "o", ms=3, color=colour, mfc="white")
    axes.axvline(RUNS, color="0.6", lw=0.6, ls=":")
    axes.set(xlabel="runs of which the best is shown", xticks=runs)
    axes.set_ylabel("best − mean (points)")
    axes.legend(loc="upper left", fontsize=6.5)
    return figure
