"""The combined study's tables, from a made-up study whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from made_up_front import (
    BLOCK,
    FLOPS,
    HEALED,
    MOOD,
    SKIP,
    STUDENT,
    TRUTH,
    TUNED,
    changed,
    gains_of,
    made,
    rows_of,
    times,
)
from shallower.analysis.front_data import FrontData, plain
from shallower.analysis.front_tables import (
    additivity_table,
    block_null,
    dominance_table,
    gain_verdict,
    hypervolume_table,
    pareto_table,
)
from shallower.analysis.gains import Gain


@pytest.fixture
def data() -> FrontData:
    return made(TRUTH)


# --- what is measured -----------------------------------------------------------------


def test_the_deployed_form_is_what_was_timed_last(data: FrontData) -> None:
    folded = times("proposed-2", 111, 0, form="folded")
    data.units = pd.concat([data.units, pd.DataFrame(folded)])
    table = pareto_table(data).set_index(["axis", "model"])
    assert table.loc[("per_token", "proposed-2"), "latency"] == pytest.approx(
        111 * MOOD.mean(), rel=0.01
    )
    assert table.loc[("first_token", "proposed-4"), "latency"] == pytest.approx(
        3950 * MOOD.mean(), rel=0.01
    )


def test_what_is_no_point_is_left_out(data: FrontData) -> None:
    """Twins, other sizes and modes, models without a time, a run that diverged."""
    extra = times("baseline-4__twin=1", 400, 0)
    extra += times("baseline-4", 9999, 0, scale="paper")
    extra += times("baseline-3", 9999, 0, mode="uncached")
    data.units = pd.concat([data.units, pd.DataFrame(extra)], ignore_index=True)
    lost = (data.units["model"] == "proposed-4") & (data.units["unit_id"] == 1)
    lost &= data.units["metric"] == "cross_entropy"
    data.units.loc[lost, "value"] = np.inf
    table = pareto_table(data)
    assert set(table["model"]) == set(TRUTH) - {"proposed-4"}
    assert table["latency"].max() < 5000
    assert data.diverged == ["proposed-4"]
    assert "baseline-4__steps=5" in data.quality
    assert set(table.loc[table["family"] == "depth", "model"]) == set(plain(TRUTH))


# --- gains ----------------------------------------------------------------------------


def test_gains_over_depth_by_hand(data: FrontData) -> None:
    table = gains_of(data, "depth")
    assert not set(plain(TRUTH)) & set(table.index)
    # Depth reaches .195 at 205 us and .05 at 350; proposed-2's .1 needs 300 us.
    assert table.loc["proposed-2", "effect"] == pytest.approx(-0.095, abs=0.003)
    assert table.loc["proposed-2", "speedup"] == pytest.approx(300 / 205, rel=0.02)
    assert table.loc["proposed-2", "verdict"] == "supported"
    assert table.loc["proposed-2", "nulls"] == "baseline-2 baseline-3 baseline-4"
    assert len(table.loc["proposed-2", "values"].split()) == 3
    assert table.loc[f"{SKIP}1", "effect"] == pytest.approx(0.0, abs=0.003)
    assert table.loc[f"{SKIP}1", "verdict"] == "inconclusive"
    assert table.loc[f"{SKIP}2", "effect"] == pytest.approx(0.12, abs=0.003)
    assert table.loc[f"{SKIP}2", "verdict"] == "not supported"


def test_elimination_gains_where_it_shortens_the_prefill(data: FrontData) -> None:
    """At half of 4.04 ms: as fast as two blocks, and .18 nats better."""
    first = gains_of(data, "depth", "first_token").loc[TUNED]
    assert first["effect"] == pytest.approx(-0.178, abs=0.003)
    assert first["verdict"] == "supported"
    assert gains_of(data, "depth").loc[TUNED, "verdict"] == "not tested"


def test_outside_the_depths_nothing_is_tested() -> None:
    table = gains_of(changed(**{STUDENT: (0.05, 150.0)}), "depth")
    assert table.loc[STUDENT, "verdict"] == "not tested"
    assert "outside the depths'" in table.loc[STUDENT, "note"]


@pytest.mark.parametrize(
    ("low", "high", "favour", "verdict"),
    [
        (-0.3, -0.1, 0.01, "supported"),
        (-0.3, 0.001, 0.01, "inconclusive"),
        (0.005, 0.3, 0.01, "inconclusive"),  # the null may be favoured by as much
        (0.005, 0.3, 0.0, "not supported"),
        (0.02, 0.3, 0.01, "not supported"),
        (np.nan, np.nan, 0.01, "not tested"),
    ],
)
def test_verdicts_of_gains(
    low: float, high: float, favour: float, verdict: str
) -> None:
    gain = Gain((low + high) / 2, low / 2, high / 2, low, high)
    assert gain_verdict(gain, favour) == verdict


def test_a_null_of_depths_is_favoured() -> None:
    """.006 nats worse than depth, beyond doubt: not beyond the null's advantage."""
    worse = changed(**{f"{SKIP}1": (0.056, 350.0)})
    row = gains_of(worse, "depth").loc[f"{SKIP}1"]
    assert row["total_low"] > 0
    assert row["verdict"] == "inconclusive"


def test_skipped_sublayers_against_blocks(data: FrontData) -> None:
    nulls = ["baseline-4", f"{BLOCK}1", f"{BLOCK}2"]
    assert block_null([f"{BLOCK}2", HEALED, *nulls[:2]], "baseline-4") == nulls
    table = gains_of(data, "block")
    assert set(table.index) == {f"{SKIP}1", f"{SKIP}2", HEALED}
    # From 400 us down to 310 blocks lose .4: at 350 us that is .222.
    expected = 0.05 - 0.4 * 50 / 90
    assert table.loc[f"{SKIP}1", "effect"] == pytest.approx(expected, abs=0.005)
    assert table.loc[f"{SKIP}1", "verdict"] == "supported"
    assert table.loc[f"{SKIP}1", "nulls"].split() == [
        f"{BLOCK}2",
        f"{BLOCK}1",
        nulls[0],
    ]


def test_healed_blocks_are_no_null() -> None:
    healed = f"{BLOCK}1__healed=0.1"
    assert block_null(["baseline-4", healed], "baseline-4") == []
    assert block_null([f"{BLOCK}1"], "baseline-4") == []  # the whole model is missing


def test_gains_at_equal_training_flops(data: FrontData) -> None:
    table = gains_of(data, "flops", "training")
    # 20 FLOPs are what the baseline with 5 steps costs: .3.
    assert table.loc["proposed-2", "effect"] == pytest.approx(-0.2, abs=0.003)
    assert table.loc["proposed-2", "nulls"] == "baseline-4__steps=5"
    # 30 lie between 20 and 40: .3 and 0 in log FLOPs.
    share = np.log(1.5) / np.log(2)
    expected = 0.1 - 0.3 * (1 - share)
    assert table.loc["baseline-3", "effect"] == pytest.approx(expected, abs=0.003)
    assert table.loc[f"{SKIP}1", "nulls"] == "baseline-4"
    assert np.isnan(table.loc["proposed-2", "speedup"])
    assert not {"baseline-4", "baseline-4__steps=5"} & set(table.index)


def test_without_flops_training_is_not_tested(data: FrontData) -> None:
    data.flops = {m: f for m, f in FLOPS.items() if m != STUDENT}
    table = gains_of(data, "flops", "training")
    assert table.loc[STUDENT, "verdict"] == "not tested"
    assert table.loc["proposed-2", "verdict"] == "supported"
    data.flops = {}
    verdicts = gains_of(data, "flops", "training")["verdict"]
    assert set(verdicts) == {"not tested"}


@pytest.mark.parametrize("metric", ["cross_entropy", "time_per_output_token"])
def test_one_seed_or_session_tests_nothing(data: FrontData, metric: str) -> None:
    few = (data.units["metric"] != metric) | (data.units["unit_id"] == 0)
    data.units = data.units[few]
    table = gains_of(data, "depth")
    assert set(table["verdict"]) == {"not tested"}
    assert table.loc["proposed-2", "effect"] == pytest.approx(-0.095, abs=0.01)
    assert table.loc["proposed-2", "note"].startswith("fewer than two")
    pareto_table(data)
    dominance_table(data)


def test_seeds_that_do_not_meet(data: FrontData) -> None:
    rows = (data.units["model"] == "proposed-2") & (data.units["unit"] == "nats")
    data.units.loc[rows, "unit_id"] += 10
    row = gains_of(data, "depth").loc["proposed-2"]
    assert row["verdict"] == "not tested"
    assert "in common" in row["note"]


# --- dominance, additivity, hypervolume -----------------------------------------------


def test_dominance_goes_both_ways(data: FrontData) -> None:
    table = dominance_table(data).set_index(["axis", "model", "over"])
    found = table.loc[("per_token", "proposed-4", "baseline-4")]
    assert found["verdict"] == "supported"
    assert found["quality"] == pytest.approx(-0.1, abs=0.003)
    assert found["latency"] == pytest.approx(395 / 400, abs=0.005)
    assert found["probability"] > 0.9
    back = table.loc[("per_token", "baseline-4", "proposed-4")]
    assert back["verdict"] == "not supported"
    assert back["probability"] < 0.1
    arms = [m for m in TRUTH if m not in plain(TRUTH)]
    assert len(table) == 2 * 2 * 3 * len(arms)
    assert ("per_token", "baseline-2", "baseline-4") not in table.index


def test_additivity_of_every_pair(data: FrontData) -> None:
    table = additivity_table(data).set_index("both")
    chosen = table.loc["proposed-4__ffn=three_matrices"]
    # Without heads and FFN the names are those of other variants.
    assert list(chosen[["a", "b", "base"]]) == [
        *("proposed-4", "three_matrices-4", "baseline-4")
    ]
    assert chosen["effect"] == pytest.approx(-0.05 - (-0.1) - 0.07, abs=0.004)
    assert chosen["seeds"] == "0 1 2"
    assert chosen["verdict"] == "not supported"
    assert chosen["note"] == "together better than the sum, within 0.03 nats"
    student = table.loc[STUDENT]
    assert list(student[["a", "b", "base"]]) == [
        *("proposed-2", "baseline-2__teacher=baseline-4", "baseline-2")
    ]
    assert student["effect"] == pytest.approx(0.0, abs=0.004)
    assert student["verdict"] == "supported"
    assert len(table) == 2


def test_additivity_in_other_worlds() -> None:
    worse = additivity_table(changed(**{STUDENT: (0.15, 205.0)})).set_index("both")
    assert worse.loc[STUDENT, "verdict"] == "not supported"
    assert worse.loc[STUDENT, "note"] == "together worse than the sum"
    vague = changed(**{STUDENT: (0.05, 205.0)})
    rows = (vague.units["model"] == STUDENT) & (vague.units["unit"] == "nats")
    vague.units.loc[rows, "value"] += [0.1, -0.1, 0.0]
    table = additivity_table(vague).set_index("both")
    assert table.loc[STUDENT, "verdict"] == "inconclusive"
    vague.units = vague.units[~(rows & (vague.units["unit_id"] > 0))]
    fewer = FrontData(vague.units, vague.order, "baseline-4", FLOPS)
    assert additivity_table(fewer).set_index("both").loc[STUDENT, "verdict"] == (
        "not tested"
    )


def test_hypervolume_by_hand() -> None:
    """Two depths, one arm; ranges of 1 nat and 100 us, so the reference is (6.1, 210).

    Depth: (6.1 - 6) 100 + (6.1 - 5) 10; the arm at (5.5, 150): .6 x 60.
    """
    exact = {"baseline-2": (6.0, 100.0), "baseline-4": (5.0, 200.0)}
    exact |= {"proposed-2": (5.5, 150.0)}
    rows = [
        row
        for model, (nats, us) in exact.items()
        for row in (
            *rows_of(model, "cross_entropy", [nats, nats]),
            *rows_of(model, "time_per_output_token", [us, us]),
        )
    ]
    data = FrontData(pd.DataFrame(rows), list(exact), "baseline-4", {})
    table = hypervolume_table(data).set_index("system")
    assert list(table.index) == ["depth", "S1", "all"]
    assert list(table["models"]) == [2, 1, 3]
    whole = 0.1 * 50 + 0.6 * 50 + 1.1 * 10
    assert list(table["hypervolume"]) == pytest.approx([21, 36, whole])
    assert list(table["share"]) == pytest.approx([21 / whole, 36 / whole, 1])
