"""Figure of S1: time per token over the bytes it reads, above the bandwidth floor."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.figures import heads
from shallower.study.names import blocks

APART = 0.04  # share of the bytes by which models of one depth are drawn apart
PALE = 0.4  # opacity of eager points, beside their compiled twins
UNITS = {"study": ("µs", 1.0), "original": ("ms", 1e-3)}  # of the vertical axes


def roofline(results: Results) -> Figure:
    """A panel per scale, of the depth experiment's variants; both axes logarithmic.

    An arrow leads from a model's eager time (pale) to its compiled one, measured in
    the same interleaving; open markers are folded models. Models of one depth read
    nearly the same number of bytes and are drawn a little apart.
    """
    table, study = results.roofline, results.study
    chosen = heads.variants(study)
    table = table[table["variant"].isin(chosen) & (table["intervention"] == "")]
    table = table[table["model"].isin([*study.depth_models, *_originals(results)])]
    table = table[table["workload"] == _workload(table)]
    scales = [scale for scale in UNITS if scale in set(table["scale"])]
    figure = Figure(figsize=(style.COLUMN, 2.5))
    variants = list(dict.fromkeys(table["variant"]))
    panels = figure.subplots(1, max(1, len(scales)), squeeze=False)[0]
    for axes, scale in zip(panels, scales, strict=False):
        _panel(axes, table[table["scale"] == scale], scale, variants)
    panels[0].set_ylabel("time per token", labelpad=1)
    figure.supxlabel("bytes read per token (MB)", fontsize=8)
    _legend(figure, table, variants)
    return figure


def _originals(results: Results) -> list[str]:
    """Labels of the original's two variants at its depths."""
    depths = results.study.original.depths
    return [f"{variant}-{d}" for variant in ("baseline", "proposed") for d in depths]


def _panel(axes: Axes, rows: pd.DataFrame, scale: str, variants: list[str]) -> None:
    """Floor, models and ticks of one scale."""
    depths = sorted(rows["depth"].unique())
    unit, factor = UNITS[scale]
    floor = rows.sort_values("bytes_per_token")
    megabytes = floor["bytes_per_token"] / 1e6
    axes.plot(megabytes, floor["floor_us"] * factor, color="0.35", zorder=1)
    places = sorted(set(zip(rows["variant"], rows["form"], strict=True)))
    for (variant, form, _), points in rows.groupby(["variant", "form", "depth"]):
        aside = 1 + APART * (places.index((variant, form)) - (len(places) - 1) / 2)
        _model(axes, points, (aside / 1e6, factor), variants, depths)
    margin = 1 + APART * len(places)
    ends = (megabytes.min() / margin, megabytes.max() * margin)
    axes.set(xscale="log", yscale="log", xlim=ends)
    ticks = [megabytes[floor["depth"] == depth].mean() for depth in depths]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    wide = rows["measured_us"].max() > 5 * floor["floor_us"].min()
    few = (1, 2, 5) if wide else range(1, 10)
    axes.yaxis.set_major_locator(LogLocator(subs=few))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_title(f"{scale} scale ({unit})", fontsize=8)


def _workload(table: pd.DataFrame) -> str:
    """The paired comparison if it was measured, else the ordinary workload."""
    return "decode" if "decode" in set(table["workload"]) else "fixed"


def _model(
    axes: Axes,
    points: pd.DataFrame,
    factors: tuple[float, float],
    variants: list[str],
    depths: list[int],
) -> None:
    """One model in one form: its modes, joined by an arrow."""
    first = points.iloc[0]
    colour = style.colour(first["variant"], variants)
    places = {}
    for _, row in points.iterrows():
        place = (row["bytes_per_token"] * factors[0], row["measured_us"] * factors[1])
        places[row["mode"] == "eager"] = place
        axes.plot(
            *place,
            color=colour,
            marker=style.marker(row["depth"], depths),
            mfc="white" if row["form"] == "folded" else None,
            alpha=PALE if row["mode"] == "eager" else 1.0,
            ms=4.5,
            mew=0.9,
            lw=0,
            zorder=3,
        )
    if len(places) == 2:
        arrow = {"arrowstyle": "->", "color": colour, "lw": 0.6, "alpha": 0.7}
        axes.annotate("", places[False], places[True], arrowprops=arrow)


def _legend(figure: Figure, table: pd.DataFrame, variants: list[str]) -> None:
    """Colours, markers, fills, opacities and the floor, above the panels."""
    depths = sorted(table["depth"].unique())
    dot: dict[str, Any] = {"color": "0.35", "lw": 0, "marker": "o", "ms": 4}
    handles = [style.key(v, color=style.colour(v, variants), lw=3) for v in variants]
    handles += [
        style.key(blocks(d), **dot | {"marker": style.marker(d, depths)})
        for d in depths
    ]
    if "folded" in set(table["form"]):
        handles.append(style.key("folded", **dot, mfc="white"))
    for mode in dict.fromkeys(table["mode"]):
        alpha = PALE if mode == "eager" else 1.0
        handles.append(style.key(mode, **dot, alpha=alpha))
    handles.append(style.key("floor", color="0.35"))
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": 4}
    figure.legend(handles=handles, fontsize=7, columnspacing=1.0, **where)


FIGURES = {"roofline": roofline}
