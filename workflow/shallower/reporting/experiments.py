"""Figures of the experiments beside the depth study: findings F1 to F3."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.analysis.budgets import ORIGINAL
from shallower.analysis.statistics import t_interval
from shallower.reporting import style
from shallower.reporting.results import Results

# Okabe-Ito in the order in which variants of an experiment appear after the first two.
OTHERS = ["#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
MARKERS = "osD^vPX"


def _colours(variants: list[str]) -> dict[str, str]:
    fixed = {"baseline": style.colour("baseline", ["baseline", "proposed"])}
    fixed["proposed"] = style.colour("proposed", ["baseline", "proposed"])
    rest = [variant for variant in variants if variant not in fixed]
    return fixed | {v: OTHERS[i % len(OTHERS)] for i, v in enumerate(rest)}


def _empty(figure: Figure, what: str) -> Figure:
    figure.text(0.5, 0.5, f"{what}: not in this study", ha="center", fontsize=8)
    return figure


def head_ablation(results: Results) -> Figure:
    """F1: each variant against the baseline of its depth, seed by seed."""
    rows = ablation_rows(results)
    figure = Figure(figsize=(style.COLUMN, 0.75 + 0.27 * max(3, len(rows))))
    if not rows:
        return _empty(figure, "head variants")
    axes = figure.subplots()
    registered = {c.left for c in results.study.contrasts}
    registered |= {c.right for c in results.study.contrasts}
    colours = _colours([variant for variant, *_ in rows])
    for place, (variant, depth, gaps) in enumerate(rows):
        low, high = t_interval(gaps)
        filled = f"{variant}-{depth}" in registered
        colour = colours[variant]
        axes.plot([low, high], [place, place], color=colour, lw=1)
        axes.plot(
            *(gaps.mean(), place, "o"),
            ms=5,
            mec=colour,
            mfc=colour if filled else "white",
        )
        axes.scatter(
            gaps, [place + 0.27] * len(gaps), s=3, color=colour, alpha=0.5, lw=0
        )
    names = [f"{variant.replace('_', ' ')} (n={len(g)})" for variant, _, g in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.axvline(0, color="0.4", lw=0.7, dashes=(3, 2))
    axes.set_xlabel(f"difference to the baseline with {rows[0][1]} blocks (nats)")
    return figure


def ablation_rows(results: Results) -> list[tuple[str, int, np.ndarray]]:
    """(variant, depth, paired differences to the baseline), the best first."""
    found = []
    for model in dict.fromkeys(model for model, _ in results.study.runs_of("head")):
        name = results.study.models[model]
        base = f"baseline-{name.depth}"
        if model == base or name.options:
            continue
        gaps = results.by_seed(model) - results.by_seed(base)
        if len(gaps.dropna()):
            found.append((name.variant, name.depth, gaps.dropna().to_numpy()))
    depth = results.study.depths[0]
    if found and "proposed" not in {variant for variant, *_ in found}:
        gaps = results.by_seed(f"proposed-{depth}") - results.by_seed(
            f"baseline-{depth}"
        )
        found.append(("proposed", depth, gaps.dropna().to_numpy()))
    return sorted(found, key=lambda row: row[2].mean())


def learning_rate(results: Results) -> Figure:
    """F2: validation loss against the learning rate, a panel for each start."""
    table = results.search
    starts = sorted(table["init_std"].unique())
    figure = Figure(figsize=(style.COLUMN, 2.3))
    if table.empty:
        return _empty(figure, "learning rates")
    panels = figure.subplots(1, len(starts), sharey=True, squeeze=False)[0]
    variants = list(table["variant"].unique())
    colours = _colours(variants)
    for axes, start in zip(panels, starts, strict=True):
        for index, variant in enumerate(variants):
            rows = table[(table["init_std"] == start) & (table["variant"] == variant)]
            colour, x = colours[variant], rows["learning_rate"]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(x, rows["cross_entropy"], color=colour, lw=1)
            axes.vlines(x, rows["minimum"], rows["maximum"], color=colour, lw=0.6)
            for best, face in ((False, "white"), (True, colour)):
                part = rows[rows["best"] == best]
                axes.plot(
                    part["learning_rate"],
                    part["cross_entropy"],
                    marker,
                    ms=4,
                    mec=colour,
                    mfc=face,
                    ls="none",
                    label=variant if best else None,
                )
        axes.set_xscale("log")
        rates = sorted(table["learning_rate"].unique())
        axes.set_xticks(rates, [f"{1000 * rate:g}" for rate in rates], minor=False)
        axes.minorticks_off()
        axes.set_title(f"initial deviation {start:g}", fontsize=7)
    figure.supxlabel("peak learning rate (thousandths)", fontsize=8)
    panels[0].set_ylabel("validation loss (nats)")
    panels[0].legend(fontsize=6.5)
    return figure


def budget(results: Results) -> Figure:
    """F3: test cross-entropy against tokens per parameter, by depth."""
    table = results.budgets
    figure = Figure(figsize=(style.COLUMN, 2.5))
    axes = figure.subplots()
    depths = results.study.depths
    colours = _colours(list(table["variant"].unique()))
    chosen = table[table["variant"].isin(["baseline", "proposed"])]
    for (variant, depth, width), rows in chosen.groupby(["variant", "depth", "width"]):
        rows = rows.sort_values("tokens_per_parameter")
        if len(rows) < 2 and width == results.study.model.width:
            continue
        other = width != results.study.model.width
        label = f"{variant} {depth}" + (f", width {width}" if other else "")
        axes.errorbar(
            rows["tokens_per_parameter"],
            rows["cross_entropy"],
            yerr=_bars(rows),
            color=colours[variant],
            marker=style.marker(depth, depths) if depth in depths else "o",
            mfc="white" if other else colours[variant],
            ms=4,
            lw=0.9,
            elinewidth=0.6,
            ls="-" if depth == depths[0] else "--",
            label=label,
        )
    axes.set_xscale("log")
    axes.axvline(ORIGINAL, color="0.5", lw=0.7, dashes=(1, 2))
    axes.annotate(
        "the original,\nat most",
        (ORIGINAL, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=6.5,
        color="0.35",
    )
    axes.set(xlabel="training tokens a parameter", ylabel="test cross-entropy (nats)")
    axes.legend(fontsize=6.5, loc="lower left")
    return figure


def _bars(rows: pd.DataFrame) -> np.ndarray:
    low = (rows["cross_entropy"] - rows["ci_low"]).fillna(0)
    high = (rows["ci_high"] - rows["cross_entropy"]).fillna(0)
    return np.array([low, high])


QUANTITIES = {
    "entropy": "attention entropy,\nfirst block (nats)",
    "output_rms": "RMS of heads' outputs,\nfirst block",
    "branch_ratio": "branch over residual,\nfirst block",
    "gradient_norm": "gradient norm,\nfirst block",
}


def diagnostics(results: Results) -> Figure:
    """F2: what happens in the first block during training; bands span the seeds."""
    depth = results.study.depths[0]
    names = ["baseline", "proposed", "silu", "linear"]
    names = [v for v in names if f"{v}-{depth}" in results.study.models]
    colours = _colours(names)
    figure = Figure(figsize=(style.PAGE, 1.75))
    panels = figure.subplots(1, len(QUANTITIES))
    for index, variant in enumerate(names):
        table = results.diagnostics(f"{variant}-{depth}")
        table = table[table["block"] == 0]
        for axes, quantity in zip(panels, QUANTITIES, strict=True):
            rows = table[table["quantity"] == quantity]
            _band(axes, rows, colours[variant], MARKERS[index], variant)
    for axes, label in zip(panels, QUANTITIES.values(), strict=True):
        axes.set_title(label, fontsize=7)
        axes.set_xlabel("iteration")
    for axes in panels[1:]:
        axes.set_yscale("log")
    panels[0].legend(fontsize=6.5)
    return figure


def _band(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    by_iteration = rows.groupby("iteration")["value"]
    mean, low, high = by_iteration.mean(), by_iteration.min(), by_iteration.max()
    axes.plot(
        mean.index, mean, color=colour, marker=marker, ms=2.5, lw=0.9, label=label
    )
    axes.fill_between(low.index, low, high, color=colour, alpha=0.12, lw=0)
