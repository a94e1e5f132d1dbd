"""One visual language for all figures: colour is the variant, marker the depth.

Okabe-Ito colours, which colour-blind readers can tell apart and which differ in
lightness, so that they survive a black-and-white printer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shallower.files import replacing
from shallower.study.names import blocks

COLOURS = {"baseline": "#0072B2", "proposed": "#D55E00"}
SPARE = ["#009E73", "#CC79A7", "#56B4E9", "#E69F00"]  # further variants
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (2, 1)), (0, (1, 1))]
COLUMN = 3.4  # inches: one of two columns
PAGE = 7.0  # both columns
NOT_IN_THIS_STUDY = "not in this study"


def use_style() -> None:
    """Seaborn's theme for print; the same input gives the same bytes."""
    mpl.use("Agg")
    settings: Any = {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "lines.linewidth": 1.0,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "shallower",
    }
    sns.set_theme(
        context="paper",
        style="ticks",
        palette=[*COLOURS.values(), *SPARE],
        font="DejaVu Sans",
        font_scale=0.85,
        rc=settings,
    )


def colour(variant: str, variants: list[str]) -> str:
    """The variant's colour; new variants take the next spare one."""
    if variant in COLOURS:
        return COLOURS[variant]
    extra = [v for v in variants if v not in COLOURS]
    return SPARE[extra.index(variant) % len(SPARE)]


def marker(depth: int, depths: list[int]) -> str:
    """The depth's marker."""
    return MARKERS[depths.index(depth) % len(MARKERS)]


def dashes(depth: int, depths: list[int]) -> Any:
    """The depth's line style, for curves: the deepest is solid."""
    return DASHES[(len(depths) - 1 - depths.index(depth)) % len(DASHES)]


def dash_pattern(depth: int, depths: list[int]) -> Any:
    """The same in seaborn's words."""
    dash = dashes(depth, depths)
    return "" if dash == "-" else dash[1]


def legend(
    target: Axes | Figure,
    variants: list[str],
    depths: list[int],
    lines: bool = False,
    **where: Any,
) -> None:
    """Colours of the variants, then markers (or line styles) of the depths."""
    handles = [key(v, color=colour(v, variants), lw=3) for v in variants]
    for depth in depths:
        mark: dict[str, Any] = {"lw": 0, "marker": marker(depth, depths), "ms": 4}
        if lines:
            mark = {"lw": 1, "linestyle": dashes(depth, depths)}
        handles.append(key(blocks(depth), color="0.35", **mark))
    target.legend(handles=handles, **({"fontsize": 7} | where))


def key(label: str, **looks: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **looks)


def above(figure: Figure, handles: list[Any], **looks: Any) -> None:
    """A legend above all axes, where it hides nothing."""
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": 3}
    where |= {"fontsize": 7, "handlelength": 2} | looks
    figure.legend(handles=handles, **where)


def absent(experiment: str, width: float = COLUMN) -> Figure:
    """A figure that says that the study has no such experiment."""
    figure = Figure(figsize=(width, 0.8))
    axes = figure.subplots()
    axes.set_axis_off()
    text = f"{experiment}: {NOT_IN_THIS_STUDY}"
    figure.set_label(text)  # the title of the SVG, by which a page leaves it out
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.35")
    return figure


def is_absent(svg: Path) -> bool:
    """Whether a saved figure is one of `absent`."""
    return NOT_IN_THIS_STUDY in svg.read_text(encoding="utf-8")


def save(figure: Figure, directory: Path, name: str, kinds: Iterable[str]) -> None:
    """Write `name`.pdf, `name`.svg, or both, without dates."""
    for kind in kinds:
        dated = {"pdf": "CreationDate", "svg": "Date"}[kind]
        metadata: dict[str, Any] = {dated: None}
        if kind == "svg" and figure.get_label():
            metadata["Title"] = figure.get_label()
        with replacing(directory / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
