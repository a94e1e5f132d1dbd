"""The paper's figures, from summaries and training logs alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.config import Study
from shallower.names import ModelName
from shallower.reporting import (
    eliminating,
    experiments,
    fronts,
    roofline,
    second,
    skipping,
    style,
)
from shallower.reporting.contents import FIGURES, INFERENCE_TIME, METRICS
from shallower.reporting.results import Results

mpl.use("Agg")


def draw_all(
    directory: Path,
    settings: dict[str, Any],
    output: Path | None = None,
    kinds: Sequence[str] = ("pdf", "svg"),
    processes: int = 1,
) -> None:
    """Draw every figure of `contents.FIGURES` into `figures/` of `output`.

    `output` is the study's own folder `directory` unless another is given. A PDF is the
    same with and without the SVG, which is drawn after it, and whoever draws it:
    several processes share out the figures.
    """
    names, folder = list(FIGURES), (output or directory) / "figures"
    shares = [names[first::processes] for first in range(processes)]
    # New processes and no forks: pyarrow and BLAS have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, processes - 1), context) as pool:
        others = [
            pool.submit(_draw, directory, settings, folder, kinds, share)
            for share in shares[1:]
        ]
        _draw(directory, settings, folder, kinds, shares[0])
        for other in others:
            other.result()


def _draw(
    directory: Path,
    settings: dict[str, Any],
    folder: Path,
    kinds: Sequence[str],
    names: list[str],
) -> None:
    style.use_style()
    results = Results(directory, Study.model_validate(settings))
    drawers: dict[str, Callable[[Results], Figure]] = {
        "training_loss": training_loss,
        "perplexity_latency": perplexity_latency,
        "training_time": training_time,
        "latency_scales": latency_scales,
        "roofline": lambda results: roofline.draw(depth_rows(results)),
        "head_ablation": experiments.head_ablation,
        "learning_rate": experiments.learning_rate,
        "diagnostics": experiments.diagnostics,
        "budget": experiments.budget,
        "ffn": second.draw,
        "maximum": second.draw_maximum,
        "skipping": skipping.draw,
        "elimination": eliminating.draw,
        "front_per_token": fronts.per_token,
        "front_first_token": fronts.first_token,
    }
    for name in names:
        figure = drawers[name](results) if name in drawers else metrics(results, name)
        style.save(figure, folder, name, kinds)


def depth_rows(results: Results) -> pd.DataFrame:
    """Rows of roofline.csv that are of the depth experiment's variants."""
    table = results.roofline
    named = table["model"].str.contains("__")
    return table[table["variant"].isin(results.variants) & ~named]


def training_loss(results: Results) -> Figure:
    """Figure 2a: smoothed training loss; bands span the seeds."""
    figure = Figure(figsize=(style.COLUMN, 2.6))
    axes = figure.subplots()
    depths = results.study.depths
    for variant in results.variants:
        for depth in depths:
            losses = results.losses(f"{variant}-{depth}")
            smooth = losses.rolling(results.smoothing_window).mean().dropna()
            colour = style.colour(variant, results.variants)
            axes.plot(
                smooth.index,
                smooth.mean(axis=1),
                color=colour,
                linestyle=style.dashes(depth, depths),
                marker=style.marker(depth, depths),
                markevery=(len(smooth) // 3, max(1, len(smooth) // 3)),
                ms=3,
            )
            axes.fill_between(
                smooth.index,
                smooth.min(axis=1),
                smooth.max(axis=1),
                color=colour,
                alpha=0.08,
                lw=0,
            )
    axes.set(xlabel="training iteration", ylabel="training loss (nats)")
    _token_axis(axes, results)
    style.legend(axes, results.variants, depths, loc="upper right", fontsize=6.5)
    return figure


def _token_axis(axes: Axes, results: Results) -> None:
    """Tokens seen, along the top."""
    per_step = results.study.training.batch_size * results.study.model.context
    k = per_step / 1e3
    top = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, k), partial(np.multiply, 1 / k))
    )
    top.set_xlabel("tokens seen (thousands)")


def _scatter(
    axes: Axes,
    results: Results,
    x: tuple[str, str],
    y: tuple[str, str],
    y_scale: float = 1.0,
) -> None:
    """Mean of each model; bars span the seeds (y) and the sessions (x).

    `x` and `y` are (dataset, metric). Every seed is a faint dot; depths of a variant
    are joined by a line.
    """
    depths = results.study.depths
    for variant in results.variants:
        colour = style.colour(variant, results.variants)
        means = []
        for depth in depths:
            model = str(ModelName(variant, depth))
            times = results.seeds(model, *x)
            values = results.seeds(model, *y) * y_scale
            means.append((times.mean(), values.mean()))
            axes.errorbar(
                *means[-1],
                xerr=spread(times),
                yerr=spread(values),
                color=colour,
                marker=style.marker(depth, depths),
                ms=4.5,
                elinewidth=0.5,
                zorder=3,
            )
            place = [times.mean()] * len(values)
            axes.scatter(place, values, color=colour, s=4, alpha=0.45, lw=0)
        axes.plot(*zip(*means, strict=True), color=colour, lw=0.7, alpha=0.5, zorder=1)


def spread(values: pd.Series) -> list[list[float]]:
    """Error bars from the mean down to the lowest and up to the highest unit."""
    # Rounding may put the mean of equal values beside them; a bar is never negative.
    down, up = values.mean() - values.min(), values.max() - values.mean()
    return [[max(down, 0.0)], [max(up, 0.0)]]


def perplexity_latency(results: Results) -> Figure:
    """Figure 2b: test perplexity against inference time."""
    figure = Figure(figsize=(style.COLUMN, 2.6))
    axes = figure.subplots()
    _scatter(axes, results, ("completion", INFERENCE_TIME), ("text", "perplexity"))
    axes.set(xlabel="inference time (µs per generated token)", ylabel="test perplexity")
    variants, depths = results.variants, results.study.depths
    # Above the axes: inside, it would hide a point of one study or another.
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": 3}
    style.legend(figure, variants, depths, fontsize=6.5, **where)
    return figure


def metrics(results: Results, dataset: str) -> Figure:
    """Figures 3 and 4: each text metric against inference time on one set."""
    figure = Figure(figsize=(style.WIDE, 3.4))
    grid = figure.subplots(2, 4, sharex=True)
    for axes, (metric, label) in zip(grid.flat, METRICS.items(), strict=True):
        percent = 1.0 if metric == "fuzzy" else 100.0
        _scatter(axes, results, (dataset, INFERENCE_TIME), (dataset, metric), percent)
        axes.set_title(label, fontsize=8)
        axes.set_ylim(bottom=0)  # scores have a floor, and most lie near it
    figure.supxlabel("inference time (µs per generated token)", fontsize=8)
    figure.supylabel("score (0 to 100)", fontsize=8)
    style.legend(
        figure,
        results.variants,
        results.study.depths,
        loc="outside upper center",
        ncols=len(results.variants) + len(results.study.depths),
        fontsize=7,
    )
    return figure


def training_time(results: Results) -> Figure:
    """Figure 5: time of a training step against the number of parameters."""
    figure = Figure(figsize=(style.COLUMN, 2.4))
    axes = figure.subplots()
    depths = results.study.depths
    sizes = results.parameters.loc["study"]["parameters_trained"]
    for variant in results.variants:
        colour = style.colour(variant, results.variants)
        for depth in depths:
            model = str(ModelName(variant, depth))
            times = results.seeds(model, "step", "step_time") / 1e3
            axes.errorbar(
                sizes[model] / 1e6,
                times.mean(),
                yerr=spread(times),
                color=colour,
                marker=style.marker(depth, depths),
                ms=4.5,
                elinewidth=0.6,
                capsize=1.5,
            )
    axes.set(xlabel="parameters (millions)", ylabel="training step (ms)")
    axes.set_ylim(bottom=0)
    style.legend(
        axes, results.variants, depths, loc="lower right", fontsize=6.5, ncols=2
    )
    return figure


def latency_scales(results: Results) -> Figure:
    """Decoding time by depth at the study's and at the paper's scale."""
    figure = Figure(figsize=(style.WIDE, 2.4))
    panels = figure.subplots(1, 2)
    depths = {"study": results.study.depths, "paper": results.study.paper_scale.depths}
    for axes, (scale, levels) in zip(panels, depths.items(), strict=True):
        for variant in results.variants:
            for form in ("trained", "folded"):
                _depth_line(axes, results, variant, form, scale, levels)
        trained = "trained" if scale == "study" else "untrained"
        width = results.study.model.width
        width = width if scale == "study" else results.study.paper_scale.width
        axes.set_title(f"{scale} scale (d = {width}, {trained} weights)", fontsize=8)
        axes.set(xlabel="blocks", ylabel="decoding (µs per token)", xticks=levels)
        axes.set_ylim(bottom=0)
    panels[0].legend(loc="lower right", fontsize=6.5)
    return figure


def _depth_line(
    axes: Axes, results: Results, variant: str, form: str, scale: str, depths: list[int]
) -> None:
    """One variant's decoding time over the depths; folded with open markers."""
    where = {"scale": scale, "form": form}
    metric = "time_per_output_token"
    models = [f"{variant}-{depth}" for depth in depths]
    if not results.has(models[0], "fixed", metric, **where):
        return
    times = [results.seeds(m, "fixed", metric, **where) for m in models]
    # Small horizontal steps keep the three lines' intervals apart.
    shift = 0.06 * (2 * results.variants.index(variant) - (form == "trained"))
    axes.errorbar(
        [depth + shift for depth in depths],
        [values.mean() for values in times],
        yerr=np.hstack([spread(values) for values in times]),
        color=style.colour(variant, results.variants),
        linestyle="--" if form == "folded" else "-",
        marker="o",
        mfc="white" if form == "folded" else None,
        ms=4,
        elinewidth=0.6,
        label=f"{variant}, folded" if form == "folded" else variant,
    )
