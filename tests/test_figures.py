"""Every figure is drawn; those of S1 show what the tables say."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from matplotlib.figure import Figure

from drawing import drawn, points
from shallower.analysis.results import Results
from shallower.reporting import style
from shallower.reporting.contents import FIGURES
from shallower.reporting.figures import heads, search
from shallower.reporting.figures.roofline import _workload
from shallower.reporting.labels import label


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(name: str, analysed: Results, bare: Results) -> None:
    """Of a study that has everything, and of one with a single seed and session."""
    assert not absent(drawn(analysed, name))
    assert all(axes.lines or axes.texts for axes in drawn(bare, name).axes[:1])


def absent(figure: Figure) -> bool:
    """Whether a figure only says that the study has no such experiment."""
    texts = (text.get_text() for axes in figure.axes for text in axes.texts)
    return any("not in this study" in text for text in texts)


def test_perplexity_against_time(analysed: Results) -> None:
    (axes,) = drawn(analysed, "perplexity_latency").axes
    due = [
        (
            analysed.values(model, "completion", "time_per_generated_token").mean(),
            analysed.values(model, "text", "perplexity").mean(),
        )
        for model in analysed.study.depth_models
    ]
    assert np.allclose(sorted(points(axes, 12)), sorted(due))


@pytest.mark.parametrize(
    ("floors", "labels"),
    [
        ({"unigram": 5.0, "bigram": 4.0, "trigram": 3.5}, "unigram|bigram|trigram"),
        ({"unigram": 5.0, "bigram": 4.4, "trigram": 4.35}, "unigram|bigram, trigram"),
        ({"unigram": 40, "bigram": 4.4, "trigram": 0.01}, "bigram|above: unigram 40"),
    ],
)
def test_labels_of_floors_do_not_overlap(floors: dict[str, float], labels: str) -> None:
    facts = {f"floors.{name}": value for name, value in floors.items()}
    study = cast(Results, SimpleNamespace(fact=facts.__getitem__))
    figure = Figure(figsize=(3.3, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [6, 3])
    heads.floor_lines(axes, study, "cross_entropy")
    figure.draw_without_rendering()
    shown = [text.get_text() for text in axes.texts]
    assert set(labels.split("|")) <= set(shown)
    boxes = [text.get_window_extent() for text in axes.texts]
    pairs = itertools.combinations(boxes, 2)
    assert not [pair for pair in pairs if pair[0].overlaps(pair[1])]


def test_decoding_by_depth(analysed: Results) -> None:
    panels = drawn(analysed, "latency_scales").axes
    study = analysed.study
    for axes, scale, depths in zip(
        panels,
        ("study", "original"),
        (study.depths, study.original.depths),
        strict=True,
    ):
        due = [
            analysed.values(f"{v}-{d}", "fixed", "time_per_output_token", scale).mean()
            for v in ("baseline", "proposed")
            for d in depths
        ]
        shown = {round(float(y), 4) for x in axes.lines for y in x.get_ydata()}
        assert {round(value, 4) for value in due} <= shown, scale


def test_head_ablation(analysed: Results) -> None:
    (axes,) = drawn(analysed, "head_ablation").axes[:1]
    found = heads.head_differences(analysed)
    text = ("text", "cross_entropy")
    pair = {(one.left, one.right): one.effect for one in found}
    due = analysed.values("silu-2", *text) - analysed.values("baseline-2", *text)
    assert pair["silu-2", "baseline-2"] == pytest.approx(due.mean())
    shown = {x for x, _ in points(axes, 9)}
    assert {round(one.effect, 9) for one in found} <= shown


def test_learning_rates(analysed: Results) -> None:
    (axes,) = drawn(analysed, "learning_rate").axes
    table = analysed.learning_rates
    for _, rows in table.groupby("group"):
        line = rows[["learning_rate", "cross_entropy"]].to_numpy()
        assert any(np.array_equal(each.get_xydata(), line) for each in axes.lines)
    best = table[table["best"].astype(bool)][["learning_rate", "cross_entropy"]]
    rings = [x for x in axes.lines if x.get_markersize() == search.RING["ms"]]
    shown = sorted(tuple(ring.get_xydata()[0]) for ring in rings)
    assert shown == sorted(map(tuple, best.to_numpy()))
    # A name at the end of every line, none upon another.
    ends = table.sort_values("learning_rate").groupby("group").tail(1)
    ends = ends[["learning_rate", "cross_entropy"]].to_numpy()
    assert sorted(text.xy for text in axes.texts) == sorted(map(tuple, ends))
    assert len({text.xyann for text in axes.texts}) == len(ends)
    models = [analysed.study.models[model] for model in table["model"]]
    names = {label(model.without("lr", "init_std", "steps")) for model in models}
    assert {text.get_text() for text in axes.texts} == names


def test_budget(analysed: Results) -> None:
    axes, layer, depth = drawn(analysed, "budget").axes
    table = analysed.table("budget").sort_values("tokens")
    rows = table[table["variant"].eq("baseline") & table["depth"].eq(4)]
    due = rows[["tokens_per_parameter", "cross_entropy"]].to_numpy()
    assert len(due) == 4
    lines = [line.get_xydata() for line in axes.lines]
    assert any(each.shape == due.shape and np.allclose(each, due) for each in lines)
    for panel, question in ((layer, "layer"), (depth, "depth")):
        rows = analysed.table("gain")
        rows = rows[rows["question"] == question].sort_values("tokens_per_parameter")
        due = rows[["tokens_per_parameter", "effect"]].to_numpy()
        lines = [line.get_xydata() for line in panel.lines]
        assert any(each.shape == due.shape and np.allclose(each, due) for each in lines)


def test_diagnostics(analysed: Results) -> None:
    axes = drawn(analysed, "diagnostics").axes[0]
    limit = analysed.fact("heads.bad_mode.limit")
    assert [limit, limit] in [list(line.get_ydata()) for line in axes.lines]
    lines = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert sum(np.allclose(y, [3.88, 3.8]) for y in lines) == len(search.SHOWN)


def test_roofline(analysed: Results) -> None:
    axes = drawn(analysed, "roofline").axes[0]
    table = analysed.roofline
    rows = table[(table["scale"] == "study") & (table["label"] == "baseline-4")]
    rows = rows[(rows["mode"] == "eager") & (rows["workload"] == _workload(table))]
    shown = {round(float(y), 6) for x in axes.lines for y in np.ravel(x.get_ydata())}
    measured = float(rows["measured_us"].iloc[0])
    assert {round(measured, 6), round(measured / 1e3, 6)} & shown


def test_many_variants_look_different() -> None:
    """Eighteen variants have a colour and dashes of their own, few a colour alone."""
    many = ["baseline", "proposed", *(f"variant{i}" for i in range(16))]
    assert len({str(search.colour_and_dashes(v, many)) for v in many}) == 18
    variants, depths = many[:4], [5, 6, 7, 8]
    assert len({style.colour(v, variants) for v in variants}) == 4
    assert len({style.marker(d, depths) for d in depths}) == 4
    assert style.dashes(8, depths) == "-"


def test_bars_are_of_the_interval() -> None:
    assert heads.bars(2.0, 1.0, 5.0) == [[1.0], [3.0]]
    assert heads.bars(2.0, math.nan, math.nan) == [[0], [0]]
    # A mean may be larger than its interval's end in floating point.
    assert heads.bars(0.1, 0.1 + 1e-16, 0.1 - 1e-16) == [[0], [0]]
