"""Figures of the front: every model of a study by quality and latency.

Of what is trained, an axis a figure; of a checkpoint both, with whole blocks left out
of it as the baseline in place of fewer blocks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from shallower.analysis.interventions import depth_baselines, skips
from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.labels import SYSTEMS, label

UNITS = {  # axis -> microseconds in one unit, label
    "per_token": (1.0, "time per token (µs)"),
    "first_token": (1e3, "time to the first token (ms)"),
}
OF_CHECKPOINTS = UNITS | {"per_token": (1e3, "time per token (ms)")}
BASELINE = style.COLOURS["baseline"]
LOOKS: dict[str, tuple[str, str, float]] = {  # system -> colour, marker, size
    "S1": ("#D55E00", "s", 3.6),
    "S2": ("#009E73", "X", 4.6),
    "S3": ("#CC79A7", "D", 3.4),
    "S4": ("#56B4E9", "v", 4.2),
    "combined": ("#E69F00", "P", 4.4),
}
RUINED = 1.5  # nats above a checkpoint from which on models lie at the upper edge
SHOWN = 0.75  # of the points that are slower and no better, how far up is drawn
SIZE = (330.0, 180.0)  # of the axes, about, in points
# Centres of letters relative to their models, in the order in which they are tried.
OFFSETS = [(-8.0, -8.0), (-19.0, -8.0), (-8.0, -19.0), (-30.0, -8.0), (-19.0, -19.0)]
APART = 11.0  # points between two letters' centres
LINE = 24  # characters of a line of the key


def draw(results: Results, axis: str) -> Figure:
    """All models of one axis, the front as a stepped line, its models in a key."""
    table = points(results, axis)
    if table.empty:
        return style.absent("quality against latency", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 3.25))
    _plane(figure, results, table, axis, highest(table))
    _legend(figure, table, "baseline of so many blocks, and their curve")
    return figure


def draw_checkpoint(results: Results) -> Figure:
    """Both axes of the first checkpoint, one above the other."""
    base = results.study.timed_on
    tables = {axis: points(results, axis, base) for axis in UNITS}
    tables = {axis: table for axis, table in tables.items() if len(table)}
    if not tables:
        return style.absent("quality of a checkpoint against latency", style.PAGE)
    figure = Figure(figsize=(style.PAGE, 2.9 * len(tables)))
    rows = figure.subfigures(len(tables), 1, squeeze=False)[:, 0]
    for row, (axis, table) in zip(rows, tables.items(), strict=True):
        whole = table.loc[table["label"] == base, "quality"]
        ceiling = RUINED + float(
            whole.iloc[0] if len(whole) else table["quality"].min()
        )
        _plane(row, results, table, axis, ceiling)
    words = "the checkpoint with so many blocks, the last ones left out"
    _legend(figure, pd.concat(tables.values()), f"{words}, and their curve")
    return figure


def _plane(
    figure: FigureBase,
    results: Results,
    table: pd.DataFrame,
    axis: str,
    ceiling: float,
) -> None:
    """One axis: all models, the front as a stepped line, its models in a key."""
    axes, side = figure.subplots(1, 2, width_ratios=[2.75, 1])
    if not (table["quality"] > ceiling).any():
        ceiling = float("inf")
    axes.plot(*depth_curve(table), color=BASELINE, lw=1.1, alpha=0.55, zorder=1)
    for row in table.to_dict("records"):
        _point(axes, row, ceiling)
    best = table[table["on_front"]].sort_values("latency")
    _step(axes, best, table["latency"].max())
    _limits(axes, table, ceiling)
    best = best[best["quality"] <= ceiling]
    _letters(axes, best)
    _key(side, results, best)
    units = OF_CHECKPOINTS if (table["scale"] == "pretrained").all() else UNITS
    axes.set(xlabel=units[axis][1], ylabel="cross-entropy of continuations (nats)")


def points(results: Results, axis: str, base: str = "") -> pd.DataFrame:
    """Rows of pareto.csv of one axis, in its unit; `blocks` is 0 but for baselines.

    Of what is trained, or of the checkpoint `base`.
    """
    table = results.pareto
    scale = results.scale_of(base)
    chosen = (table["axis"] == axis) & (table["scale"] == scale)
    if scale == "pretrained":
        chosen &= table["model"] == base
    table = table[chosen].dropna(subset=["quality", "latency"])
    times = ["latency", "latency_ci_low", "latency_ci_high"]
    factor = (UNITS if scale == "study" else OF_CHECKPOINTS)[axis][0]
    table = table.assign(**{name: table[name] / factor for name in times})
    blocks = _blocks(results, base)
    numbers = [blocks.get(m, 0) for m in table["label"]]
    return table.assign(blocks=numbers, on_front=table["on_front"].astype(bool))


def _blocks(results: Results, base: str) -> dict[str, int]:
    """Blocks of the models that are the baseline of a plane, by label."""
    study = results.study
    if results.scale_of(base) == "study":
        return {m: study.names[m].depth for m in depth_baselines(study)}
    found, depth = {base: study.names[base].depth}, study.names[base].depth
    for model, skip in skips(study).items():
        last = (skip.part, skip.rule) == ("block", "last")
        if last and str(study.names[model].run) == base:
            found[model] = depth - skip.k
    return found


def depth_curve(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Times and cross-entropies of the curve of depth baselines.

    As `analysis.gains` has it: straight between depths that no other dominates, and
    flat from the best to the slowest depth. Empty without baselines.
    """
    rows = table[table["blocks"] > 0].sort_values(["latency", "quality"])
    times, nats = rows["latency"].to_numpy(float), rows["quality"].to_numpy(float)
    if len(nats) == 0:
        return times, nats
    best = np.minimum.accumulate(nats)
    chosen = np.flatnonzero(np.diff(best, prepend=np.inf) < 0)
    x, y = times[chosen], nats[chosen]
    return np.append(x, times[-1]), np.append(y, y[-1])


def highest(table: pd.DataFrame) -> float:
    """Cross-entropy up to which points are drawn in their place.

    The front, the depth baselines and most others are; a few interventions may ruin a
    model, and would press all that matters into a strip.
    """
    needed = table.loc[table["on_front"] | (table["blocks"] > 0), "quality"]
    due = max(needed.max(), table["quality"].quantile(SHOWN))
    room = due - table["quality"].min()
    top = due + 0.12 * (room or 1.0)
    return max(top, 0.0) if table["quality"].max() > top else float("inf")


def _point(axes: Axes, row: dict[str, Any], ceiling: float) -> None:
    """A model; one that is off the scale, at the upper edge.

    Intervals are drawn of the models that are read closely: those on the front and the
    depth baselines.
    """
    colour, marker, size = LOOKS[row["system"]]
    if row["blocks"]:
        colour, marker, size = BASELINE, "o", 8.6
    at = (row["latency"], row["quality"])
    if row["quality"] > ceiling:
        where = axes.get_xaxis_transform()
        looks: dict[str, Any] = {"color": colour, "ms": 3, "mew": 0, "alpha": 0.8}
        axes.plot(row["latency"], 0.985, "^", transform=where, **looks)
        return
    strong = bool(row["on_front"] or row["blocks"])
    if strong:
        bars: dict[str, Any] = {
            f"{side}err": [[_length(row, name, "low")], [_length(row, name, "high")]]
            for side, name in (("x", "latency"), ("y", "quality"))
        }
        looks = {"fmt": "none", "ecolor": colour, "elinewidth": 0.7, "alpha": 0.6}
        looks["zorder"] = 2
        axes.errorbar(row["latency"], row["quality"], **bars, **looks)
    looks = {"marker": marker, "ms": size, "mfc": colour}
    looks |= {"mec": "white", "mew": 0.4, "alpha": 0.75, "zorder": 3}
    if strong:
        looks |= {"alpha": 1.0, "zorder": 4}
    if row["on_front"]:
        looks |= {"mec": "0.1", "mew": 0.8}
    axes.plot(*at, **looks)
    if row["blocks"]:  # the number of blocks, within the mark
        looks = {"color": "white", "fontsize": 7, "fontweight": "bold", "zorder": 5}
        looks |= {"ha": "center", "va": "center_baseline"}
        axes.annotate(str(row["blocks"]), at, **looks)


def _length(row: dict[str, Any], name: str, end: str) -> float:
    """Of an error bar; none without an interval."""
    return float(np.nan_to_num(abs(row[f"{name}_ci_{end}"] - row[name])))


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
    left, right = table["latency"].min(), table["latency"].max()
    span = right - left or 1.0
    axes.set_xlim(left - 0.07 * span, right + 0.05 * span)


# --- letters and their key ------------------------------------------------------------


def letters(count: int) -> list[str]:
    """a to z, then aa, ab and so on."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    more = [first + second for first in alphabet for second in alphabet]
    return [*alphabet, *more][:count]


def places(targets: np.ndarray) -> list[tuple[float, float]]:
    """Where the letters of (models, 2) points stand, relative to them, in points.

    Below and left of a model on the front there is no other: only their letters could
    be in each other's way.
    """
    taken: list[np.ndarray] = []
    for target in targets:
        tried = [target + offset for offset in OFFSETS]
        free = [
            place
            for place in tried
            if all(np.hypot(*(place - other)) > APART for other in taken)
        ]
        taken.append((free or tried)[0])
    return [(float(x), float(y)) for x, y in np.array(taken) - targets]


def _letters(axes: Axes, best: pd.DataFrame) -> None:
    """The letters of the models on the front."""
    targets = best[["latency", "quality"]].to_numpy(float)
    ends = np.array([axes.get_xlim(), axes.get_ylim()])
    offsets = places((targets - ends[:, 0]) / np.ptp(ends, axis=1) * SIZE)
    line: dict[str, Any] = {"arrowstyle": "-", "lw": 0.4, "color": "0.35"}
    box: dict[str, Any] = {"boxstyle": "circle,pad=.12", "fc": "white", "lw": 0.5}
    for letter, target, offset in zip(
        letters(len(best)), targets, offsets, strict=True
    ):
        axes.annotate(
            letter,
            target,
            xytext=offset,
            textcoords="offset points",
            fontsize=7,
            fontweight="bold",
            ha="center",
            va="center",
            zorder=6,
            arrowprops=line if offset != OFFSETS[0] else None,
            bbox=box | {"ec": "0.35"},
        )


def _key(axes: Axes, results: Results, best: pd.DataFrame) -> None:
    """The models on the front: letter, name, probability of being there."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines: list[tuple[str, list[str], str, str]] = []
    for letter, row in zip(letters(len(best)), best.to_dict("records"), strict=True):
        name = results.study.names[row["label"]]
        words = label(name)
        if name.pretrained and name.is_intervened:  # of one checkpoint all
            words = words.removeprefix(f"{label(name.run)}, ")
        text = wrapped(words)
        colour = BASELINE if row["blocks"] else LOOKS[row["system"]][0]
        sure = "fastest" if row["by_construction"] else None  # so by construction
        surely = sure or chance(row["on_front_probability"])
        lines.append((letter, text, surely, colour))
    rows = sum(len(text) for _, text, *_ in lines) + 0.35 * len(lines) + 1.3
    height = min(0.056, 0.98 / rows)
    looks: dict[str, Any] = {"fontsize": 7, "va": "top"}
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
    """Lines of the key, broken between the parts of a name, if it has several."""
    if ", " not in text:
        return textwrap.wrap(text, LINE)
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


def _legend(figure: Figure, table: pd.DataFrame, baseline: str) -> None:
    """The systems that are there, the baselines (in words) and the front."""
    blue: dict[str, Any] = {"color": BASELINE, "marker": "o", "ms": 5.5, "lw": 1}
    handles = [style.key(baseline, **blue)]
    others = set(table.loc[table["blocks"] == 0, "system"])
    for system, (colour, marker, size) in LOOKS.items():
        if system in others:
            words = SYSTEMS[system]
            text = words if system == "combined" else f"{system}: {words}"
            handles.append(style.key(text, color=colour, marker=marker, ms=size, lw=0))
    handles.append(style.key("the front", color="0.25", lw=0.9))
    looks: dict[str, Any] = {"columnspacing": 0.9, "handlelength": 1.3}
    style.above(figure, handles, ncols=-(-len(handles) // 2), **looks)


FIGURES: dict[str, Callable[[Results], Figure]] = {
    f"front_{axis}": partial(draw, axis=axis) for axis in UNITS
} | {"front_pretrained": draw_checkpoint}
