"""The front: every model and arm of a study by quality and time."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.reporting import style
from shallower.reporting.experiments import above, absent, key
from shallower.reporting.labels import SYSTEMS, label
from shallower.reporting.nulls import null_curve, plain
from shallower.reporting.results import Results

AXES = {  # axis -> unit of the horizontal axis, microseconds in one, label
    "per_token": (1.0, "time per token (µs)"),
    "first_token": (1e3, "time to the first token (ms)"),
}
BASELINE = style.COLOURS["baseline"]
LOOKS: dict[str, tuple[str, str, float]] = {  # system -> colour, marker, size
    "S1": ("#D55E00", "s", 3.6),
    "S2": ("#009E73", "^", 4.2),
    "S3": ("#CC79A7", "D", 3.4),
    "S4": ("#56B4E9", "v", 4.2),
    "combined": ("#E69F00", "P", 4.4),
}
SHOWN = 0.75  # of the points that are slower and no better, how far up is drawn
CROWD = 60  # models from which on the intervals of those off the front are fainter
SIZE = (330.0, 180.0)  # of the axes, about, in points
# Centres of letters relative to their models, in the order in which they are tried.
OFFSETS = [(-8.0, -8.0), (-19.0, -8.0), (-8.0, -19.0), (-30.0, -8.0), (-19.0, -19.0)]
APART = 11.0  # points between two letters' centres
LINE = 27  # characters of a line of the key


def per_token(results: Results) -> Figure:
    """Cross-entropy against the time that a token takes."""
    return draw(results, "per_token")


def first_token(results: Results) -> Figure:
    """Cross-entropy against the time until the first token."""
    return draw(results, "first_token")


def draw(results: Results, axis: str) -> Figure:
    """All models of one axis, the front as a stepped line, its models in a key."""
    table = results.pareto
    table = table[table["axis"] == axis].dropna(subset=["quality", "latency"])
    if table.empty:
        return absent("quality against latency", style.PAGE)
    unit, words = AXES[axis]
    table = in_unit(table, unit)
    figure = Figure(figsize=(style.PAGE, 3.25))
    axes, side = figure.subplots(1, 2, width_ratios=[2.75, 1])
    ceiling = highest(table)
    _null(axes, table)
    faint = 0.3 if len(table) <= CROWD else 0.15
    for row in table.to_dict("records"):
        _point(axes, row, ceiling, faint)
    best = table[table["on_front"].astype(bool)].sort_values("latency")
    _step(axes, best, table["latency"].max())
    _limits(axes, table, ceiling)
    _marks(axes, best)
    _key(side, best)
    axes.set(xlabel=words, ylabel="cross-entropy of continuations (nats)")
    _legend(figure, table)
    return figure


def in_unit(table: pd.DataFrame, unit: float) -> pd.DataFrame:
    """The points with their times in another unit than the microsecond."""
    times = ["latency", "latency_ci_low", "latency_ci_high"]
    return table.assign(**{name: table[name] / unit for name in times})


def highest(table: pd.DataFrame) -> float:
    """Cross-entropy up to which points are drawn in their place.

    The front, the null and most others are; a few arms may be ruined, and would press
    all that matters into a strip.
    """
    kept = table["on_front"].astype(bool) | table["model"].map(plain)
    due = max(table.loc[kept, "quality"].max(), table["quality"].quantile(SHOWN))
    room = due - table["quality"].min()
    top = due + 0.12 * (room or 1.0)
    return max(top, 0.0) if table["quality"].max() > top else float("inf")


def _null(axes: Axes, table: pd.DataFrame) -> None:
    """What leaving out blocks before training gives: the line to lie below."""
    curve = null_curve(table)
    axes.plot(*curve, color=BASELINE, lw=1.1, alpha=0.55, zorder=1)


def _point(axes: Axes, row: dict[str, Any], ceiling: float, faint: float) -> None:
    """A model with both its intervals; one that is off the scale, at the upper edge."""
    is_null, on_front = plain(row["model"]), bool(row["on_front"])
    colour, marker, size = LOOKS[row["system"]]
    if is_null:
        colour, marker, size = BASELINE, "o", 6.6
    if row["quality"] > ceiling:
        x, y = row["latency"], 0.985
        where = axes.get_xaxis_transform()
        axes.plot(x, y, "^", color=colour, ms=3, mew=0, alpha=0.8, transform=where)
        return
    bars: dict[str, Any] = {
        f"{side}err": [[_length(row, name, "low")], [_length(row, name, "high")]]
        for side, name in (("x", "latency"), ("y", "quality"))
    }
    strong = on_front or is_null
    axes.errorbar(
        *(row["latency"], row["quality"]),
        **bars,
        fmt="none",
        ecolor=colour,
        elinewidth=0.7 if strong else 0.5,
        alpha=0.6 if strong else faint,
        zorder=2,
    )
    axes.plot(
        *(row["latency"], row["quality"]),
        marker=marker,
        ms=size,
        mfc=colour,
        mec="0.1" if on_front else "white",
        mew=0.8 if on_front else 0.4,
        alpha=1 if strong else 0.75,
        zorder=4 if strong else 3,
    )
    if is_null:  # the number of blocks, within the mark
        axes.annotate(
            row["model"].rpartition("-")[2],
            (row["latency"], row["quality"]),
            color="white",
            fontsize=5,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            zorder=5,
        )


def _length(row: dict[str, Any], name: str, end: str) -> float:
    """Of an error bar; none without an interval."""
    length = abs(row[f"{name}_ci_{end}"] - row[name])
    return float(np.nan_to_num(length))


def _step(axes: Axes, best: pd.DataFrame, slowest: float) -> None:
    """The best cross-entropy for any time that one is ready to wait."""
    x = np.append(best["latency"], slowest)
    y = np.append(best["quality"], best["quality"].iloc[-1])
    axes.plot(x, y, drawstyle="steps-post", color="0.25", lw=0.9, zorder=2.5)


def _limits(axes: Axes, table: pd.DataFrame, ceiling: float) -> None:
    """Points and their bars; room below the front for its letters."""
    shown = table[table["quality"] <= ceiling]
    ends = shown["quality_ci_low"].fillna(shown["quality"])
    # An interval of few seeds may be many times what the figure is about.
    low, high = shown["quality"].min(), min(ceiling, shown["quality"].max())
    reach = high - low or 1.0
    bottom = max(ends.min(), low - 0.25 * reach) - 0.04 * reach
    above_all = shown["quality_ci_high"].fillna(shown["quality"]).max()
    top = min(above_all, high + 0.25 * reach) if np.isinf(ceiling) else ceiling
    axes.set_ylim(bottom, top + 0.03 * reach)
    span = table["latency"].max() - table["latency"].min() or 1.0
    axes.set_xlim(
        table["latency"].min() - 0.07 * span, table["latency"].max() + 0.05 * span
    )


def letters(count: int) -> list[str]:
    """a to z, then aa, ab and so on."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    more = [first + second for first in alphabet for second in alphabet]
    return [*alphabet, *more][:count]


def places(points: np.ndarray) -> list[tuple[float, float]]:
    """Where the letters of (models, 2) points stand, relative to them, in points.

    Below and left of a model on the front there is no other: only their letters could
    be in each other's way.
    """
    taken: list[np.ndarray] = []
    for point in points:
        tried = [point + offset for offset in OFFSETS]
        free = [
            place
            for place in tried
            if all(np.hypot(*(place - other)) > APART for other in taken)
        ]
        taken.append((free or tried)[0])
    return [(float(x), float(y)) for x, y in np.array(taken) - points]


def _marks(axes: Axes, best: pd.DataFrame) -> None:
    """The letters of the models on the front."""
    points = best[["latency", "quality"]].to_numpy(float)
    ends = np.array([axes.get_xlim(), axes.get_ylim()])
    offsets = places((points - ends[:, 0]) / np.ptp(ends, axis=1) * SIZE)
    for letter, point, offset in zip(letters(len(best)), points, offsets, strict=True):
        far = offset != OFFSETS[0]
        line: dict[str, Any] = {"arrowstyle": "-", "lw": 0.4, "color": "0.35"}
        axes.annotate(
            letter,
            point,
            xytext=offset,
            textcoords="offset points",
            fontsize=6.5,
            fontweight="bold",
            ha="center",
            va="center",
            zorder=6,
            arrowprops=line | {"shrinkA": 3, "shrinkB": 2} if far else None,
            bbox={"boxstyle": "circle,pad=.12", "fc": "white", "ec": "0.35", "lw": 0.5},
        )


def _key(axes: Axes, best: pd.DataFrame) -> None:
    """The models on the front: letter, name, probability of being there."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines: list[tuple[str, list[str], str, str]] = []
    for letter, row in zip(letters(len(best)), best.to_dict("records"), strict=True):
        text = wrapped(label(row["model"]))
        colour = BASELINE if plain(row["model"]) else LOOKS[row["system"]][0]
        lines.append((letter, text, chance(row["on_front_probability"]), colour))
    rows = sum(len(text) for _, text, *_ in lines) + 0.35 * len(lines) + 1.3
    height = min(0.052, 0.98 / rows)
    looks: dict[str, Any] = {"fontsize": 6.5, "va": "top"}
    y = 0.98
    axes.text(0, y, "on the front", fontweight="bold", **looks)
    axes.text(1, y, "probability", ha="right", color="0.35", **looks)
    y -= 1.3 * height
    for letter, text, probability, colour in lines:
        axes.text(0.05, y, letter, ha="right", fontweight="bold", **looks)
        axes.text(1, y, probability, ha="right", **looks)
        for line in text:
            axes.text(0.085, y, line, color=_dark(colour), **looks)
            y -= height
        y -= 0.35 * height


def wrapped(text: str) -> list[str]:
    """Lines of the key, broken between the parts of a name."""
    parts = (part.replace(" ", "\u00a0") for part in text.split(", "))
    return textwrap.wrap(", ".join(parts), LINE, break_long_words=False)


def _dark(colour: str) -> tuple[float, float, float]:
    """A colour in which small print can be read."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.72 * red, 0.72 * green, 0.72 * blue


def chance(probability: float) -> str:
    """A probability with two digits and no leading zero; a dash without one."""
    if np.isnan(probability):
        return "–"
    return f"{probability:.2f}".removeprefix("0")


def _legend(figure: Figure, table: pd.DataFrame) -> None:
    """The systems that are there, the null and the front."""
    blue: dict[str, Any] = {"color": BASELINE, "marker": "o", "ms": 5.5, "lw": 1}
    handles = [key("baseline, number of blocks", **blue)]
    others = table[~table["model"].map(plain)]["system"].unique()
    for system, (colour, marker, size) in LOOKS.items():
        if system in others:
            words = SYSTEMS[system]
            text = words if system == "combined" else f"{system}: {words}"
            handles.append(key(text, color=colour, marker=marker, ms=size, lw=0))
    handles.append(key("the front", color="0.25", lw=0.9))
    above(figure, handles, ncols=len(handles), columnspacing=0.9, handlelength=1.3)
