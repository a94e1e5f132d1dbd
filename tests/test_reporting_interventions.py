"""Figures, tables and numbers of skipping, elimination and the front."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from drawing import drawn, points
from shallower.analysis.estimates import Comparison, Estimate
from shallower.analysis.gains import Measured, _against
from shallower.analysis.interventions import AXES, against_curve, change, skips, speedup
from shallower.analysis.results import Results
from shallower.reporting.figures import elimination as elimination_figure
from shallower.reporting.figures import front as front_figure
from shallower.reporting.figures import skipping as skipping_figure
from shallower.reporting.labels import label, printed
from shallower.reporting.latex import interval, number
from shallower.reporting.numbers import front as front_numbers
from shallower.reporting.numbers import interventions as intervention_numbers
from shallower.reporting.numbers.sentences import listed
from shallower.reporting.tables import front as front_tables
from shallower.reporting.tables import interventions as intervention_tables

pytestmark = pytest.mark.filterwarnings("error")
BASE = "baseline-4"
TABLES = intervention_tables.TABLES | front_tables.TABLES
NUMBERS = (intervention_numbers, front_numbers)


# --- figures --------------------------------------------------------------------------


def by_hand(results: Results, left: str, right: str = BASE) -> float:
    where = ("continuation", "cross_entropy")
    return float((results.values(left, *where) - results.values(right, *where)).mean())


def test_skipping_figure(analysed: Results) -> None:
    left, right = drawn(analysed, "skipping").axes
    labels = [m for m in skips(analysed.study) if m.startswith(BASE)]
    due = {
        round(by_hand(analysed, m), 6) for m in [*labels, "baseline-3", "baseline-2"]
    }
    assert {y for _, y in points(left)} == due
    assert len(right.lines) == 3 * (3 + 1)  # seeds and mean of each part
    means = [line.get_ydata() for line in right.lines if len(line.get_ydata()) == 4]
    assert any(np.allclose(y, 0.31 - 0.2 * np.arange(4) / 3) for y in means)


def test_elimination_figure(analysed: Results) -> None:
    left, middle, right = drawn(analysed, "elimination").axes
    for done in ("eliminate=acc.3", "tuned=0.1__eliminate=acc.3"):
        assert (3.0, round(by_hand(analysed, f"{BASE}__{done}"), 6)) in points(left)
    # What fine-tuning alone changes is where its line begins.
    assert (1.0, round(by_hand(analysed, f"{BASE}__tuned=0.1"), 6)) in points(left)
    assert len(middle.lines) == 2 * (3 + 1)
    rows = list(elimination_figure.prefills(analysed))
    assert {(scale, tokens) for scale, tokens, *_ in rows} == {
        ("study", 96),
        ("original", 128),
        ("original", 512),
    }
    assert points(right) == {(round(p, 6), round(e.effect, 6)) for *_, p, e in rows}
    found = next(e for *_, e in rows if e.right == f"{BASE}__eliminate=acc.2")
    metric = ("continuation", "time_to_first_token")
    slow, fast = (analysed.values(m, *metric).mean() for m in (BASE, found.right))
    assert found.effect == pytest.approx(slow / fast)


@pytest.mark.parametrize("axis", front_figure.UNITS)
def test_front_figure(analysed: Results, axis: str) -> None:
    table = analysed.pareto[analysed.pareto["axis"] == axis]
    best = table[table["on_front"]].sort_values("latency")
    figure = drawn(analysed, f"front_{axis}")
    axes, side = figure.axes
    texts = [text for text in axes.texts if isinstance(text, Annotation)]
    letters = [text for text in texts if text.get_text().isalpha()]
    assert [text.get_text() for text in letters] == front_figure.letters(len(best))
    unit = front_figure.UNITS[axis][0]
    at = best[["latency", "quality"]] / [unit, 1]
    assert np.allclose([text.xy for text in letters], at)
    words = " ".join(text.get_text().replace("\u00a0", " ") for text in side.texts)
    for row in best.to_dict("records"):
        assert label(analysed.study.names[row["label"]]) in words
        chance = front_figure.chance(row["on_front_probability"])
        assert ("fastest" if row["by_construction"] else chance) in words
    assert {text.get_text() for text in texts if text.get_text().isdigit()} == set(
        "234"
    )
    boxes = [text.get_bbox_patch().get_window_extent() for text in letters]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(a.overlaps(b) for a, b in pairs)


def test_the_curve_is_that_of_the_gains() -> None:
    """Against analysis.gains, of depths of which two are slower and no better."""
    nats = dict(zip("abcdef", [6.0, 5.8, 5.9, 5.85, 5.7, 5.75], strict=True))
    times = {model: 100.0 * index for index, model in enumerate(nats, 1)}
    rows = [{"quality": nats[m], "latency": times[m], "blocks": 1} for m in nats]
    rows.append({"quality": 5.0, "latency": 50.0, "blocks": 0})
    x, y = front_figure.depth_curve(pd.DataFrame(rows))
    frames = [pd.DataFrame([values | {"m": 5.0}] * 2) for values in (nats, times)]
    _, _, curve = _against(Measured(*frames), "m", list(nats))
    assert curve is not None
    means = curve.quality.mean(axis=0)
    assert list(x) == [*curve.knots, curve.slowest]
    assert list(y) == [*means, means[-1]]


def test_wide_intervals_do_not_hide_the_points() -> None:
    axes = Figure().subplots()
    axes.plot([0, 2], [1, 1])
    axes.plot([1, 1], [-50, 1.1])
    skipping_figure.within(axes, [0, 2, float("nan")], [1.0, 2.0])
    assert axes.get_xlim() == (-0.1, 2.1)  # as it was
    low, high = axes.get_ylim()
    assert low == 0.5
    assert high < 4


@pytest.mark.parametrize("name", ["skipping", "elimination"])
def test_a_study_without_them_says_so(depth_alone: Results, name: str) -> None:
    assert "not in this study" in drawn(depth_alone, name).axes[0].texts[0].get_text()
    assert "not in this study" in TABLES[name](depth_alone)
    drawn(depth_alone, "front_per_token")


# --- tables ---------------------------------------------------------------------------


def lines(text: str) -> dict[str, list[str]]:
    """Cells of each row by the first that says something, but a system's name."""
    found = {}
    for line in text.splitlines():
        if line.endswith(r"\\"):
            cells = [cell.strip() for cell in line.removesuffix(r"\\").split("&")]
            found[next((c for c in cells if len(c) > 6), "")] = cells
    return found


def test_skipping_table(analysed: Results) -> None:
    model = f"{BASE}__skip=attention.last.2"
    row = lines(TABLES["skipping"](analysed))[printed(analysed.study.names[model])]
    assert row[1:3] == ["3", number(by_hand(analysed, model), 3)]
    for curve, place in (("blocks", 8), ("depth", 10)):
        due = analysed.estimate(against_curve(model, curve, "per_token"))
        assert row[place] == number(due.effect, 3)
        assert row[place + 1] == interval(due.ci_low, due.ci_high, 3)
    assert row[4] == "1.05"
    measured = analysed.estimate(speedup(BASE, model, "per_token"))
    assert row[5] == number(measured.effect, 2)
    assert row[7] == "50"
    blocks = analysed.study.names[f"{BASE}__skip=block.last.2"]
    # The curve is made of it.
    assert lines(TABLES["skipping"](analysed))[printed(blocks)][8:10] == ["{--}", ""]


def test_elimination_table(analysed: Results) -> None:
    rows, names = lines(TABLES["elimination"](analysed)), analysed.study.names
    model = f"{BASE}__eliminate=acc.2"
    row = rows[printed(names[model])]
    assert float(row[4]) == pytest.approx(100 * np.expm1(0.04), abs=0.06)
    assert row[5] == "2.00"
    # A fine-tuned model is compared with the model before it was tuned.
    tuned = names[f"{BASE}__tuned=0.1__eliminate=acc.2"]
    assert rows[printed(tuned)][2] == number(by_hand(analysed, str(tuned)), 3)
    assert printed(names[f"{BASE}__tuned=0.1"]) in rows


def test_which_methods_are_shown(
    analysed: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, every = front_tables.shown(analysed), analysed.methods
    assert len(table) <= front_tables.ROWS < len(every)
    on_front = set(analysed.pareto.loc[analysed.pareto["on_front"], "label"])
    first = on_front | {"baseline-2", "baseline-3", "baseline-4"}
    assert first <= set(table.index)
    # Of the models that eliminate by ACC and nothing else, one that is not on a front.
    acc = [m for m in table.index if m.startswith(f"{BASE}__eliminate=acc")]
    assert len(set(acc) - first) <= 1
    assert front_tables.is_control(analysed, f"{BASE}__skip=attention.random0.2")
    assert not front_tables.is_control(analysed, f"{BASE}__skip=attention.last.2")
    # One row for each system where there is room for one.
    others = set(every.drop(index=list(first))["system"])
    monkeypatch.setattr(front_tables, "ROWS", len(first) + len(others))
    fewer = front_tables.shown(analysed)
    assert set(fewer.drop(index=list(first))["system"]) == others


def test_methods_table(analysed: Results) -> None:
    rows, names = lines(TABLES["front"](analysed)), analysed.study.names
    table = front_tables.shown(analysed)
    shown = next(m for m in table.index if table.loc[m, "verdict"] == "supported")
    row = rows[printed(names[shown])]
    due = table.loc[shown]
    assert row[3] == number(due["training_share"], 2)
    gain = analysed.estimate(against_curve(shown, "depth", due["axis"]))
    assert row[8:10] == [
        rf"\textbf{{{number(gain.effect, 3)}}}",  # supported
        interval(gain.ci_low, gain.ci_high, 3),
    ]
    assert rows["baseline 4"][8] == "{--}"


# --- numbers --------------------------------------------------------------------------


def numbers(results: Results) -> dict[str, str]:
    pairs = [pair for topic in NUMBERS for pair in topic.numbers(results)]
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_numbers_say_what_the_estimates_do(
    analysed: Results, depth_alone: Results
) -> None:
    found = numbers(analysed)
    assert found["skipping.k"] == "2"
    assert found["elimination.speedup"] == "2"
    for key, model in (
        ("skipping.block", "skip=block.last.2"),
        ("skipping.first", "skip=attention.first.2"),
        ("elimination.random", "eliminate=random.2"),
        ("elimination.tuned", "tuned=0.1__eliminate=acc.2"),
    ):
        due = analysed.estimate(change(f"{BASE}__{model}", BASE))
        assert found[key] == number(by_hand(analysed, f"{BASE}__{model}"), 3)
        assert found[f"{key}.low"] == number(due.ci_low, 3)
    words = {
        "better": "supported",
        "worse": "not_supported",
        "undecided": "inconclusive",
    }
    for word, verdict in words.items():
        count = analysed.fact(f"skipping.gains.{verdict}")
        assert (f"{count:.0f} {word}" in found["skipping.depth"]) == (count > 0)
    claims = analysed.claims.set_index("id")["verdict"]
    s3 = claims[analysed.claims.set_index("id")["source"] == "S3"]
    assert f"{(s3 == 'supported').sum()} supported" in found["S3.verdicts"]
    assert found["elimination.contribution.first"] == "81"
    without = numbers(depth_alone)
    assert without["has.skipping"] == without["has.elimination"] == ""
    assert without["skipping.depth"] == ""


def test_attention_chosen_otherwise_is_told_beside_the_last(
    analysed: Results, depth_alone: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last blocks are the cheapest choice only if no other choice costs less."""
    drawn_by_chance = by_hand(analysed, f"{BASE}__skip=attention.random0.2")
    found = numbers(analysed)
    assert found["skipping.random"].startswith(f"{number(drawn_by_chance, 3)}~nats (")
    assert found["skipping.random.draws"] == "one draw"
    late = change(f"{BASE}__skip=attention.last.2", BASE)
    estimate = Results.estimate
    for effect, beaten in ((100.0, "yes"), (-100.0, "")):

        def changed(self: Results, asked: Comparison, by: float = effect) -> Estimate:
            known = estimate(self, asked)
            return replace(known, effect=by) if asked == late else known

        with monkeypatch.context() as patched:
            patched.setattr(Results, "estimate", changed)
            assert numbers(analysed)["skipping.late.beaten"] == beaten
    without = numbers(depth_alone)
    assert without["skipping.random"] == without["skipping.late.beaten"] == ""


def test_front_numbers(analysed: Results) -> None:
    found = numbers(analysed)
    assert found["front.models"] == str(len(analysed.study.front))
    table = analysed.pareto[analysed.pareto["on_front"].astype(bool)]
    for axis in AXES:
        labels = table.loc[table["axis"] == axis, "label"]
        assert found[f"front.{axis}.size"] == str(len(labels))
        for each in labels:
            shown = printed(analysed.study.names[each])
            assert shown in found[f"front.{axis}.models"]


def test_lists() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a, b", "c"], ";") == "a, b; and c"


def test_an_end_of_a_ratio_far_from_one_is_shown_as_such(analysed: Results) -> None:
    """Two noisy sessions give an interval of any width, which would widen the table."""
    skipped = next(iter(skips(analysed.study)))
    found = analysed.estimate(speedup(BASE, skipped, "per_token"))
    near = replace(found, effect=1.87, ci_low=0.91, ci_high=98.76)
    far = replace(found, effect=1.87, ci_low=0.01, ci_high=12_345.6)
    cells = intervention_tables.ratio_cells
    assert cells(near) == ["1.87", "[0.91, 98.76]"]
    assert cells(far) == ["1.87", "[0.01, $>$99]"]
