"""Figures of the experiments beside the paper's own: head, learning_rate, budget.

A study without an experiment gets a figure that says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from shallower.analysis.ablation import (
    DIRECT,
    EXPLORATORY,
    OTHER,
    head_differences,
    registered,
)
from shallower.analysis.runs import effect
from shallower.analysis.search import BAD_MODE, bad_modes, search_runs, uniform_entropy
from shallower.config import Study
from shallower.names import ModelName, short
from shallower.reporting import style
from shallower.reporting.results import Results
from shallower.words import counted

ORIGINAL = 5.9  # training tokens per parameter, at most, of the original's models
SHOWN = ("baseline", "silu", "proposed")  # whose insides are drawn, if they are there
QUANTITIES = {  # of diagnostics.csv -> label
    "entropy": "attention entropy (nats)",
    "output_rms": "RMS of heads' outputs",
    "branch_ratio": "attention / stream RMS",
    "gradient_norm": "gradient norm",
}
FILLS: dict[str, Any] = {DIRECT: "full", OTHER: "left", EXPLORATORY: "none"}


def order(study: Study) -> list[str]:
    """All variants of a study: a variant looks the same in every figure."""
    return list(dict.fromkeys(name.variant for name in study.models.values()))


def look(variant: str, variants: list[str]) -> tuple[str, Any]:
    """Colour and dashes of a variant's line.

    There are 18 such looks; figures with more lines than colours also label them.
    """
    place = variants.index(variant)
    dash = style.DASHES[(place + place // 4) % len(style.DASHES)]
    return style.colour(variant, variants), dash


def key(label: str, **looks: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **looks)


def above(figure: Figure, handles: list[Any], **looks: Any) -> None:
    """A legend above all axes, where it hides nothing."""
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": 3}
    where |= {"fontsize": 6.5, "handlelength": 2} | looks
    figure.legend(handles=handles, **where)


def absent(experiment: str, width: float = style.COLUMN) -> Figure:
    """A figure that says that the study has no such experiment."""
    figure = Figure(figsize=(width, 0.8))
    axes = figure.subplots()
    axes.set_axis_off()
    text = f"{experiment}: not in this study"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.35")
    return figure


# --- which part of the added layer matters ---------------------------------------


def head_ablation(results: Results) -> Figure:
    """Forest plot: every variant's paired difference to the baseline of its depth.

    Bars are 95 % t intervals over seeds, small dots the seeds.
    """
    study = results.study
    found = head_differences(study, results.units)
    if not found:
        return absent("head ablation")
    figure = Figure(figsize=(style.COLUMN, 1.15 + 0.24 * len(found)))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", lw=0.6, zorder=0)
    for place, (model, differences) in enumerate(found.items()):
        kind = registered(study, model)
        _forest_row(axes, place, differences, study.models[model].variant, kind)
    axes.set_yticks(range(len(found)), _forest_labels(study, found))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(found) - 0.4, -0.6)
    _seed_counts(axes, list(found.values()))
    figure.supxlabel("test cross-entropy − baseline (nats)", fontsize=8)
    _forest_legend(figure, {registered(study, model) for model in found})
    return figure


def _forest_row(
    axes: Axes, place: int, differences: pd.Series, variant: str, kind: str
) -> None:
    """Seeds as faint dots below the mean with its interval."""
    colour = style.COLOURS.get(variant, "0.25")
    seeds = [place + 0.24] * len(differences)
    axes.scatter(differences, seeds, color=colour, s=4, alpha=0.5, lw=0)
    found = effect(differences)
    if not np.isnan(found["ci_low"]):
        axes.plot([found["ci_low"], found["ci_high"]], [place] * 2, color=colour, lw=1)
    axes.plot(found["effect"], place, color=colour, **_mark(kind))


def _mark(kind: str) -> dict[str, Any]:
    """Marker whose fill says whether a comparison was pre-registered."""
    mark = {"marker": "o", "ms": 4.5, "mew": 0.8}
    if kind == EXPLORATORY:  # white, so that the interval does not cross it
        return mark | {"mfc": "white"}
    return mark | {"fillstyle": FILLS[kind], "markerfacecoloralt": "white"}


def _forest_labels(study: Study, models: dict[str, pd.Series]) -> list[str]:
    """Variants, with the depth or options where these differ."""
    names = [study.models[model] for model in models]
    same = len({(name.depth, str(name.options)) for name in names}) == 1
    if same:
        return [name.variant for name in names]
    return [
        ", ".join(
            [f"{n.variant} ({n.depth} blocks)"]
            + [f"{option} {short(value)}" for option, value in n.options.items()]
        )
        for n in names
    ]


def _seed_counts(axes: Axes, rows: list[pd.Series]) -> None:
    """Number of seeds of every row, right of the axes."""
    transform = axes.get_yaxis_transform()
    where: dict[str, Any] = {"transform": transform, "fontsize": 6.5, "va": "center"}
    axes.text(1.02, -0.6, "seeds", **(where | {"va": "bottom"}))
    for place, differences in enumerate(rows):
        axes.text(1.06, place, str(len(differences)), **where)


def _forest_legend(figure: Figure, kinds: set[str]) -> None:
    """The fills that occur; nothing if no comparison was pre-registered."""
    if kinds == {EXPLORATORY}:
        return
    shown = [kind for kind in FILLS if kind in kinds]
    handles = [key(kind, color="0.25", lw=0, **_mark(kind)) for kind in shown]
    above(figure, handles, fontsize=6, columnspacing=0.8, handletextpad=0.2)


# --- the learning rate -----------------------------------------------------------

RING: dict[str, Any] = {"marker": "o", "ms": 8, "mfc": "none", "mew": 0.9, "lw": 0}
DOT: dict[str, Any] = {"marker": "o", "ms": 2.4, "mew": 0, "lw": 0}
CROSS: dict[str, Any] = {"marker": "x", "ms": 3.6, "mew": 0.8, "lw": 0}


def learning_rate(results: Results) -> Figure:
    """Validation cross-entropy against the rate; a panel per initialisation.

    Lines join means over seeds; a ring marks an arm's best rate, a cross a run that
    ends in the bad mode (see `analysis.search.BAD_MODE`).
    """
    study, table = results.study, results.learning_rate
    if table.empty:
        return absent("learning rate")
    modes = bad_modes(study, results.diagnostics(study.runs_of("learning_rate")))
    runs = search_runs(study, results.units)
    runs = runs.assign(
        bad=[
            bool(modes.get(run, False))
            for run in zip(runs["model"], runs["seed"], strict=True)
        ]
    )
    panels = list(table.groupby(["init_std", "steps"]))
    figure = Figure(figsize=(style.COLUMN, 0.8 + 1.5 * len(panels)))
    grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)
    variants = order(study)
    several = table["steps"].nunique() > 1
    for axes, ((std, steps), part) in zip(grid[:, 0], panels, strict=True):
        inside = (runs["init_std"] == std) & (runs["steps"] == steps)
        for arm, rows in part.groupby("arm", sort=False):
            mine = runs[inside & (runs["arm"] == arm)]
            _rate_line(axes, rows, mine, variants)
        title = f"initial standard deviation {std:g}" + f", {steps} steps" * several
        axes.set_title(title, fontsize=7.5, loc="left")
    for axes, (_, part) in zip(grid[:, 0], panels, strict=True):
        _end_labels(axes, part, variants)  # when the common limits are known
    _rate_axis(grid[-1, 0], sorted(table["learning_rate"].unique()))
    figure.supylabel("validation cross-entropy (nats)", fontsize=8)
    _rate_legend(figure, bool(runs["bad"].any()))
    return figure


def _rate_line(
    axes: Axes, rows: pd.DataFrame, runs: pd.DataFrame, variants: list[str]
) -> None:
    """One arm: its means over the rates, its best rate and its runs."""
    colour, dash = look(str(rows["variant"].iloc[0]), variants)
    axes.plot(
        rows["learning_rate"], rows["cross_entropy"], color=colour, linestyle=dash
    )
    best = rows[rows["best"]]
    axes.plot(best["learning_rate"], best["cross_entropy"], color=colour, **RING)
    for mark, chosen in ((DOT, runs[~runs["bad"]]), (CROSS, runs[runs["bad"]])):
        rates, losses = chosen["learning_rate"], chosen["cross_entropy"]
        axes.plot(rates, losses, color=colour, **mark)


def _end_labels(axes: Axes, table: pd.DataFrame, variants: list[str]) -> None:
    """Names of the arms at their lines' right ends, moved apart where they touch."""
    ends = table.sort_values("learning_rate").groupby("arm").tail(1)
    plain = ends["depth"].nunique() == 1 and not ends["arm"].str.contains("__").any()
    low, high = axes.get_ylim()
    gap = 0.11 * (high - low)  # about the height of a line of text
    place = -np.inf
    for row in ends.sort_values("cross_entropy").to_dict("records"):
        place = max(place + gap, row["cross_entropy"])
        axes.annotate(
            row["variant"] if plain else row["arm"],
            (row["learning_rate"], place),
            xytext=(7, 0),
            textcoords="offset points",
            color=look(row["variant"], variants)[0],
            fontsize=6.5,
            va="center",
            annotation_clip=False,
        )


def _rate_axis(axes: Axes, rates: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(rates, [short(float(rate)) for rate in rates], fontsize=7)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("peak learning rate")


def _rate_legend(figure: Figure, bad: bool) -> None:
    handles = [key("run", color="0.25", **DOT)]
    if bad:
        handles.append(key("run in the bad mode", color="0.25", **CROSS))
    above(figure, [*handles, key("best rate", color="0.25", **(RING | {"ms": 5}))])


# --- more and fewer tokens -------------------------------------------------------


def budget(results: Results) -> Figure:
    """Test cross-entropy against tokens per parameter, for the budget experiment.

    Colours are variants, dashes and markers depths; open markers are widths
    other than the study's. Bars are 95 % t intervals over seeds.
    """
    study = results.study
    named = [study.models[model] for model, _ in study.runs_of("budget")]
    arms = {(name.variant, name.depth) for name in named}
    table = results.budget
    pairs = zip(table["variant"], table["depth"], strict=True)
    table = table[[pair in arms for pair in pairs]]
    if table.empty:
        return absent("budget")
    figure = Figure(figsize=(style.COLUMN, 2.9))
    axes = figure.subplots()
    depths = sorted(set(table["depth"]))
    for names, part in table.groupby(["variant", "depth", "width"], sort=False):
        variant, depth, width = str(names[0]), int(names[1]), int(names[2])
        colour, marker = look(variant, order(study))[0], style.marker(depth, depths)
        looks = colour, style.dashes(depth, depths)
        _budget_line(axes, part, looks, marker, width == study.model.width)
    axes.set_xscale("log")
    _original_mark(axes)
    axes.set(xlabel="training tokens per parameter", ylabel="test cross-entropy (nats)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    _budget_legend(figure, table, study)
    return figure


def _original_mark(axes: Axes) -> None:
    """A vertical line where the original can have been at most."""
    axes.axvline(ORIGINAL, color="0.6", lw=0.6, zorder=0)
    axes.annotate(
        f"original: at most {ORIGINAL}",
        (ORIGINAL, 1),
        xytext=(-2, -1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        fontsize=6,
        color="0.35",
    )


def _budget_line(
    axes: Axes, part: pd.DataFrame, looks: tuple[str, Any], marker: str, filled: bool
) -> None:
    """One variant, depth and width over the budgets; no bar without an interval."""
    colour, dash = looks
    part = part.sort_values("tokens")
    middle = part["cross_entropy"]
    bars = np.array([middle - part["ci_low"], part["ci_high"] - middle])
    axes.errorbar(
        part["tokens_per_parameter"],
        middle,
        yerr=np.nan_to_num(bars),
        color=colour,
        linestyle=dash,
        marker=marker,
        mfc=colour if filled else "white",
        ms=4,
        mew=0.8,
        elinewidth=0.6,
        capsize=1.5,
    )


def _budget_legend(figure: Figure, table: pd.DataFrame, study: Study) -> None:
    """Variants, depths and, if there are several, widths."""
    handles = []
    for variant in dict.fromkeys(table["variant"]):
        colour = look(variant, order(study))[0]
        handles.append(key(variant, color=colour, lw=1.4))
    depths, widths = sorted(set(table["depth"])), sorted(set(table["width"]))
    grey: dict[str, Any] = {"color": "0.35", "lw": 0, "ms": 4}
    for depth in depths:
        label = counted(depth, "block")
        line: dict[str, Any] = {"linestyle": style.dashes(depth, depths), "lw": 1}
        mark = style.marker(depth, depths)
        handles.append(key(label, marker=mark, **(grey | line)))
    for width in widths if len(widths) > 1 else []:
        fill = "0.35" if width == study.model.width else "white"
        handles.append(key(f"width {width}", marker="o", mfc=fill, **grey))
    above(figure, handles)


# --- inside the blocks -----------------------------------------------------------


def diagnostics(results: Results) -> Figure:
    """The first block during training; lines are means, bands span the seeds.

    Of the head experiment's shallowest models: those of SHOWN, or the first three.
    """
    study = results.study
    runs = study.runs_of("head")
    names = [study.models[model] for model, _ in runs]
    shallow = min((name.depth for name in names), default=0)
    there = list(
        dict.fromkeys(n.variant for n in names if n == ModelName(n.variant, shallow))
    )
    variants = [v for v in SHOWN if v in there] or there[:3]
    models = [str(ModelName(variant, shallow)) for variant in variants]
    rows = results.diagnostics([run for run in runs if run[0] in models])
    if rows.empty:
        return absent("diagnostics of the head experiment")
    figure = Figure(figsize=(style.WIDE, 1.9))
    grid = figure.subplots(1, 4)
    for axes, (quantity, label) in zip(grid, QUANTITIES.items(), strict=True):
        for variant, model in zip(variants, models, strict=True):
            chosen = rows[(rows["quantity"] == quantity) & (rows["model"] == model)]
            wide = chosen.pivot(index="iteration", columns="seed", values="value")
            _band(axes, wide, variant, order(study))
        axes.set_title(label, fontsize=7.5)
    limit = BAD_MODE * uniform_entropy(study.model.context)
    grid[0].axhline(limit, color="0.6", lw=0.6, linestyle=":", zorder=0)
    for axes in grid[1:]:
        axes.set_ylim(bottom=0)
    figure.supxlabel("training iteration", fontsize=8)
    above(figure, grid[0].get_legend_handles_labels()[0])
    return figure


def _band(axes: Axes, wide: pd.DataFrame, variant: str, variants: list[str]) -> None:
    """Mean over the columns (seeds) and what they span; dots where looks are few."""
    colour, dash = look(variant, variants)
    axes.plot(
        wide.index,
        wide.mean(axis=1),
        color=colour,
        linestyle=dash,
        marker="o" if len(wide) < 5 else None,
        ms=2.5,
        label=variant,
    )
    axes.fill_between(
        wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.12, lw=0
    )
