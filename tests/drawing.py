"""A figure as it is drawn, for the tests of reporting."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.analysis.results import Results
from shallower.reporting import figures, style

mpl.use("Agg")


def drawn(results: Results, name: str) -> Figure:
    with mpl.rc_context():
        style.use_style()
        figure = figures.all_figures()[name](results)
        figure.draw_without_rendering()
    return figure


def points(axes: Axes, digits: int = 6) -> set[tuple[float, float]]:
    """Where single points are."""
    return {
        tuple(round(float(v[0]), digits) for v in (line.get_xdata(), line.get_ydata()))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
