"""Figures of S1: loss, quality and time by depth, and the parts of the added layer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.results import Results
from shallower.evaluation.metrics import TEXT_METRICS
from shallower.evaluation.ngrams import ORDERS
from shallower.reporting import style
from shallower.reporting.contents import INFERENCE_TIME, METRICS
from shallower.study.names import ModelName, short
from shallower.study.study import Study

DECODING = "time_per_output_token"


def variants(study: Study) -> list[str]:
    """Variants of the depth experiment, in the configuration's order."""
    grid = study.experiments.depth
    return grid[0].variants if grid else ["baseline", "proposed"]


def training_loss(results: Results) -> Figure:
    """Figure 2a: smoothed training loss; bands span the seeds."""
    study, window = results.study, int(results.fact("heads.training.window"))
    parts = []
    for model in study.depth_models:
        name = study.models[model]
        smooth = results.losses(model, study.seeds).rolling(window).mean().dropna()
        long = smooth.reset_index().melt("iteration", value_name="loss")
        parts.append(long.assign(variant=name.variant, depth=name.depth))
    figure = Figure(figsize=(style.COLUMN, 2.6))
    axes = figure.subplots()
    sns.lineplot(
        pd.concat(parts, ignore_index=True),
        x="iteration",
        y="loss",
        hue="variant",
        style="depth",
        palette={v: style.colour(v, variants(study)) for v in variants(study)},
        dashes={d: style.dash_pattern(d, study.depths) for d in study.depths},
        errorbar=("pi", 100),
        err_kws={"alpha": 0.08, "lw": 0},
        legend=False,
        ax=axes,
    )
    axes.set(xlabel="training iteration", ylabel="training loss (nats)")
    _token_axis(axes, study)
    floor_lines(
        axes, results, "cross_entropy", at=0.45
    )  # losses are steep further left
    style.legend(axes, variants(study), study.depths, loc="upper right", lines=True)
    return figure


def floor_lines(axes: Axes, results: Results, column: str, at: float = 0.01) -> None:
    """What n-grams of the models' training tokens reach on the test text.

    Their names begin at `at`, a share of the axes' width. Floors too near to each other
    for two names share one label. A floor far outside of what is drawn is written at
    the edge, with its value, since a line would leave no room for the models.
    """
    low, high = axes.get_ylim()
    room = high - low
    found = {floor: results.fact(f"floors.{floor}") for floor in ORDERS}
    if column == "perplexity":
        found = {floor: math.exp(nats) for floor, nats in found.items()}
    ordered = sorted(((value, floor) for floor, value in found.items()), reverse=True)
    inside = [row for row in ordered if low - room <= row[0] <= high + room]
    text: dict[str, Any] = {"fontsize": 7, "color": "0.35"}
    near = 0.08 * (max([high, *dict(inside)]) - min([low, *dict(inside)]))
    labels = list[tuple[float, list[str]]]()  # the highest line's value, names
    last = math.inf
    for value, floor in inside:
        axes.axhline(value, color="0.5", lw=0.7, ls=":", zorder=0)
        if last - value > near:
            labels.append((value, []))
        labels[-1][1].append(floor)
        last = value
    edge = axes.get_ylim()[1] - near
    for value, names in labels:
        where, place = axes.get_yaxis_transform(), "top" if value > edge else "bottom"
        axes.text(at, value, ", ".join(names), va=place, transform=where, **text)
    for side, height, place in (("above", 0.99, "top"), ("below", 0.01, "bottom")):
        names = [
            f"{floor} {value:.3g}"
            for value, floor in ordered
            if (value, floor) not in inside
            and (value > high if side == "above" else value < low)
        ]
        if names:
            label = f"{side}: {', '.join(names)}"
            axes.text(0.01, height, label, va=place, transform=axes.transAxes, **text)


def _token_axis(axes: Axes, study: Study) -> None:
    """Tokens seen, along the top."""
    k = study.training.batch_size * study.model.context / 1e3
    top = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, k), partial(np.multiply, 1 / k))
    )
    top.set_xlabel("tokens seen (thousands)")


def _scatter(
    axes: Axes, results: Results, x: Comparison, y: tuple[str, str], scale: float = 1.0
) -> None:
    """Means with 95 % intervals: over seeds (y), over sessions (x).

    `x` is a level to be asked for each model, `y` a data set and metric. Every seed is
    a small dot; depths of a variant are joined by a line.
    """
    study = results.study
    for variant in variants(study):
        colour = style.colour(variant, variants(study))
        means = []
        for depth in study.depths:
            model = str(ModelName(variant, depth))
            time = results.estimate(x.of(model))
            row = results.row(model, *y)
            if row is None or not time.exists:
                continue
            mean = scale * row["mean"]
            low, high = scale * row["ci_low"], scale * row["ci_high"]
            axes.errorbar(
                *(time.effect, mean),
                xerr=bars(time.effect, time.ci_low, time.ci_high),
                yerr=bars(mean, low, high),
                color=colour,
                marker=style.marker(depth, study.depths),
                ms=4.5,
                elinewidth=0.5,
                zorder=3,
            )
            seeds = scale * results.values(model, *y)
            place = [time.effect] * len(seeds)
            axes.scatter(place, seeds, color=colour, s=5, alpha=0.45, lw=0)
            means.append((time.effect, mean))
        if means:
            line: dict[str, Any] = {"lw": 0.7, "alpha": 0.5, "zorder": 1}
            axes.plot(*zip(*means, strict=True), color=colour, **line)


def bars(mean: float, low: float, high: float) -> list[list[float]]:
    """Error bars from the mean to both ends of an interval; none without one."""
    return [[max(np.nan_to_num(mean - low), 0)], [max(np.nan_to_num(high - mean), 0)]]


def inference_time(dataset: str) -> Comparison:
    """Time per generated token on an evaluation set, of any model."""
    return Comparison("", "", dataset, INFERENCE_TIME, kind="level")


def perplexity_latency(results: Results) -> Figure:
    """Figure 2b: test perplexity against inference time."""
    study = results.study
    figure = Figure(figsize=(style.COLUMN, 2.6))
    axes = figure.subplots()
    _scatter(axes, results, inference_time("completion"), ("text", "perplexity"))
    axes.set(xlabel="inference time (µs per generated token)", ylabel="test perplexity")
    floor_lines(axes, results, "perplexity")
    # Above the axes: inside, it would hide a point of one study or another.
    style.legend(
        figure, variants(study), study.depths, loc="outside upper center", ncols=3
    )
    return figure


def metrics(dataset: str, results: Results) -> Figure:
    """Figures 3 and 4: each text metric against inference time on one set."""
    study = results.study
    lines = math.ceil(len(METRICS) / 4)
    figure = Figure(figsize=(style.PAGE, 1.7 * lines))
    grid = figure.subplots(lines, 4, sharex=True)
    for axes in grid.flat[len(METRICS) :]:
        axes.remove()
    for axes, (metric, label) in zip(grid.flat, METRICS.items(), strict=False):
        percent = 1.0 if TEXT_METRICS[metric].unit == "percent" else 100.0
        _scatter(axes, results, inference_time(dataset), (dataset, metric), percent)
        axes.set_title(label, fontsize=8)
        axes.set_ylim(bottom=0)  # scores have a floor, and most are near it
    figure.supxlabel("inference time (µs per generated token)", fontsize=8)
    figure.supylabel("score (0 to 100)", fontsize=8)
    columns = len(variants(study)) + len(study.depths)
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": columns}
    style.legend(figure, variants(study), study.depths, **where)
    return figure


def training_time(results: Results) -> Figure:
    """Figure 5: time of a training step against the number of parameters."""
    study = results.study
    figure = Figure(figsize=(style.COLUMN, 2.4))
    axes = figure.subplots()
    for model in study.depth_models:
        name = study.models[model]
        time = results.estimate(Comparison(model, "", "step", "step_time", "level"))
        axes.errorbar(
            results.size(model, "parameters_trained") / 1e6,
            time.effect / 1e3,
            yerr=bars(*(v / 1e3 for v in (time.effect, time.ci_low, time.ci_high))),
            color=style.colour(name.variant, variants(study)),
            marker=style.marker(name.depth, study.depths),
            ms=4.5,
            elinewidth=0.6,
            capsize=1.5,
        )
    axes.set(xlabel="parameters (millions)", ylabel="training step (ms)")
    axes.set_ylim(bottom=0)
    style.legend(axes, variants(study), study.depths, loc="lower right", ncols=2)
    return figure


def latency_scales(results: Results) -> Figure:
    """Decoding time by depth at the study's and at the original's size."""
    study = results.study
    figure = Figure(figsize=(style.PAGE, 2.4))
    panels = figure.subplots(1, 2)
    scales = {
        "study": (study.depths, study.model.width, "trained"),
        "original": (study.original.depths, study.original.width, "untrained"),
    }
    for axes, (scale, (depths, width, weights)) in zip(
        panels, scales.items(), strict=True
    ):
        for variant in variants(study):
            for form in ("trained", "folded"):
                _depth_line(axes, results, variant, form, scale, depths)
        axes.set_title(f"{scale} scale (d = {width}, {weights} weights)", fontsize=8)
        axes.set(xlabel="blocks", ylabel="decoding (µs per token)", xticks=depths)
        axes.set_ylim(bottom=0)
    panels[0].legend(loc="lower right", fontsize=7)
    return figure


def decoding(label: str, scale: str, form: str) -> Comparison:
    """Level of a model's time per token at fixed lengths."""
    return Comparison(label, "", "fixed", DECODING, "level", scale=scale, form=form)


def _depth_line(
    axes: Axes, results: Results, variant: str, form: str, scale: str, depths: list[int]
) -> None:
    """One variant's decoding time over the depths; folded with open markers."""
    models = {depth: str(ModelName(variant, depth)) for depth in depths}
    if form not in results.forms(models[depths[0]], "fixed", DECODING, scale):
        return
    times = {d: results.estimate(decoding(m, scale, form)) for d, m in models.items()}
    # Small horizontal steps keep the three lines' intervals apart.
    place = variants(results.study).index(variant)
    shift = 0.06 * (2 * place - (form == "trained"))
    axes.errorbar(
        [depth + shift for depth in depths],
        [time.effect for time in times.values()],
        yerr=np.hstack([bars(t.effect, t.ci_low, t.ci_high) for t in times.values()]),
        color=style.colour(variant, variants(results.study)),
        linestyle="--" if form == "folded" else "-",
        marker="o",
        mfc="white" if form == "folded" else None,
        ms=4,
        elinewidth=0.6,
        label=f"{variant}, folded" if form == "folded" else variant,
    )


# --- which part of the added layer matters --------------------------------------------


def head_differences(results: Results) -> list[Estimate]:
    """Every variant of the experiment against the baseline of its depth and options.

    In test cross-entropy; the lowest first.
    """
    study, found = results.study, []
    for model in study.models_of("head"):
        name = study.models[model]
        baseline = str(ModelName("baseline", name.depth, name.options))
        estimate = results.estimate(Comparison(model, baseline))
        if model != baseline and estimate.exists:
            found.append(estimate)
    return sorted(found, key=lambda estimate: estimate.effect)


def head_ablation(results: Results) -> Figure:
    """Forest plot: every variant's paired difference to the baseline of its depth.

    Bars are 95 % intervals, small dots the seeds; filled: pre-registered contrasts.
    """
    study, found = results.study, head_differences(results)
    if not found:
        return style.absent("head ablation")
    figure = Figure(figsize=(style.COLUMN, 1.15 + 0.24 * len(found)))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", lw=0.6, zorder=0)
    registered = {(c.left, c.right) for c in study.contrasts}
    registered |= {(right, left) for left, right in registered}
    for place, estimate in enumerate(found):
        variant = study.models[estimate.left].variant
        colour = style.COLOURS.get(variant, "0.25")
        sides = (estimate.left, estimate.right)
        values = [results.values(m, "text", "cross_entropy") for m in sides]
        seeds = (values[0] - values[1]).dropna()
        dots = [place + 0.24] * len(seeds)
        axes.scatter(seeds, dots, color=colour, s=5, alpha=0.5, lw=0)
        axes.plot([estimate.ci_low, estimate.ci_high], [place] * 2, color=colour, lw=1)
        fill = colour if sides in registered else "white"
        mark: dict[str, Any] = {"marker": "o", "ms": 4.5, "mew": 0.8, "mfc": fill}
        axes.plot(estimate.effect, place, color=colour, **mark)
        where: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
        axes.text(1.06, place, str(estimate.n), fontsize=7, va="center", **where)
    axes.text(1.02, -0.6, "seeds", fontsize=7, va="bottom", **where)
    axes.set_yticks(range(len(found)), _forest_labels(study, found))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(found) - 0.4, -0.6)
    figure.supxlabel("test cross-entropy − baseline (nats)", fontsize=8)
    mark = {"color": "0.25", "lw": 0, "marker": "o", "ms": 4.5}
    kinds = {"pre-registered": "0.25", "exploratory": "white"}
    keys = [style.key(kind, **mark, mfc=fill) for kind, fill in kinds.items()]
    style.above(figure, keys)
    return figure


def _forest_labels(study: Study, found: list[Estimate]) -> list[str]:
    """Variants, with the depth or options where these differ."""
    names = [study.models[estimate.left] for estimate in found]
    if len({(name.depth, str(name.options)) for name in names}) == 1:
        return [_kind(name) for name in names]
    return [
        ", ".join(
            [f"{_kind(n)} ({n.depth} blocks)"]
            + [f"{option} {short(value)}" for option, value in n.options.items()]
        )
        for n in names
    ]


def _kind(name: ModelName) -> str:
    return name.variant.replace("_", " ")


FIGURES = {
    "training_loss": training_loss,
    "perplexity_latency": perplexity_latency,
    "chat": partial(metrics, "chat"),
    "qa": partial(metrics, "qa"),
    "training_time": training_time,
    "latency_scales": latency_scales,
    "head_ablation": head_ablation,
}
