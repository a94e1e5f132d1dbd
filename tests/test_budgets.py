"""The search over learning rates and the budgets, worked by hand."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_up import MadeUp, default_configuration, grid, study_of
from made_up_files import TOKENS
from shallower.analysis import budgets, learning_rates
from shallower.analysis.claims.base import Context
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.reporting.numbers import heads
from shallower.reporting.tables.heads import search

RATES = {"lr": [1e-3, 3e-3, 9e-3]}  # 3e-3 is the study's own
# Validation losses of seeds 7 and 8.
SEARCHED = {
    "baseline-2__lr=1e-3": (5.2, 5.0),
    "baseline-2": (4.9, 4.7),
    "baseline-2__lr=9e-3": (5.5, 5.3),
    "silu-2__lr=1e-3": (4.5, 4.1),
    "silu-2": (4.6, 4.4),
    "silu-2__lr=9e-3": (4.7, 4.5),
}


def searching(folder: Path) -> MadeUp:
    parts = {"learning_rate": [grid("baseline silu", 2, seeds=[7, 8], **RATES)]}
    world = MadeUp(study_of(default_configuration(), **parts), folder)
    for label, (first, second) in SEARCHED.items():
        world.put(label, *learning_rates.VALIDATION, {7: first, 8: second})
    return world


def test_search_by_hand(tmp_path: Path) -> None:
    table = learning_rates.search_table(searching(tmp_path).results())
    table = table.set_index(["group", "learning_rate"])
    assert len(table) == 6
    middle = table.loc[("baseline-2", 3e-3)]
    # Seeds 0 to 2 of the depth experiment share the label and are not searched.
    assert (middle["n"], middle["model"]) == (2, "baseline-2")
    assert middle["cross_entropy"] == pytest.approx(4.8)
    assert (middle["low"], middle["high"]) == (4.7, 4.9)
    assert (middle["init_std"], middle["steps"]) == (0.02, 100)
    assert list(table.index[table["best"]]) == [("baseline-2", 3e-3), ("silu-2", 1e-3)]
    # An optimum inside the range, and one at its edge: for every row of the group.
    assert list(table["interior"]) == [True] * 3 + [False] * 3
    # Means 5.1, 4.8, 5.4 and 4.3, 4.5, 4.6.
    assert table.loc["baseline-2", "sensitivity"].to_list() == pytest.approx([0.3] * 3)
    assert table.loc["silu-2", "sensitivity"].to_list() == pytest.approx([1 / 6] * 3)


def test_groups_are_compared_at_their_best_rates(tmp_path: Path) -> None:
    context = Context(searching(tmp_path).results())
    table = learning_rates.search_table(context.results)
    made = [context.estimate(c) for c in learning_rates.comparisons(table)]
    found = {(e.left, e.right): e for e in made}
    best = found["silu-2__lr=1e-3", "baseline-2"]
    # Seeds 7 and 8: 4.5 - 4.9 and 4.1 - 4.7.
    assert best.effect == pytest.approx(-0.5)
    assert best.ci_high == pytest.approx(-0.5 + 12.7062 * 0.1, abs=1e-3)
    # And each rate against the same rate.
    assert found["silu-2__lr=9e-3", "baseline-2__lr=9e-3"].effect == pytest.approx(-0.8)
    assert len(found) == 4


def test_the_best_of_several_initialisations(tmp_path: Path) -> None:
    options = {"lr": [1e-3, 3e-3], "init_std": [0.02, 0.05]}
    parts = {"learning_rate": [grid("baseline silu", 2, seeds=[7, 8], **options)]}
    world = MadeUp(study_of(default_configuration(), **parts), tmp_path)
    better = "baseline-2__lr=1e-3__init_std=0.05"
    for label in world.study.models_of("learning_rate"):
        nats = {better: 4.0, "silu-2": 3.0}.get(label, 5.0)
        world.put(label, *learning_rates.VALIDATION, {7: nats, 8: nats})
    context = Context(world.results())
    table = learning_rates.search_table(context.results)
    assert set(table.loc[table["best_of_all"], "model"]) == {better, "silu-2"}
    made = [context.estimate(c) for c in learning_rates.comparisons(table)]
    found = {(e.left, e.right): e.effect for e in made}
    assert found["silu-2", better] == pytest.approx(-1.0)


def test_runs_in_the_bad_mode_are_counted(tmp_path: Path) -> None:
    uniform = np.mean(np.log(np.arange(1, 129)))
    assert learning_rates.uniform_entropy(128) == pytest.approx(uniform)
    world = searching(tmp_path)
    world.entropy["silu-2", 7] = 0.84 * uniform
    world.entropy["silu-2", 8] = 0.86 * uniform
    table = learning_rates.search_table(world.results()).set_index("model")
    assert table["bad_mode_share"].to_dict() == dict.fromkeys(SEARCHED, 0.0) | {
        "silu-2": 0.5
    }
    of_group = table.groupby("group")["bad_mode_share_of_group"].unique()
    assert of_group["silu-2"] == pytest.approx([1 / 6])  # of three rates, two seeds
    assert of_group["baseline-2"] == pytest.approx([0])
    facts = {
        fact.key: fact.value
        for fact in learning_rates.facts(
            Context(world.results()), table.reset_index(drop=True)
        )
    }
    assert facts["heads.search.bad_mode"] == pytest.approx(100 / 12)
    assert facts["heads.bad_mode.limit"] == pytest.approx(0.85 * uniform)


def test_a_t5_has_no_bad_mode(tmp_path: Path) -> None:
    """Its attention is not measured: its runs are neither good nor bad."""
    parts: dict[str, Any] = {
        "learning_rate": [grid("baseline", 2, seeds=[7], lr=[1e-3, 3e-3])],
        "t5": [{"sizes": ["mini"]}],
        "t5_learning_rate": [{"sizes": ["mini"], "options": {"lr": [1e-2, 2e-2]}}],
    }
    world = MadeUp(study_of(default_configuration(), **parts), tmp_path)
    world.entropy["baseline-2", 7] = 0.0
    results = world.results()
    table = learning_rates.search_table(results)
    t5 = table["group"] == "t5_mini-2"
    assert t5.sum() == 2
    assert table.loc[t5, "bad_mode_share_of_group"].isna().all()
    found = {f.key: f.value for f in learning_rates.facts(Context(results), table)}
    assert found["heads.search.bad_mode"] == pytest.approx(50)  # one of the other two
    assert "heads.search.bad_mode.t5_mini-2" not in found
    write_analysis(world.folder)
    text = search(Results.read(world.folder))
    assert "T5 mini &" in text
    assert "t5" not in text


def test_no_search_is_an_empty_table(tmp_path: Path) -> None:
    world = MadeUp(study_of(default_configuration()), tmp_path)
    table = learning_rates.search_table(world.results())
    assert table.empty
    assert list(table.columns) == learning_rates.COLUMNS
    assert not list(learning_rates.comparisons(table))


# --- budgets --------------------------------------------------------------------------


def budgeted(folder: Path) -> MadeUp:
    parts = {
        "head": [grid("baseline silu", 2, seeds=[0, 1, 2])],
        "learning_rate": [  # scores validation text: no budgets of the paper
            grid("baseline", 2, seeds=[7], steps=[50, 100]),
            grid("baseline", 4, seeds=[7], steps=[50]),
        ],
        "budget": [
            grid("baseline", [2, 4], seeds=[0, 1], steps=[400]),
            grid("baseline", 2, seeds=[0, 1], steps=[400], width=[64]),
            grid("proposed", 2, seeds=[0, 1], steps=[400], init_std=[0.5]),
        ],
    }
    world = MadeUp(study_of(default_configuration(), **parts), folder)
    for label in world.study.models:
        world.sizes["study", label]["parameters_trained"] = 1_000_000
    world.put("baseline-2", "text", "cross_entropy", [4.0, 4.2, 4.4])
    world.put("baseline-4", "text", "cross_entropy", [4.5, 4.7])
    world.put("baseline-2__steps=400", "text", "cross_entropy", [3.0, 3.2])
    world.put("baseline-4__steps=400", "text", "cross_entropy", [2.0, 2.201])
    world.put("baseline-2", "train", "training_loss", {0: 2, 1: 2.1, 2: 2.2, 7: 9})
    return world


def test_budget_by_hand(tmp_path: Path) -> None:
    table = budgets.budget_table(budgeted(tmp_path).results()).set_index("model")
    assert "proposed-2__steps=400__init_std=0.5" not in table.index
    row = table.loc["baseline-2"]
    # Of the depth and the head experiment, but not of the search.
    assert (row["n"], row["width"]) == (3, 128)
    assert row["tokens"] == 100 * TOKENS
    assert row["tokens_per_parameter"] == pytest.approx(0.1024)
    assert row["cross_entropy"] == pytest.approx(4.2)
    assert row["training_loss"] == pytest.approx(2.1)
    # t(2) = 4.3027, standard error .2 / sqrt 3.
    half = 4.3027 * 0.2 / 3**0.5
    assert row["ci_high"] == pytest.approx(4.2 + half, abs=1e-4)
    assert row["ci_low"] == pytest.approx(4.2 - half, abs=1e-4)
    narrow = table.loc["baseline-2__steps=400__width=64"]
    assert (narrow["width"], narrow["tokens"]) == (64, 400 * TOKENS)


def test_a_width_may_have_a_rate_of_its_own() -> None:
    """It has a place in the table; a second rate at the same place has none."""
    own = grid("baseline proposed", 2, steps=[400], width=[64], lr=[1e-3])
    second = grid("baseline", 2, lr=[1e-3])
    study = study_of(default_configuration(), budget=[own, second])
    narrow = [f"{v}-2__lr=1e-3__steps=400__width=64" for v in ("proposed", "baseline")]
    models = {model for model, _ in budgets.budget_runs(study)}
    assert models == {*study.depth_models, *narrow}
    asked = [(one.left, one.right) for one in budgets.comparisons(study)]
    assert tuple(narrow) in asked


def test_questions_at_every_budget(tmp_path: Path) -> None:
    context = Context(budgeted(tmp_path).results())
    made = [context.estimate(c) for c in budgets.comparisons(context.study)]
    asked = {
        family: [(e.left, e.right) for e in made if e.family == f"budget {family}"]
        for family in budgets.QUESTIONS
    }
    # At width 64 there is no deep model.
    assert asked["depth"] == [
        ("baseline-4", "baseline-2"),
        ("baseline-4__steps=400", "baseline-2__steps=400"),
    ]
    assert asked["layer"] == [("proposed-2", "baseline-2")]
    assert asked["trade"] == [("proposed-2", "baseline-4")]
    effects = [e.effect for e in made if e.family == "budget depth"]
    # Both seeds of the deep model: .5 and .5, then -1 and -.999.
    assert effects == pytest.approx([0.5, -0.9995])
    found = budgets.depth_budgets(context.results)
    assert [budget.tokens_per_parameter for budget in found] == [0.1024, 0.4096]
    assert budgets.tried(context.results) == [100 * TOKENS, 400 * TOKENS]


def test_gain_table_by_hand(tmp_path: Path) -> None:
    world = budgeted(tmp_path)
    world.put("silu-2", "text", "cross_entropy", [3.9, 4.2, 4.2])
    context = Context(world.results())
    gains = budgets.gain_table(context).set_index(["question", "tokens"])
    silu = gains.loc["silu", 100 * TOKENS]
    assert (silu["left"], silu["right"], silu["n"]) == ("silu-2", "baseline-2", 3)
    # -.1, 0, -.2: mean -.1, t(2) = 4.3027, standard error .1 / sqrt 3.
    assert silu["effect"] == pytest.approx(-0.1)
    assert silu["ci_high"] >= -0.1 + 4.3027 * 0.1 / 3**0.5 - 1e-4
    assert silu["tokens_per_parameter"] == pytest.approx(0.1024)
    depth = gains.loc["depth"]
    assert depth["effect"].tolist() == pytest.approx([0.5, -0.9995])


def test_a_budget_is_named_by_its_deeper_baseline(tmp_path: Path) -> None:
    world = budgeted(tmp_path)
    for label, name in world.study.models.items():
        size = 500_000 * name.depth * (1 + (name.variant == "proposed"))
        world.sizes["study", label]["parameters_trained"] = size
    world.put("proposed-4", "text", "cross_entropy", [3.5, 3.701])
    world.results()
    write_analysis(world.folder)
    found = dict(heads.numbers(Results.read(world.folder)))
    # Of 2M parameters, not of 1M nor of the proposed model's 4M.
    assert found["budget.pays"] == "at 0.20 tokens per parameter"
    assert found["budget.deep_layer.seen"] == "at 0.051 tokens per parameter"


def test_depth_needs_equal_budgets() -> None:
    configuration = default_configuration()
    overrides = {"baseline-4": {"steps": 30}}
    configuration["training"] = configuration["training"] | {"overrides": overrides}
    study = study_of(configuration)
    families = {c.family for c in budgets.comparisons(study)}
    assert families == {"budget layer"}


def test_nats_are_natural() -> None:
    assert learning_rates.uniform_entropy(2) == pytest.approx(log(2) / 2)
