"""Tables and figures of the experiments, against frames made by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pandas as pd
import pytest

from made_up import (
    LOSSES,
    NO_LOOKS,
    SEARCHED,
    full,
    grid,
    looks,
    searching,
    sizes,
    study_of,
    unit_rows,
)
from shallower.analysis import budgets, search
from shallower.analysis.runs import paired, run_values
from shallower.config import Study

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
