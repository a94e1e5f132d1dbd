"""Figures of skipping and elimination, from made-up results; nothing may warn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallower.models.retention import prefill_speedup
from shallower.reporting import eliminating, skipping, style
from shallower.reporting.arms import change, differences, fact, skips, speedup
from shallower.reporting.measured import (
    paper_predicted,
    paper_skips,
    predicted_at,
    timed,
)
from shallower.reporting.results import Results

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("error")
BASE = "baseline-8"


def drawn(draw, results: Results) -> Figure:
    with mpl.rc_context():
        style.use_style()
        figure = draw(results)
        figure.draw_without_rendering()
    return figure


def marks(axes: Axes) -> set[tuple[float, float]]:
    """Where single marks stand."""
    return {
        (round(float(line.get_xdata()[0]), 9), round(float(line.get_ydata()[0]), 9))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }


def by_hand(results: Results, model: str, base: str = BASE) -> float:
    units = results.units
    rows = units[
        (units["metric"] == "cross_entropy") & (units["dataset"] == "continuation")
    ]
    means = rows.groupby("model")["value"].mean()
    return float(means[model] - means[base])


def test_changes_are_paired_by_seed(systems: Results) -> None:
    model = f"{BASE}__skip=attention.latter.2"
    found = change(systems, model, BASE)
    assert found["effect"] == pytest.approx(by_hand(systems, model))
    values = differences(systems, model, BASE).to_numpy()
    half = 4.302652729911275 * values.std(ddof=1) / np.sqrt(3)  # t, two degrees
    assert found["ci_high"] == pytest.approx(values.mean() + half)


def test_skipping(systems: Results) -> None:
    figure = drawn(skipping.draw, systems)
    left, middle, right = figure.axes
    arms = [arm for arm in skips(systems) if arm.model.startswith("baseline")]
    assert len(arms) > 15
    heights = {y for _, y in marks(left)}
    assert heights == {round(by_hand(systems, arm.model), 9) for arm in arms}
    at = f"{BASE}__skip=block.latter.4"
    assert (4.0, round(by_hand(systems, at), 9)) in marks(left)
    # At equal time: where the arm's time lies over the whole model's, and the null.
    ratio = speedup(systems, BASE, at, "time_per_output_token").value
    assert (round(ratio, 9), round(by_hand(systems, at), 9)) in marks(middle)
    assert {text.get_text() for text in middle.texts} == {"3", "4", "5", "6", "7"}
    for depth in (3, 7):
        model = f"baseline-{depth}"
        x = speedup(systems, BASE, model, "time_per_output_token").value
        assert (round(x, 9), round(by_hand(systems, model), 9)) in marks(middle)
    assert len(right.lines) == 3 * (3 + 1)  # seeds and mean of each part
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    # What the default study has of them: no greedy search.
    rules = {text for rule, text in skipping.RULES.items() if rule != "greedy"}
    assert words == {
        *skipping.WORDS.values(),
        *rules,
        "trained with fewer blocks",
    }


def test_elimination(systems: Results) -> None:
    left, middle, right = drawn(eliminating.draw, systems).axes
    for arm in ("eliminate=acc.3", "tuned=0.1__eliminate=acc.3"):
        model = f"{BASE}__{arm}"
        x = fact(systems, model, "predicted_prefill")
        assert (round(x, 9), round(by_hand(systems, model), 9)) in marks(left)
    # What tuning alone changes is where its line begins.
    tuned = round(by_hand(systems, f"{BASE}__tuned=0.1"), 9)
    assert (1.0, tuned) in marks(left)
    words = [text.get_text() for text in left.get_legend().get_texts()]
    assert words == ["ACC", "ACC, tuned", "random", "recent", "linear", "uniform"]
    assert len(middle.lines) == 2 * (3 + 1)
    rows = [row for scale in ("study", "paper") for row in timed(systems, BASE, scale)]
    assert len(rows) == 3 * 8 + 2 * 3
    due = {(round(p, 9), round(r.value, 9)) for _, _, p, r in rows}
    assert marks(right) == due


def test_predicted_at_other_lengths(systems: Results) -> None:
    """At the study's own prompt it is what the counts give."""
    arm, tokens = f"{BASE}__eliminate=acc.2", systems.study.prompt_tokens
    counts = systems.arms.set_index("model")["counts"][arm].iloc[0]
    model = systems.study.run(BASE, 0)["model"]
    due = prefill_speedup(model, [int(n) for n in counts.split()], tokens)
    assert predicted_at(systems, arm, tokens) == pytest.approx(due)
    assert predicted_at(systems, arm, 2 * tokens) == pytest.approx(due, rel=0.05)
    assert np.isnan(predicted_at(systems, f"{BASE}__skip=ffn.latter.1", tokens))


def test_predicted_at_the_paper_size(systems: Results) -> None:
    """Tuned for the longest prompt; by the formula written out, at another one."""
    arm, d, hidden = f"{BASE}__eliminate=linear.2", 1024, 2752
    linear = np.linspace(1, 0.1, 8)

    def by_formula(alpha: float, tokens: int) -> float:
        left = np.ceil(tokens * linear**alpha - 1e-9)
        comes = np.array([tokens, *left[:-1]])
        cost = 4 * d**2 * comes + d * comes**2 + 3 * d * hidden * left
        whole = 8 * (4 * d**2 * tokens + d * tokens**2 + 3 * d * hidden * tokens)
        return float(whole / cost.sum())

    alphas = np.linspace(0, 3, 3001)
    alpha = next(a for a in alphas if by_formula(a, 512) >= 2)
    for tokens in (512, 128):
        due = by_formula(alpha, tokens)
        assert paper_predicted(systems, arm, tokens) == pytest.approx(due, rel=0.005)


def test_times_at_the_paper_size(systems: Results) -> None:
    found = dict(paper_skips(systems))
    assert list(found) == ["skip attention 2", "skip attention 4"]
    assert found["skip attention 4"].value == pytest.approx(900 / 780, rel=0.02)


@pytest.mark.parametrize("draw", [skipping.draw, eliminating.draw])
def test_study_without_arms(without_arms: Results, draw) -> None:
    assert "not in this study" in drawn(draw, without_arms).axes[0].texts[0].get_text()


def test_wide_intervals_do_not_hide_the_points() -> None:
    axes = Figure().subplots()
    axes.plot([0, 2], [1, 1])
    axes.plot([1, 1], [-50, 1.1])
    skipping.within(axes, [0, 2, float("nan")], [1.0, 2.0])
    assert axes.get_xlim() == (-0.1, 2.1)  # as it was
    low, high = axes.get_ylim()
    assert low == 0.5
    assert high < 4


def test_nulls_beyond_the_panel_stand_at_its_edge() -> None:
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    skipping._beyond(
        axes, [(0.4, -3.0, "3"), (0.6, 0.5, "5"), (0.8, 2.0, "8"), (1, 9, "")]
    )
    marks = {line.get_marker(): line.get_xdata()[0] for line in axes.lines}
    assert marks == {"v": 0.4, "^": 0.8}
    assert [text.get_text() for text in axes.texts] == ["3", "8"]
    assert axes.get_ylim() == (0, 1)
