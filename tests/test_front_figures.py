"""The front as a figure, from made-up results; nothing may warn."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from shallower.analysis.gains import _against
from shallower.analysis.pareto import Measured
from shallower.reporting import fronts, style
from shallower.reporting.arms import AXES
from shallower.reporting.labels import label
from shallower.reporting.nulls import null_curve, plain
from shallower.reporting.results import Results

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("error")


def drawn(results: Results, axis: str) -> Figure:
    with mpl.rc_context():
        style.use_style()
        figure = fronts.draw(results, axis)
        figure.draw_without_rendering()
    return figure


def annotations(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("axis", AXES)
def test_front(systems: Results, axis: str) -> None:
    table = systems.pareto[systems.pareto["axis"] == axis]
    best = table[table["on_front"]].sort_values("latency")
    figure = drawn(systems, axis)
    axes, side = figure.axes
    shown = [text for text in annotations(figure) if text.get_text().isalpha()]
    assert [text.get_text() for text in shown] == fronts.letters(len(best))
    unit = fronts.AXES[axis][0]
    at = [text.xy for text in shown]
    assert np.allclose(at, best[["latency", "quality"]] / [unit, 1])
    # The key says who they are, and how surely.
    words = " ".join(text.get_text().replace("\u00a0", " ") for text in side.texts)
    for row in best.to_dict("records"):
        assert label(row["model"]) in words
        assert fronts.chance(row["on_front_probability"]) in words
    # Baselines have their number of blocks in their mark.
    digits = {text.get_text() for text in annotations(figure)} - set("abcdefghijkl")
    assert digits == {"3", "4", "5", "6", "7", "8"}
    # Every model is drawn once, in its place or at the upper edge.
    at_edge = [
        line
        for line in axes.lines
        if line.get_transform() == axes.get_xaxis_transform()
    ]
    ceiling = fronts.highest(table)
    assert len(at_edge) == (table["quality"] > ceiling).sum() > 0
    kept = table["on_front"] | table["model"].map(plain)
    assert table.loc[kept, "quality"].max() < ceiling
    colours = {h.get_color() for h in figure.legends[0].legend_handles}
    assert {colour for colour, *_ in fronts.LOOKS.values()} < colours


def test_letters_keep_clear_of_each_other(systems: Results) -> None:
    crowd = np.array([[10, 50], [11, 49], [12, 48], [14, 30.0]])
    ends = crowd + fronts.places(crowd)
    gaps = [np.hypot(*(a - b)) for i, a in enumerate(ends) for b in ends[:i]]
    assert min(gaps) > fronts.APART
    assert fronts.places(crowd)[0] == fronts.OFFSETS[0]
    for axis in AXES:
        figure = drawn(systems, axis)
        boxes = [
            text.get_bbox_patch().get_window_extent()
            for text in annotations(figure)
            if text.get_text().isalpha()
        ]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs)


def test_the_null_is_that_of_the_gains() -> None:
    """Against analysis.gains, of depths of which one is slower and no better."""
    levels = [6.0, 5.8, 5.9, 5.85, 5.7, 5.75]  # the third and fourth lag behind
    nats = {f"baseline-{depth}": value for depth, value in enumerate(levels, 2)}
    times = {model: 100.0 * index for index, model in enumerate(nats, 1)}
    rows = [{"model": m, "quality": nats[m], "latency": times[m]} for m in nats]
    rows.append({"model": "proposed-3", "quality": 5.0, "latency": 50.0})
    x, y = null_curve(pd.DataFrame(rows))
    frames = [
        pd.DataFrame([values | {"proposed-3": 5.0}] * 2) for values in (nats, times)
    ]
    _, _, curve = _against(
        Measured(*frames, "per_token", "study"), "proposed-3", list(nats)
    )
    knots = [*curve.knots, curve.slowest]
    assert list(x) == knots
    assert list(y) == [*curve.quality.mean(axis=0), curve.quality.mean(axis=0)[-1]]


def test_study_without_arms(without_arms: Results) -> None:
    figure = drawn(without_arms, "per_token")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "baseline, number of blocks",
        "S1: heads",
        "S2: FFN, teachers",
        "the front",
    ]


def test_nothing_timed(without_arms: Results) -> None:
    empty = Results(without_arms.directory, without_arms.study)
    empty.pareto = without_arms.pareto.iloc[:0]
    assert "not in this study" in drawn(empty, "per_token").axes[0].texts[0].get_text()


def test_one_seed_has_no_intervals(systems: Results) -> None:
    bare = Results(systems.directory, systems.study)
    ends = [c for c in systems.pareto if "_ci_" in c or "probability" in c]
    bare.pareto = systems.pareto.assign(**dict.fromkeys(ends, float("nan")))
    side = drawn(bare, "first_token").axes[1]
    assert "–" in {text.get_text() for text in side.texts}


def test_chance() -> None:
    assert [fronts.chance(p) for p in (0.984, 1.0, 0.0, float("nan"))] == [
        ".98",
        "1.00",
        ".00",
        "–",
    ]


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("figures", "torch scipy.stats"),
        ("tables", "torch matplotlib shallower.reporting.style"),
        ("numbers", "torch matplotlib shallower.reporting.style"),
    ],
)
def test_closures(module: str, without: str) -> None:
    code = f"import sys, shallower.reporting.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"shallower.reporting.{module}" in run.stdout.split()
    assert not set(without.split()) & set(run.stdout.split())
