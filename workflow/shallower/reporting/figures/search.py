"""Figures of S1: learning rates, training budgets, and the first block in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.labels import label
from shallower.study.names import ModelName, blocks, short
from shallower.study.study import Study

SHOWN = ("baseline", "silu", "proposed")  # whose first block is drawn, if trained
QUANTITIES = {  # of diagnostics.csv -> label
    "entropy": "attention entropy (nats)",
    "output_rms": "RMS of heads' outputs",
    "branch_ratio": "attention / stream RMS",
    "gradient_norm": "gradient norm",
}
RING: dict[str, Any] = {"marker": "o", "ms": 8, "mfc": "none", "mew": 0.9, "lw": 0}
DOT: dict[str, Any] = {"marker": "o", "ms": 2.4, "mew": 0, "lw": 0}
CROSS: dict[str, Any] = {"marker": "x", "ms": 3.6, "mew": 0.8, "lw": 0}


def all_variants(study: Study) -> list[str]:
    """All variants of a study: a variant looks the same in every figure."""
    return list(dict.fromkeys(name.variant for name in study.models.values()))


def colour_and_dashes(variant: str, variants: list[str]) -> tuple[str, Any]:
    """Colour and dashes of a variant's line; there are 18 such pairs."""
    place = variants.index(variant)
    dash = style.DASHES[(place + place // 4) % len(style.DASHES)]
    return style.colour(variant, variants), dash


# --- the learning rate ----------------------------------------------------------------


def learning_rate(results: Results) -> Figure:
    """Validation cross-entropy against the rate; a panel per initialisation.

    Lines join means over seeds; a ring marks a model's best rate, a cross a rate at
    which some run ended in the bad mode (see `analysis.learning_rates`).
    """
    study, table = results.study, results.learning_rates
    if table.empty:
        return style.absent("learning rate")
    panels = list(table.groupby(["init_std", "steps"]))
    most = max(part["group"].nunique() for _, part in panels)
    height = max(1.5, 0.15 * most) * len(panels)
    figure = Figure(figsize=(style.COLUMN, 0.8 + height))
    grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)
    variants = all_variants(study)
    several = table["steps"].nunique() > 1
    for axes, ((std, steps), part) in zip(grid[:, 0], panels, strict=True):
        for _, rows in part.groupby("group", sort=False):
            _rate_line(axes, results, rows, variants)
        title = f"initial standard deviation {std:g}" + f", {steps} steps" * several
        axes.set_title(title, fontsize=7.5, loc="left")
    for axes, (_, part) in zip(grid[:, 0], panels, strict=True):
        _end_labels(axes, results, part, variants)  # when the limits are known
    axes, rates = grid[-1, 0], sorted(table["learning_rate"].unique())
    axes.set_xscale("log")
    turned = {"rotation": 45, "ha": "right"} if len(rates) > 5 else {}
    names = [short(float(rate)) for rate in rates]
    axes.set_xticks(rates, names, fontsize=7, **turned)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("peak learning rate")
    figure.supylabel("validation cross-entropy (nats)", fontsize=8)
    keys = [style.key("seed", color="0.25", **DOT)]
    if (table["bad_mode_share"] > 0).any():
        keys.append(style.key("bad mode", color="0.25", **CROSS))
    style.above(
        figure, [*keys, style.key("best rate", color="0.25", **(RING | {"ms": 5}))]
    )
    return figure


def _rate_line(
    axes: Axes, results: Results, rows: pd.DataFrame, variants: list[str]
) -> None:
    """One model without its rate: means over the rates, its best rate and seeds."""
    colour, dash = colour_and_dashes(str(rows["variant"].iloc[0]), variants)
    rates, losses = rows["learning_rate"], rows["cross_entropy"]
    axes.plot(rates, losses, color=colour, linestyle=dash)
    best = rows[rows["best"].astype(bool)]
    axes.plot(best["learning_rate"], best["cross_entropy"], color=colour, **RING)
    for row in rows.to_dict("records"):
        seeds = results.values(row["model"], "validation", "cross_entropy")
        mark = CROSS if row["bad_mode_share"] > 0 else DOT
        axes.plot([row["learning_rate"]] * len(seeds), seeds, color=colour, **mark)


def _end_labels(
    axes: Axes, results: Results, table: pd.DataFrame, variants: list[str]
) -> None:
    """Names of the models right of the panel, one below the other, by a thin line each.

    In the order of their lines' right ends, evenly spread.
    """
    ends = table.sort_values("learning_rate").groupby("group").tail(1)
    ends = ends.sort_values("cross_entropy")
    places = (np.arange(len(ends)) + 0.5) / len(ends)
    for place, row in zip(places, ends.to_dict("records"), strict=True):
        colour = colour_and_dashes(row["variant"], variants)[0]
        name = results.study.models[row["model"]].without("lr", "init_std", "steps")
        axes.annotate(
            label(name),
            (row["learning_rate"], row["cross_entropy"]),
            xytext=(1.06, place),
            textcoords=axes.transAxes,
            color=colour,
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "shrinkB": 3},
        )


# --- more and fewer tokens ------------------------------------------------------------


# Qiu et al. (arXiv 2505.06708, table 1): a SiLU behind attention, in a mixture of
# experts of 15 billion parameters and 400 billion tokens, changes the average
# perplexity from 6.026 to 5.975.
PUBLISHED = {"at": 400 / 15, "effect": float(np.log(5.975 / 6.026))}
LAYER = ("layer", "silu", "linear", "deep layer")  # questions of the middle panel


def budget(results: Results) -> Figure:
    """Against tokens per parameter: what is reached, what the layer gains, what depth.

    Left: test cross-entropy; colours are variants, dashes and markers depths. Middle:
    the layer and its parts less the baseline of the same depth. Right: the deepest
    baseline less the shallowest. Markers of wider models than the study's are half
    filled, of narrower ones open. Bars are 95 % intervals over seeds.
    """
    study, table = results.study, results.table("budget")
    names = [study.models[model] for model in study.models_of("budget")]
    ends = study.depths[:1] + study.depths[-1:]
    plain = {(v, depth) for v in ("baseline", "proposed") for depth in ends}
    chosen = {(name.variant, name.depth) for name in names} | plain
    pairs = zip(table["variant"], table["depth"], strict=True)
    table = table[[pair in chosen for pair in pairs]]
    if table.empty:
        return style.absent("budget")
    figure = Figure(figsize=(style.PAGE, 2.7))
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"wspace": 0.36})
    depths = sorted(set(table["depth"]))
    for names_, part in table.groupby(["variant", "depth", "width"], sort=False):
        variant, depth, width = str(names_[0]), int(names_[1]), int(names_[2])
        colour = colour_and_dashes(variant, all_variants(study))[0]
        values = part.rename(columns={"cross_entropy": "effect"})
        look = {"linestyle": style.dashes(depth, depths), "color": colour}
        look |= {"marker": style.marker(depth, depths)}
        _with_intervals(left, values, **_filled(width, study), **look)
    left.set_ylabel("test cross-entropy (nats)")
    gains = results.table("gain")
    _gains(middle, gains[gains["question"].isin(LAYER)], results)
    _gains(right, gains[gains["question"] == "depth"], results)
    middle.plot(*PUBLISHED.values(), marker="*", color="0.2", ms=6, lw=0)
    middle.set_ylabel("against the baseline (nats)")
    deep, shallow = study.depths[-1], study.depths[0]
    right.set_ylabel(f"{deep} less {blocks(shallow)} (nats)")
    ratio = results.fact("heads.original.tokens_per_parameter")
    for axes in (left, middle, right):
        axes.set_xscale("log")
        axes.axvline(ratio, color="0.6", lw=0.6, zorder=0)
        axes.set_xlabel("tokens per parameter")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,)))
        axes.xaxis.set_major_formatter("{x:g}")
    _original_budget(left, ratio)
    shown = {study.models[model].variant for model in gains["left"]}
    keys = _budget_keys(table, study, shown)
    keys.append(style.key("SiLU at 400 billion tokens", marker="*", color="0.2", lw=0))
    style.above(figure, keys)
    return figure


def _gains(axes: Axes, gains: pd.DataFrame, results: Results) -> None:
    """A line per question and width, about zero."""
    study = results.study
    depths = [study.depths[0], study.depths[-1]]
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    for (_, width), part in gains.groupby(["question", "width"], sort=False):
        name = study.models[part["left"].iloc[0]]
        look: dict[str, Any] = {
            "color": colour_and_dashes(name.variant, all_variants(study))[0],
            "linestyle": style.dashes(name.depth, depths),
            "marker": style.marker(name.depth, depths),
        }
        _with_intervals(axes, part, **_filled(int(width), study), **look)


def _filled(width: int, study: Study) -> dict[str, Any]:
    """How much of a marker is filled: all of it at the study's width, half above it."""
    own = study.model.width
    fill = "full" if width == own else "left" if width > own else "none"
    return {"fillstyle": fill, "markerfacecoloralt": "white"}


def _with_intervals(axes: Axes, rows: pd.DataFrame, color: Any, **look: Any) -> None:
    """Effects against tokens per parameter, with their intervals as bars."""
    rows = rows.sort_values("tokens_per_parameter")
    middle = rows["effect"]
    spread = np.array([middle - rows["ci_low"], rows["ci_high"] - middle])
    axes.errorbar(
        rows["tokens_per_parameter"],
        middle,
        yerr=np.nan_to_num(spread),
        color=color,
        **{"ms": 4, "mew": 0.8, "elinewidth": 0.6, "capsize": 1.5} | look,
    )


def _original_budget(axes: Axes, ratio: float) -> None:
    """A vertical line at the original's largest possible budget."""
    axes.axvline(ratio, color="0.6", lw=0.6, zorder=0)
    axes.annotate(
        f"original: at most {ratio:g}",
        (ratio, 1),
        xytext=(-2, -1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        fontsize=7,
        color="0.35",
    )


def _budget_keys(table: pd.DataFrame, study: Study, gaining: set[str]) -> list[Any]:
    """Variants, `gaining` ones too, depths and, if there are several, widths."""
    keys = [
        style.key(
            variant, color=colour_and_dashes(variant, all_variants(study))[0], lw=1.4
        )
        for variant in all_variants(study)
        if variant in gaining | set(table["variant"])
    ]
    depths, widths = sorted(set(table["depth"])), sorted(set(table["width"]))
    grey: dict[str, Any] = {"color": "0.35", "ms": 4}
    for depth in depths:
        line = {"linestyle": style.dashes(depth, depths), "lw": 1}
        mark = style.marker(depth, depths)
        keys.append(style.key(blocks(depth), marker=mark, **(grey | line)))
    for width in widths if len(widths) > 1 else []:
        look = {"marker": "o", "lw": 0} | _filled(width, study)
        keys.append(style.key(f"width {width}", **look, **grey))
    return keys


# --- inside the blocks ----------------------------------------------------------------


def diagnostics(results: Results) -> Figure:
    """The first block during training; lines are means, bands span the seeds.

    Of the head experiment's shallowest models: those of SHOWN, or the first three.
    """
    study = results.study
    names = [study.models[model] for model in study.models_of("head")]
    shallow = min((name.depth for name in names), default=0)
    plain = [n.variant for n in names if n == ModelName(n.variant, shallow)]
    variants = [v for v in SHOWN if v in plain] or plain[:3]
    labels = {str(ModelName(variant, shallow)): variant for variant in variants}
    rows = results.diagnostics(
        [run for run in study.runs_of("head") if run[0] in labels]
    )
    rows = rows[rows["block"] == 0]
    if rows.empty:
        return style.absent("diagnostics of the head experiment")
    rows = rows.assign(variant=rows["model"].map(labels))
    colours = {v: colour_and_dashes(v, all_variants(study))[0] for v in variants}
    figure = Figure(figsize=(style.PAGE, 1.9))
    grid = figure.subplots(1, 4)
    for axes, (quantity, text) in zip(grid, QUANTITIES.items(), strict=True):
        sns.lineplot(
            rows[rows["quantity"] == quantity],
            x="iteration",
            y="value",
            hue="variant",
            palette=colours,
            errorbar=("pi", 100),
            err_kws={"alpha": 0.12, "lw": 0},
            marker="o" if rows["iteration"].nunique() < 5 else None,
            legend=False,
            ax=axes,
        )
        axes.set_title(text, fontsize=7.5)
        axes.set(xlabel="", ylabel="")
    limit = results.fact("heads.bad_mode.limit")
    grid[0].axhline(limit, color="0.6", lw=0.6, linestyle=":", zorder=0)
    for axes in grid[1:]:
        axes.set_ylim(bottom=0)
    figure.supxlabel("training iteration", fontsize=8)
    style.above(figure, [style.key(v, color=c, lw=1.4) for v, c in colours.items()])
    return figure


FIGURES = {
    "learning_rate": learning_rate,
    "budget": budget,
    "diagnostics": diagnostics,
}
