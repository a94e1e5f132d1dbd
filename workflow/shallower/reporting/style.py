"""One visual language for all figures: colour is the variant, marker the depth.

Okabe-Ito colours, which colour-blind readers can tell apart and which differ in
lightness, so that they survive a black-and-white printer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shallower.files import replacing

COLOURS = {"baseline": "#0072B2", "proposed": "#D55E00"}
SPARE = ["#009E73", "#CC79A7", "#56B4E9", "#E69F00"]  # further variants
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (2, 1)), (0, (1, 1))]
COLUMN = 3.4  # inches: one of two columns
PAGE = 7.0  # both columns
WIDE = 7.0  # inches: the text's width


# As seaborn's theme `ticks` for paper with a font scale of 0.85 has it. From seaborn
# itself it would cost a second at every start, for scipy.stats and all else it brings.
DARK = ".15"
DEEP = [
    *("#4C72B0", "#DD8452", "#55A868", "#C44E52", "#8172B3"),
    *("#937860", "#DA8BC3", "#8C8C8C", "#CCB974", "#64B5CD"),
]
THEME: dict[Any, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), DARK),
    **dict.fromkeys(("xtick.color", "ytick.color"), DARK),
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "sans-serif"],
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 8.16),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.48),
    "legend.title_fontsize": 8.16,
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 4.8),
    **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 3.2),
    **dict.fromkeys(("xtick.minor.width", "ytick.minor.width"), 0.8),
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler("color", DEEP),
    "grid.color": ".8",
    "lines.markersize": 4.8,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "patch.linewidth": 0.8,
}


def use_style() -> None:
    """Set matplotlib up for print; the same input gives the same bytes."""
    settings: Any = THEME | {
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
    mpl.rcParams.update(settings)


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


def legend(
    target: Axes | Figure, variants: list[str], depths: list[int], **where: Any
) -> None:
    """Colours of the variants, then markers of the depths."""
    handles = [
        Line2D([], [], color=colour(v, variants), lw=3, label=v) for v in variants
    ]
    handles += [
        Line2D(
            [],
            [],
            color="0.35",
            lw=0,
            marker=marker(d, depths),
            ms=4,
            label=f"{d} block" if d == 1 else f"{d} blocks",
        )
        for d in depths
    ]
    target.legend(handles=handles, **where)


def key(label: str, **looks: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **looks)


def above(figure: Figure, handles: list[Any], **looks: Any) -> None:
    """A legend above all axes, where it hides nothing."""
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": 3}
    where |= {"fontsize": 6.5, "handlelength": 2} | looks
    figure.legend(handles=handles, **where)


def absent(experiment: str, width: float = COLUMN) -> Figure:
    """A figure that says that the study has no such experiment."""
    figure = Figure(figsize=(width, 0.8))
    axes = figure.subplots()
    axes.set_axis_off()
    text = f"{experiment}: not in this study"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.35")
    return figure


def save(figure: Figure, directory: Path, name: str, kinds: Iterable[str]) -> None:
    """Write `name`.pdf, `name`.svg, or both, without dates."""
    for kind in kinds:
        dated = {"pdf": "CreationDate", "svg": "Date"}[kind]
        with replacing(directory / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata={dated: None})
