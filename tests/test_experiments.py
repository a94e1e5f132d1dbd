"""Tables and figures of the experiments, against frames made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shallower.analysis import budgets, search
from shallower.analysis.ablation import head_differences, registered
from shallower.analysis.runs import paired, run_values
from shallower.config import Study, load_study
from shallower.reporting import experiment_tables, experiments, findings
from shallower.reporting.latex import MISSING
from shallower.reporting.results import Results

mpl.use("Agg")
FIGURES = [
    experiments.head_ablation,
    experiments.learning_rate,
    experiments.budget,
    experiments.diagnostics,
]


def study_of(configuration: dict, contrasts: list | None = None, **parts: Any) -> Study:
    """The default study, at 10 steps of 8 x 128 tokens, with these experiments."""
    depth = [{"variants": ["baseline", "proposed"], "depths": [2, 4], "seeds": [0, 1]}]
    training = configuration["training"] | {"steps": 10}
    changed = {"experiments": {"depth": depth, **parts}, "contrasts": contrasts or []}
    return load_study(configuration | {"training": training} | changed)


def grid(variants: str, depth: int, seeds: list[int], **options: list) -> dict:
    return {
        "variants": variants.split(),
        "depths": [depth],
        "seeds": seeds,
        "options": options,
    }


def searching(configuration: dict) -> Study:
    """Three rates (3e-3 is the study's own), seeds 7 and 8; seed 0 is of `depth`."""
    rates = [1e-3, 3e-3, 9e-3]
    return study_of(
        configuration, learning_rate=[grid("baseline silu", 2, [7, 8], lr=rates)]
    )


def unit_rows(
    values: dict[tuple[str, int], float], dataset: str = "validation"
) -> pd.DataFrame:
    """Rows of by_seed.csv."""
    metric = "training_loss" if dataset == "train" else "cross_entropy"
    constants = {"scale": "study", "form": "trained", "mode": "eager", "unit": "nats"}
    return pd.DataFrame(
        [
            {"model": model, "unit_id": seed, "value": value}
            | {"dataset": dataset, "metric": metric}
            | constants
            for (model, seed), value in values.items()
        ]
    )


SEARCHED = {
    ("baseline-2__lr=1e-3", 7): 5.2,
    ("baseline-2__lr=1e-3", 8): 5.0,
    ("baseline-2", 7): 4.9,
    ("baseline-2", 8): 4.7,
    ("baseline-2__lr=9e-3", 7): 5.5,
    ("baseline-2__lr=9e-3", 8): 5.3,
    ("silu-2__lr=1e-3", 7): 4.5,
    ("silu-2__lr=1e-3", 8): 4.1,
    ("silu-2", 7): 4.6,
    ("silu-2", 8): 4.4,
    ("silu-2__lr=9e-3", 7): 4.7,
    ("silu-2__lr=9e-3", 8): 4.5,
    ("baseline-2", 0): 1.0,  # of the depth experiment: a seed that is not searched
}


def looks(values: dict[tuple[str, int, int], float]) -> pd.DataFrame:
    """Entropies of block 0 by (model, seed, iteration); block 1, seen later, too."""
    rows = [
        {
            "model": m,
            "seed": s,
            "iteration": i + block,
            "block": block,
            "value": entropy,
        }
        for (m, s, i), value in values.items()
        for block, entropy in enumerate((value, 6.6 - value))
    ]
    columns = ["model", "seed", "iteration", "block", "value"]
    return pd.DataFrame(rows, columns=columns).assign(quantity="entropy")


NO_LOOKS = looks({})

# --- runs ------------------------------------------------------------------------


def test_values_are_of_the_named_runs_alone() -> None:
    rows = unit_rows({("a-1", 0): 1.0, ("a-1", 1): 2.0, ("b-1", 1): 5.0})
    others = [
        rows.assign(**{column: value, "value": 9.0})
        for column, value in [
            ("form", "folded"),
            ("mode", "uncached"),
            ("scale", "paper"),
            ("dataset", "text"),
            ("metric", "perplexity"),
        ]
    ]
    runs = [("a-1", 1), ("b-1", 1)]
    units = pd.concat([rows, *others])
    values = run_values(units, runs, "validation", "cross_entropy")
    assert values.to_dict() == {("a-1", 1): 2.0, ("b-1", 1): 5.0}
    assert run_values(units, [], "validation", "cross_entropy").empty
    assert paired(values, "b-1", "a-1").to_dict() == {1: 3.0}
    assert paired(values, "b-1", "no-1").empty


# --- the search ------------------------------------------------------------------


def test_search_by_hand(configuration: dict) -> None:
    table = search.search_table(
        searching(configuration), unit_rows(SEARCHED), NO_LOOKS
    ).set_index(["arm", "learning_rate"])
    assert len(table) == 6
    middle = table.loc[("baseline-2", 3e-3)]
    # Seed 0 shares the name and is not searched.
    assert (middle["seeds"], middle["n"]) == ("7 8", 2)
    assert middle["cross_entropy"] == pytest.approx(4.8)
    assert (middle["low"], middle["high"]) == (4.7, 4.9)
    assert (middle["init_std"], middle["steps"]) == (0.02, 10)
    assert list(table.index[table["best"]]) == [("baseline-2", 3e-3), ("silu-2", 1e-3)]
    # An optimum inside the range, and one at its edge: for every row of the arm.
    assert list(table["interior"]) == [True] * 3 + [False] * 3
    # Means 5.1, 4.8, 5.4 and 4.3, 4.5, 4.6.
    assert table.loc["baseline-2", "sensitivity"].to_list() == pytest.approx([0.3] * 3)
    assert table.loc["silu-2", "sensitivity"].to_list() == pytest.approx([0.5 / 3] * 3)
    assert table["bad_mode_share"].isna().all()


def test_upper_edge_is_no_interior_optimum(configuration: dict) -> None:
    falling = {key: value - 3 * ("9e-3" in key[0]) for key, value in SEARCHED.items()}
    table = search.search_table(searching(configuration), unit_rows(falling), NO_LOOKS)
    assert table.loc[table["best"], "learning_rate"].to_list() == [9e-3] * 2
    assert not table["interior"].any()


def test_initialisations_are_searched_apart(configuration: dict) -> None:
    options = {"lr": [1e-3, 3e-3], "init_std": [0.02, 0.05]}
    study = study_of(configuration, learning_rate=[grid("baseline", 2, [7], **options)])
    values = {
        "baseline-2__lr=1e-3": 1.0,
        "baseline-2": 2.0,
        "baseline-2__lr=1e-3__init_std=0.05": 4.0,
        "baseline-2__init_std=0.05": 3.0,
    }
    units = unit_rows({(model, 7): value for model, value in values.items()})
    table = search.search_table(study, units, NO_LOOKS)
    best = table[table["best"]]
    assert best[["init_std", "learning_rate"]].to_numpy().tolist() == [
        [0.02, 1e-3],
        [0.05, 3e-3],
    ]


def test_bad_mode_is_judged_by_the_last_look_at_the_first_block(
    configuration: dict,
) -> None:
    uniform = search.uniform_entropy(128)
    assert uniform == pytest.approx(np.mean([log(t) for t in range(1, 129)]))
    good, bad = 0.9 * uniform, 0.8 * uniform
    diagnostics = looks(
        {
            ("baseline-2", 7, 1): good,
            ("baseline-2", 7, 9): bad,
            ("baseline-2", 8, 9): good,
            ("baseline-2", 0, 9): bad,  # another experiment's
            ("silu-2", 7, 9): good,
            ("silu-2", 7, 1): bad,
        }
    )
    table = search.search_table(
        searching(configuration), unit_rows(SEARCHED), diagnostics
    ).set_index(["arm", "learning_rate"])["bad_mode_share"]
    assert table["baseline-2", 3e-3] == 0.5
    assert table["silu-2", 3e-3] == 0
    assert np.isnan(table["silu-2", 1e-3])


def test_envelope_sets_each_arm_at_its_own_best_rate(configuration: dict) -> None:
    table = search.envelope_table(searching(configuration), unit_rows(SEARCHED))
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["arm"], row["baseline"], row["over"]) == (
        "silu-2",
        "baseline-2",
        "rates",
    )
    assert (row["learning_rate"], row["baseline_learning_rate"]) == (1e-3, 3e-3)
    # Seed 7: 4.5 - 4.9; seed 8: 4.1 - 4.7; half an interval: t(1) = 12.706 times .1.
    assert row["effect"] == pytest.approx(-0.5)
    assert row["ci_high"] - row["effect"] == pytest.approx(1.2706, abs=1e-4)
    assert (row["seeds"], row["n"]) == ("7 8", 2)


def test_envelope_over_initialisations(configuration: dict) -> None:
    options = {"init_std": [0.02, 0.05]}
    part = grid("baseline silu", 2, [7, 8], **options)
    study = study_of(configuration, learning_rate=[part])
    means = {
        "baseline-2": 3.0,
        "baseline-2__init_std=0.05": 2.0,
        "silu-2": 1.0,
        "silu-2__init_std=0.05": 1.5,
    }
    units = unit_rows({(m, seed): v for m, v in means.items() for seed in (7, 8)})
    table = search.envelope_table(study, units).set_index(["over", "init_std"])
    assert table["effect"].to_dict() == {
        ("rates", 0.02): -2.0,
        ("rates", 0.05): -0.5,
        ("rates and initialisations", 0.02): -1.0,
    }
    assert table["baseline_init_std"].iloc[-1] == 0.05


def test_no_search_is_an_empty_table(configuration: dict) -> None:
    study = study_of(configuration)
    units = unit_rows(SEARCHED)
    table = search.search_table(study, units, NO_LOOKS)
    assert table.empty
    assert list(table.columns) == search.COLUMNS
    assert list(search.envelope_table(study, units).columns) == search.ENVELOPE_COLUMNS


# --- budgets ---------------------------------------------------------------------


def budgeted(configuration: dict) -> Study:
    return study_of(
        configuration,
        head=[grid("baseline silu", 2, [0, 1, 2])],
        learning_rate=[grid("baseline", 2, [7], steps=[10])],
        budget=[
            grid("baseline", 2, [0, 1], steps=[40]),
            grid("baseline", 4, [0, 1], steps=[40]),
            grid("baseline", 2, [0, 1], steps=[40], width=[64]),
            grid("proposed", 2, [0, 1], steps=[40], init_std=[0.5]),
        ],
    )


def sizes(study: Study) -> pd.DataFrame:
    """Rows of parameters.csv: a million parameters, and 1 for the paper's scale."""
    rows = [
        {"model": m, "scale": "study", "parameters_trained": 1_000_000}
        for m in study.models
    ]
    return pd.DataFrame(
        [*rows, {"model": "baseline-2", "scale": "paper", "parameters_trained": 1}]
    )


LOSSES = {
    ("baseline-2", 0): 4.0,
    ("baseline-2", 1): 4.2,
    ("baseline-2", 2): 4.4,
    ("baseline-2", 7): 9.0,  # the search's
    ("baseline-4", 0): 4.5,
    ("baseline-4", 1): 4.7,
    ("baseline-2__steps=40", 0): 3.0,
    ("baseline-2__steps=40", 1): 3.2,
    ("baseline-4__steps=40", 0): 2.0,
    ("baseline-4__steps=40", 1): 2.201,
    ("baseline-2__steps=40__width=64", 0): 3.5,
    ("baseline-2__steps=40__width=64", 1): 3.5,
    ("proposed-2__steps=40__init_std=0.5", 0): 1.0,
}


def test_budget_by_hand(configuration: dict) -> None:
    study = budgeted(configuration)
    training = {run: value / 2 for run, value in LOSSES.items()}
    units = pd.concat([unit_rows(LOSSES, "text"), unit_rows(training, "train")])
    table = budgets.budget_table(study, units, sizes(study)).set_index("model")
    assert "proposed-2__steps=40__init_std=0.5" not in table.index
    row = table.loc["baseline-2"]
    # Of the depth and the head experiment, but not of the search: seeds 0, 1, 2.
    assert (row["seeds"], row["n"], row["width"]) == ("0 1 2", 3, 128)
    assert row["tokens"] == 10 * 8 * 128
    assert row["tokens_per_parameter"] == pytest.approx(0.01024)
    assert row["cross_entropy"] == pytest.approx(4.2)
    assert row["training_loss"] == pytest.approx(2.1)
    # t(2) = 4.3027, standard error .2 / sqrt 3.
    half = 4.3027 * 0.2 / 3**0.5
    assert row["ci_high"] == pytest.approx(4.2 + half, abs=1e-4)
    assert row["ci_low"] == pytest.approx(4.2 - half, abs=1e-4)
    narrow = table.loc["baseline-2__steps=40__width=64"]
    assert (narrow["width"], narrow["tokens"]) == (64, 40 * 8 * 128)
    assert list(table.reset_index()[budgets.COLUMNS].columns) == budgets.COLUMNS


def test_depth_pays_by_hand(configuration: dict) -> None:
    study = budgeted(configuration)
    table = budgets.pair_table(study, unit_rows(LOSSES, "text"), sizes(study))
    table = table[table["question"] == "depth"]
    # At width 64 there is no deep model: no row.
    assert table[["width", "tokens"]].to_numpy().tolist() == [
        [128, 10 * 1024],
        [128, 40 * 1024],
    ]
    # Both seeds of the deep model: .5 and .5, then -1 and -.999.
    assert table["effect"].to_list() == pytest.approx([0.5, -0.9995])
    assert table["seeds"].to_list() == ["0 1", "0 1"]
    assert table["outcome"].to_list() == ["worse", "better"]


def test_the_trade_is_asked_at_every_budget(configuration: dict) -> None:
    """The shallow proposed model against both baselines, where all were trained."""
    study = full(configuration)
    losses = dict.fromkeys(study.runs, 5.0) | {
        **{("proposed-2", seed): 4.0 - seed / 10 for seed in (0, 1)},
        **{("baseline-4", seed): 4.5 for seed in (0, 1)},
    }
    table = budgets.pair_table(study, unit_rows(losses, "text"), sizes(study))
    table = table[(table["width"] == 128) & (table["left"] == "proposed-2")]
    rows = table.set_index("question")
    assert set(rows.index) == {"layer", "trade"}
    assert rows.loc["trade", "right"] == "baseline-4"
    assert rows["effect"].to_dict() == pytest.approx({"layer": -1.05, "trade": -0.55})
    count = sizes(study).set_index("model")["parameters_trained"]
    largest = max(count["proposed-2"], count["baseline-4"])
    ratio = rows.loc["trade", "tokens"] / largest
    assert rows.loc["trade", "tokens_per_parameter"] == pytest.approx(ratio)


def test_depth_needs_equal_budgets(configuration: dict) -> None:
    training = configuration["training"] | {"overrides": {"baseline-4": {"steps": 30}}}
    study = study_of(configuration | {"training": training})
    table = budgets.pair_table(study, unit_rows(LOSSES, "text"), sizes(study))
    assert "depth" not in set(table["question"])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-2, -1, "better"),
        (1, 2, "worse"),
        (-1, 1, "undecided"),
        (float("nan"), float("nan"), "undecided"),
    ],
)
def test_outcome_in_a_word(low: float, high: float, word: str) -> None:
    assert budgets.outcome(low, high) == word


# --- figures ---------------------------------------------------------------------


def full(configuration: dict) -> Study:
    """Two seeds of everything."""
    contrasts = [
        {"id": "a", "left": "silu-2", "right": "baseline-2", "test": "superiority"},
        {"id": "b", "left": "tanh-2", "right": "silu-2", "test": "superiority"},
    ]
    rates = {"lr": [1e-3, 3e-3, 9e-3], "init_std": [0.02, 0.05]}
    return study_of(
        configuration,
        contrasts,
        head=[grid("baseline proposed silu tanh", 2, [0, 1])],
        learning_rate=[grid("baseline silu", 2, [7, 8], **rates)],
        budget=[
            grid("baseline", 2, [0, 1], steps=[40]),
            grid("baseline", 4, [0, 1], steps=[40], width=[64]),
        ],
    )


def synthetic(study: Study, folder: Path, iterations: tuple[int, ...]) -> Results:
    """Every file that the figures read; the first block of seed 7 collapses."""
    losses = {
        (m, s): 5 - 0.001 * m.startswith("silu") + 0.1 * ("lr=9e-3" in m) + 0.01 * s
        for m, s in study.runs
    }
    frames = [unit_rows(losses, name) for name in ("validation", "text", "train")]
    pd.concat(frames).to_csv(folder / "by_seed.csv", index=False)
    sizes(study).to_csv(folder / "parameters.csv", index=False)
    for model, seed in study.runs:
        run = folder / "runs" / model / f"seed{seed}"
        run.mkdir(parents=True)
        rows = [
            [i, block, quantity, 1.0 if seed == 7 else 3.8 - 0.01 * seed]
            for i, block in itertools.product(iterations, (0, 1))
            for quantity in experiments.QUANTITIES
        ]
        columns = ["iteration", "block", "quantity", "value"]
        pd.DataFrame(rows, columns=columns).to_csv(run / "diagnostics.csv", index=False)
    search.write_search(folder, study)
    budgets.write_budgets(folder, study)
    return Results(folder, study)


def draw(figure: Figure) -> Figure:
    """Rendered once, so that layout and fonts are tried as well."""
    figure.canvas.draw()
    return figure


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_written_tables(configuration: dict, tmp_path: Path) -> None:
    synthetic(full(configuration), tmp_path, (1,))
    columns = {
        "learning_rate": search.COLUMNS,
        "learning_rate_envelope": search.ENVELOPE_COLUMNS,
        "budget": budgets.COLUMNS,
        "budget_pairs": budgets.PAIR_COLUMNS,
    }
    for name, expected in columns.items():
        assert list(pd.read_csv(tmp_path / f"{name}.csv").columns) == expected
    shares = pd.read_csv(tmp_path / "learning_rate.csv")["bad_mode_share"]
    assert set(shares) == {0.5}


def test_head_differences(configuration: dict) -> None:
    study = full(configuration)
    values = {"baseline": 4.0, "proposed": 3.5, "silu": 3.0, "tanh": 4.5}
    losses = {(f"{v}-2", s): x + s for v, x in values.items() for s in (0, 1, 7)}
    found = head_differences(study, unit_rows(losses, "text"))
    assert list(found) == ["silu-2", "proposed-2", "tanh-2"]  # by effect
    assert found["silu-2"].to_dict() == {0: -1.0, 1: -1.0}
    kinds = [registered(study, model) for model in found]
    other = "pre-registered against another"
    assert kinds == ["pre-registered", "exploratory", other]


def test_head_figure(configuration: dict, tmp_path: Path) -> None:
    results = synthetic(full(configuration), tmp_path, (1,))
    figure = draw(experiments.head_ablation(results))
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(labels) == ["proposed", "silu", "tanh"]
    assert len(axes.collections) == 3  # seeds of every row
    assert all(len(dots.get_offsets()) == 2 for dots in axes.collections)
    assert [text.get_text() for text in axes.texts] == ["seeds", "2", "2", "2"]
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    fills = {
        labels[round(float(line.get_ydata()[0]))]: (
            line.get_fillstyle(),
            line.get_markerfacecolor() == "white",
        )
        for line in marks
    }
    assert fills == {
        "silu": ("full", False),
        "tanh": ("left", False),
        "proposed": ("full", True),
    }
    assert len(legend_labels(figure)) == 3
    ends = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
    assert ends.count((0, 0, 0, 1)) == 1  # the zero line, over the whole height


def with_marker(figure: Figure, looks: dict[str, Any]) -> list[list[Line2D]]:
    """Lines of every panel with such a marker and size."""
    return [
        [
            line
            for line in axes.lines
            if (line.get_marker(), line.get_markersize())
            == (looks["marker"], looks["ms"])
        ]
        for axes in figure.axes
    ]


def test_learning_rate_figure(configuration: dict, tmp_path: Path) -> None:
    results = synthetic(full(configuration), tmp_path, (1, 5))
    figure = draw(experiments.learning_rate(results))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "initial standard deviation 0.02",
        "initial standard deviation 0.05",
    ]
    for panel in with_marker(figure, experiments.RING):  # one best rate per arm
        assert [len(line.get_xdata()) for line in panel] == [1, 1]
    # Seed 8 is well at each of three rates, seed 7 in the bad mode.
    for mark in (experiments.DOT, experiments.CROSS):
        for panel in with_marker(figure, mark):
            assert [len(line.get_xdata()) for line in panel] == [3, 3]
    names = [{text.get_text() for text in axes.texts} for axes in figure.axes]
    assert names == [{"baseline", "silu"}] * 2
    heights = [text.xy[1] for text in figure.axes[0].texts]  # type: ignore[attr-defined]
    low, high = figure.axes[0].get_ylim()
    assert min(np.diff(sorted(heights))) > 0.1 * (high - low)
    assert figure.axes[0].get_xscale() == "log"
    assert "run in the bad mode" in legend_labels(figure)


def test_budget_figure(configuration: dict, tmp_path: Path) -> None:
    results = synthetic(full(configuration), tmp_path, (1,))
    figure = draw(experiments.budget(results))
    axes = figure.axes[0]
    # baseline-2, baseline-4, and baseline-4 at width 64; proposed has one budget only.
    assert len(axes.containers) == 3
    assert [len(bars[0].get_xdata()) for bars in axes.containers] == [1, 2, 1]
    faces = [bars[0].get_markerfacecolor() for bars in axes.containers]
    assert [face == "white" for face in faces] == [True, False, False]
    mark = [line for line in axes.lines if list(line.get_xdata()) == [5.9, 5.9]]
    assert len(mark) == 1
    assert legend_labels(figure) == [
        "baseline",
        "2 blocks",
        "4 blocks",
        "width 64",
        "width 128",
    ]


@pytest.mark.parametrize(("iterations", "marker"), [((1,), "o"), (range(9), "None")])
def test_diagnostics_figure(
    configuration: dict, tmp_path: Path, iterations: tuple[int, ...], marker: str
) -> None:
    """A run that was looked into once is a dot, not an invisible line."""
    results = synthetic(full(configuration), tmp_path, tuple(iterations))
    figure = draw(experiments.diagnostics(results))
    assert len(figure.axes) == 4
    for axes in figure.axes:
        lines = [
            line for line in axes.lines if len(line.get_xdata()) == len(iterations)
        ]
        assert [line.get_label() for line in lines] == ["baseline", "silu", "proposed"]
        assert {line.get_marker() for line in lines} == {marker}
        assert lines[0].get_ydata()[0] == pytest.approx(3.795)  # of 3.8, 3.79
        assert len(axes.collections) == 3
        top, bottom = (
            f(axes.collections[0].get_paths()[0].vertices[:, 1]) for f in (max, min)
        )
        assert (top, bottom) == pytest.approx((3.8, 3.79))
    assert legend_labels(figure) == ["baseline", "silu", "proposed"]


@pytest.mark.parametrize("function", FIGURES)
def test_study_without_the_experiment(
    configuration: dict, tmp_path: Path, function: Callable[[Results], Figure]
) -> None:
    figure = draw(function(synthetic(study_of(configuration), tmp_path, (1,))))
    assert "not in this study" in figure.axes[0].texts[0].get_text()


@pytest.mark.parametrize("function", FIGURES)
def test_one_arm_of_one_seed(
    configuration: dict, tmp_path: Path, function: Callable[[Results], Figure]
) -> None:
    """No interval, no second line, no baseline: still a figure."""
    study = study_of(
        configuration,
        head=[grid("gelu baseline", 1, [0])],
        learning_rate=[grid("gelu", 1, [7])],
        budget=[grid("gelu", 1, [0], steps=[40])],
    )
    figure = draw(function(synthetic(study, tmp_path, (1,))))
    assert figure.axes[0].lines


def test_looks_tell_many_variants_apart() -> None:
    variants = ["baseline", "proposed", *(f"v{i}" for i in range(16))]
    looks = {str(experiments.look(variant, variants)) for variant in variants}
    assert len(looks) == 18


# --- numbers and tables for the text ----------------------------------------------


def test_parts_of_the_layer_in_the_text(configuration: dict, tmp_path: Path) -> None:
    numbers = dict(findings._parts(synthetic(full(configuration), tmp_path, (1,))))
    assert numbers["head.silu"] == "$-$0.001"
    assert numbers["head.proposed"] == "0.000"
    assert numbers["head.proposed.silu"] == "0.001"
    assert numbers["head.linear"] == numbers["head.linear.low"] == MISSING
    assert "head.silu.silu" not in numbers


def test_gains_by_rate_in_the_text(configuration: dict, tmp_path: Path) -> None:
    study = study_of(
        configuration,
        learning_rate=[grid("baseline proposed", 2, [7, 8], lr=[1e-3, 9e-3])],
    )
    numbers = dict(findings._search(synthetic(study, tmp_path, (1,))))
    assert numbers["gain.low.rate"] == "0.001"
    assert numbers["gain.high.rate"] == "0.009"
    assert numbers["gain.low"] == numbers["gain.high"] == "0.000"
    # Seed 7 collapses at every rate.
    assert numbers["bad_mode.baseline.rates"] == "0.001, 0.009"


def test_search_and_budget_tables(configuration: dict, tmp_path: Path) -> None:
    results = synthetic(full(configuration), tmp_path, (1,))
    searched = experiment_tables.search_table(results)
    assert r"start & arm & 1e-3 & 3e-3 & 9e-3 & best" in searched
    # A rate's mean over seeds 7 and 8, the best one in bold, and both starts.
    assert searched.count(r"\textbf{5.07") == 4
    assert searched.count("best & silu{-}2") == 1
    budget = experiment_tables.budget_table(results)
    assert budget.count(r" \\") == 1 + len(
        results.budget_pairs.groupby(["width", "tokens"])
    )
