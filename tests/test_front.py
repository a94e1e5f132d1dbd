"""The front: probabilities against known truths, tables from a made-up study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import (
    COMBINED,
    ELIMINATION,
    FFNS,
    HEADS,
    SKIPPING,
    MadeUp,
    all_systems,
    default_configuration,
    quality,
    study_of,
    times,
)
from shallower.analysis import front, methods
from shallower.analysis.claims.base import Context
from shallower.analysis.front import (
    OF_DEPTH,
    facts,
    gain_over,
    gains_over_training,
    judged_gain,
    lineage,
)
from shallower.analysis.gains import _t_noise, non_dominated, on_front_probability
from shallower.analysis.interactions import (
    IDLE,
    changes_of,
    interactions,
    without,
)
from shallower.analysis.interventions import (
    against_curve,
    against_training,
    curve_of,
    measured,
)
from shallower.analysis.methods import purpose
from shallower.analysis.result_files import labelled
from shallower.study.names import ModelName
from shallower.study.study import Study
from simulated import DEPTHS, NAN, of, study

SKIPPED = "baseline-4__skip=attention.last."
BLOCKS = "baseline-4__skip=block.last."
HEALED = f"{SKIPPED}2__healed=0.1__by=self"
TUNED = "baseline-4__tuned=0.1__eliminate=acc.2"
STUDENT = "proposed-2__teacher=baseline-4"
WHERE = ("study", "trained", "eager", "continuation", "cross_entropy")

# --- probabilities --------------------------------------------------------------------


def test_probability_is_one_minus_p_of_a_paired_t_test() -> None:
    """The slower of two is on the front if it is better."""
    data = of(
        {"fast": [3.0, 3.2, 3.1], "slow": [2.9, 3.16, 3.05]},
        {"fast": [100.0, 104.0], "slow": [150.0, 156.0]},
    )
    p = stats.ttest_1samp([-0.1, -0.04, -0.05], 0, alternative="less").pvalue
    found = on_front_probability(data, draws=40_000)
    assert found["slow"] == pytest.approx(1 - p, abs=0.01)
    assert found["fast"] == 1
    assert (on_front_probability(data) == on_front_probability(data)).all()
    one = of({"fast": [3.0, 3.2], "slow": [2.9, 3.1]}, {"fast": [1.0], "slow": [2.0]})
    assert on_front_probability(one).isna().all()


def test_noise_is_multivariate_t() -> None:
    """Every contrast is t with two degrees of freedom and the contrast's own error."""
    values = np.random.default_rng(2).normal(3, 0.2, (3, 4))
    noise = _t_noise(np.random.default_rng(1), 40_000, values)
    for contrast in ([1, -1, 0, 0], [1.0, -2.0, 1.0, 0.5]):
        scale = (values @ contrast).std(ddof=1) / np.sqrt(3)
        errors = noise @ contrast / scale
        assert stats.kstest(errors, stats.t(2).cdf).statistic < 0.01


@pytest.mark.slow
def test_probabilities_of_three_seeds_against_the_truth() -> None:
    """Worlds drawn around a depth curve; who is on the front is known in each.

    Of 4,000 probabilities those beyond .05 and .95 are wrong in 2.1 %, where 1.5 % are
    claimed; a bootstrap of the same seeds was wrong in 4.6 % and claimed .5 %.
    """
    random, truth, chances = np.random.default_rng(3), [], []
    models = [*DEPTHS, *(f"proposed-{depth}" for depth in (5, 6, 7, 8))]
    centre = np.array([100, 115, 130, 145, 105, 112, 125, 140.0])
    for _ in range(250):
        latency = centre * np.exp(random.normal(0, 0.02, 8))
        nats = 3.5 - 0.0015 * (latency - 100) + random.normal(0, 0.03, 8)
        data = study(random, models, nats, latency, units=3)
        truth += non_dominated(nats, latency).tolist()
        chances += on_front_probability(data, draws=1000).tolist()
    p, on = np.array(chances), np.array(truth)
    sure = (p <= 0.05) | (p >= 0.95)
    wrong = np.mean((p > 0.5)[sure] != on[sure])
    assert sure.mean() > 0.2
    assert wrong - np.minimum(p, 1 - p)[sure].mean() < 0.02
    assert np.mean((p - on) ** 2) < 0.1


# --- tables of a made-up study --------------------------------------------------------


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """All systems, with every estimate of the front."""
    made = MadeUp(all_systems(), tmp_path_factory.mktemp("systems"))
    context = Context(made.results())
    list(facts(context))
    return context


def tables(context: Context) -> dict[str, pd.DataFrame]:
    return front.tables(context) | methods.tables(context)


@pytest.fixture(scope="module")
def written(systems: Context) -> dict[str, pd.DataFrame]:
    return tables(systems)


def small(**more: list) -> Study:
    """Depth, heads and what is asked for."""
    return study_of(default_configuration(), **more)


def expected_gain(name: ModelName, others: list[ModelName], form: str) -> float:
    """From the truths of made_up: quality less the curve's, per token."""
    knots = [times(other)[0] for other in others]
    nats = [quality(other) for other in others]
    return quality(name) - float(np.interp(times(name, form)[0], knots, nats))


def test_points_are_of_the_deployed_form(
    systems: Context, written: dict[str, pd.DataFrame]
) -> None:
    table = labelled(written["pareto"]).set_index(["axis", "label"])
    names = systems.study.names
    assert set(table.loc["per_token"].index) == set(systems.study.front)
    row = table.loc[("per_token", "proposed-4")]
    assert row["latency"] == pytest.approx(
        times(names["proposed-4"], "folded")[0], 0.001
    )
    assert row["quality"] == pytest.approx(quality(names["proposed-4"]))
    values = systems.results.values("proposed-4", "continuation", "cross_entropy")
    due = stats.ttest_1samp(values, 0).confidence_interval()
    assert row["quality_ci_low"] == pytest.approx(due.low)
    assert (row["seeds"], row["sessions"], row["system"]) == ("0 1 2", "0 1 2", "S1")
    row = table.loc[("first_token", f"{SKIPPED}2")]
    assert (row["model"], row["intervention"]) == (
        "baseline-4",
        "skip=attention.last.2",
    )


def test_a_run_that_diverged_is_no_point(tmp_path: Path) -> None:
    made = MadeUp(small(), tmp_path)
    made.put("proposed-3", "continuation", "cross_entropy", [5.0, np.inf, 5.0])
    made.put("proposed-2", "continuation", "time_per_output_token", ())
    made.put(
        *("proposed-2", "continuation", "time_per_output_token", ()), form="folded"
    )
    data = measured(made.results(), "per_token")
    assert not {"proposed-3", "proposed-2"} & set(data.models)
    assert "proposed-2" in measured(made.results(), "first_token").models


def test_gains_over_fewer_blocks(systems: Context) -> None:
    data, names = measured(systems.results, "per_token"), systems.study.names
    depths = [ModelName("baseline", depth) for depth in (2, 3, 4)]
    for label, form in (("proposed-3", "folded"), (f"{SKIPPED}2", "trained")):
        gain, _ = gain_over(systems, data, label, "depth")
        due = expected_gain(names[label], depths, form)
        assert gain.effect == pytest.approx(due, abs=0.003)
        assert gain.unit == "nats"
        assert "curve: baseline-2, baseline-3, baseline-4" in gain.note
    gain, speedup = gain_over(systems, data, "proposed-3", "depth")
    assert judged_gain(gain).verdict == "supported"
    # 4.65 nats are better than four blocks.
    assert np.isnan(speedup.effect)
    assert "outside the curve" in speedup.note
    _, speedup = gain_over(systems, data, f"{SKIPPED}1", "depth")
    # 4.82 lie two fifths of the way from four to three blocks.
    slow = np.interp(4.82, [4.8, 4.85], [times(depths[2])[0], times(depths[1])[0]])
    assert speedup.effect == pytest.approx(
        slow / times(names[f"{SKIPPED}1"])[0], abs=0.01
    )


def test_gains_over_skipped_blocks(systems: Context) -> None:
    data, names = measured(systems.results, "per_token"), systems.study.names
    others = curve_of(systems.study, data, "blocks")
    assert others == ["baseline-4", f"{BLOCKS}1", f"{BLOCKS}2"]
    gain, _ = gain_over(systems, data, f"{SKIPPED}2", "blocks")
    curve = sorted((names[m] for m in others), key=lambda name: times(name)[0])
    due = expected_gain(names[f"{SKIPPED}2"], curve, "trained")
    assert gain.effect == pytest.approx(due, abs=0.003)
    assert judged_gain(gain).verdict == "supported"


@pytest.mark.parametrize(
    ("low", "high", "favour", "verdict"),
    [
        (-0.3, -0.1, 0.01, "supported"),
        (-0.3, 0.001, 0.01, "inconclusive"),
        (0.005, 0.3, 0.01, "inconclusive"),  # the curve may be favoured by as much
        (0.005, 0.3, 0.0, "not supported"),
        (0.02, 0.3, 0.01, "not supported"),
        (NAN, NAN, 0.01, "not tested"),
    ],
)
def test_verdicts_of_gains(
    systems: Context, low: float, high: float, favour: float, verdict: str
) -> None:
    data = measured(systems.results, "per_token")
    gain, _ = gain_over(systems, data, "proposed-3", "depth")
    moved = replace(gain, effect=(low + high) / 2, ci_low=low, ci_high=high)
    assert judged_gain(moved, favour).verdict == verdict


def test_gains_at_equal_training_flops(systems: Context) -> None:
    """Four blocks at a quarter, half, all and four times the steps."""
    used = systems.used
    half = used[against_training("proposed-2").id]  # two blocks cost half
    names = systems.study.names
    due = quality(names["proposed-2"]) - quality(names["baseline-4__steps=50"])
    assert half.effect == pytest.approx(due)
    assert "curve: baseline-4__steps=50" in half.note
    assert half.method == "paired difference, t over seeds"
    between = used[against_training("baseline-3").id]  # log-linear in steps
    due = quality(names["baseline-3"]) - (4.8 + 0.3 * np.log2(4 / 3))
    assert between.effect == pytest.approx(due, abs=0.003)
    assert against_training("baseline-4").id not in used


def test_a_layer_without_a_function_gains_nothing_by_training(
    systems: Context, tmp_path: Path
) -> None:
    """Linear layers in two blocks: better than four that train as long, by depth."""
    proposed = systems.used[against_training("proposed-2").id]
    assert judged_gain(proposed).verdict == "supported"
    made = MadeUp(small(**HEADS), tmp_path)
    for label in ("linear-2", "baseline-2"):
        made.shift(-0.3, label)
    made.shift(0.05, "linear-2")
    (found,) = gains_over_training(Context(made.results()), ["linear-2"])
    assert found.ci_high < 0
    assert found.note.startswith(OF_DEPTH)
    assert judged_gain(found).verdict == "not tested"


def test_training_counts_every_run_once(systems: Context) -> None:
    assert lineage(systems.study, HEALED) == {HEALED, "baseline-4"}
    table = tables(systems)["methods"]
    table = labelled(table).set_index("label")
    share = table["training_share"]
    assert share["baseline-4"] == share[f"{SKIPPED}2"] == 1
    assert share[STUDENT] == pytest.approx(0.5 + 1)
    tuned = systems.study.spec("baseline-4__tuned=0.1", 0).training.steps / 100
    assert share[TUNED] == pytest.approx(1 + tuned)


def test_methods_table(systems: Context, written: dict[str, pd.DataFrame]) -> None:
    table = labelled(written["methods"]).set_index("label")
    assert set(table.index) == set(systems.study.front)
    row = table.loc[TUNED]
    assert (row["system"], row["axis"], row["predicted_prefill"]) == (
        "S4",
        "first_token",
        2.0,
    )
    assert row["cache_share"] == 0.5  # as it was evaluated
    data = measured(systems.results, "first_token")
    gain, _ = gain_over(systems, data, TUNED, "depth")
    assert row["verdict"] == judged_gain(gain).verdict
    assert (table.loc[["baseline-2", "baseline-4"], "verdict"] == "").all()
    assert purpose(ModelName("baseline", 4, {"tuned": 0.1})) == "first_token"
    # Healed models have the predictions and the cache of what was skipped.
    both = ["predicted_decode", "cache_bytes"]
    assert (table.loc[HEALED, both] == table.loc[f"{SKIPPED}2", both]).all()
    # Keys and values of 4 blocks in single precision.
    tokens = systems.study.prompt_tokens + systems.study.evaluation.new_tokens
    width = systems.study.model.width
    assert table.loc["baseline-4", "cache_bytes"] == 4 * 2 * width * 4 * tokens


def test_what_was_chosen(systems: Context, written: dict[str, pd.DataFrame]) -> None:
    chosen = labelled(written["interventions"])
    assert len(chosen) == len(systems.study.intervened)
    row = chosen[(chosen["label"] == TUNED) & (chosen["seed"] == 1)].iloc[0]
    assert row["predicted_prefill"] == 2.0
    assert len(row["counts"].split()) == 4
    profiles = written["profiles"].set_index(["model", "seed", "block", "metric"])
    contribution = profiles.loc[("baseline-4", 2, 0, "contribution"), "value"]
    assert contribution == pytest.approx(0.82)
    assert set(written["profiles"]["block"]) == {0, 1, 2, 3}


def test_one_session_tests_nothing(tmp_path: Path) -> None:
    made = MadeUp(small(), tmp_path)
    made.first_units()
    context = Context(made.results())
    found = {fact.key: fact.value for fact in facts(context)}
    assert found["front.per_token.gains.compared"] > 0
    assert found["front.per_token.gains.supported"] == 0
    chances = tables(context)["pareto"]["on_front_probability"]
    assert chances.isna().all()


def test_without_baselines_there_is_no_curve(tmp_path: Path) -> None:
    made = MadeUp(small(), tmp_path)
    for label in ("baseline-2", "baseline-3", "baseline-4"):
        made.put(label, "continuation", "cross_entropy", ())
    context = Context(made.results())
    data = measured(context.results, "per_token")
    gain, speedup = gain_over(context, data, "proposed-3", "depth")
    assert gain.note == speedup.note == "no curve of depth was timed"
    assert judged_gain(gain).verdict == "not tested"
    assert against_curve("proposed-3", "depth", "per_token").id not in context.used


def test_seeds_that_do_not_meet(tmp_path: Path) -> None:
    made = MadeUp(small(), tmp_path)
    made.put("proposed-3", "continuation", "cross_entropy", {10: 5.0, 11: 5.1})
    context = Context(made.results())
    data = measured(context.results, "per_token")
    assert "in common" in gain_over(context, data, "proposed-3", "depth")[0].note


def test_facts_count_models(systems: Context) -> None:
    found = {fact.key: fact.value for fact in facts(systems)}
    groups = ("depth", "S1", "S2", "S3", "S4", "combined")
    assert found["front.models"] == len(systems.study.front)
    assert sum(found[f"front.{group}"] for group in groups) == found["front.models"]
    table = tables(systems)["pareto"]
    on = table[table["on_front"] & (table["axis"] == "per_token")]
    assert found["front.per_token.size"] == len(on)
    assert found["front.per_token.rank"] == 2  # three seeds, whatever the models


def test_the_fastest_is_on_the_front_by_construction(
    written: dict[str, pd.DataFrame],
) -> None:
    """As the worst of all too: its probability of 1 says nothing about its quality."""
    for axis, rows in written["pareto"].groupby("axis"):
        marked = rows[rows["by_construction"]]
        assert marked["latency"].tolist() == [rows["latency"].min()], axis
        assert marked["on_front"].all()
    data = of(
        {"fast": [9.0, 9.1, 9.2], "good": [1.0, 1.1, 1.2]},
        {"fast": [1.0, 1.01, 1.02], "good": [2.0, 2.01, 2.02]},
    )
    assert on_front_probability(data).tolist() == [1, 1]


# --- two changes of one model ---------------------------------------------------------


def test_interactions(tmp_path: Path) -> None:
    """With heads and FFN together .05 nats worse than the sum; all else adds up."""
    more = HEADS | FFNS | SKIPPING | COMBINED
    made = MadeUp(small(**more), tmp_path)
    both = "proposed-4__ffn=one_matrix"
    made.shift(0.05, both)
    context = Context(made.results())
    found = {(one.left, one.right): one for one in interactions(context)}
    one = found[both, "baseline-4"]
    assert one.effect == pytest.approx(0.05)
    assert one.note == "of proposed-4 and one_matrix-4"
    assert found[
        "proposed-2__teacher=baseline-4", "baseline-2"
    ].effect == pytest.approx(0.0)
    numbers = {fact.key: fact.value for fact in facts(context)}
    assert numbers["front.interactions"] == len(found) == 3
    assert numbers["front.interactions.worse"] == 1
    assert numbers["front.interactions.idle"] == 0


def test_what_does_nothing_adds_up_with_nothing(tmp_path: Path) -> None:
    """Eliminated tokens cost nothing: that two changes add up says nothing then."""
    made = MadeUp(small(**HEADS | SKIPPING | ELIMINATION | COMBINED), tmp_path)
    base = made.values[("baseline-4", *WHERE)]
    noise = dict(enumerate((0.01, -0.02, 0.01)))
    nothing = {seed: value + noise[seed] for seed, value in base.items()}
    made.put("baseline-4__eliminate=acc.2", "continuation", "cross_entropy", nothing)
    context = Context(made.results())
    found = [one for one in interactions(context) if "eliminate" in one.left]
    assert found
    assert all(IDLE in one.note for one in found)
    numbers = {fact.key: fact.value for fact in facts(context)}
    assert numbers["front.interactions.idle"] == len(found)


OPTIONS = {"ffn": "three_matrices", "ratio": 2, "teacher": "baseline-8", "alpha": 0.1}
OPTIONS |= {"tuned": 0.1, "skip": "attention.last.2", "healed": 0.05, "by": "self"}
ALL = ModelName("proposed", 6, OPTIONS | {"eliminate": "acc.2"})


@pytest.mark.parametrize(
    ("name", "change", "left"),
    [
        (ModelName("proposed", 8), "head", "baseline-8"),
        (ModelName("proposed", 8, {"ffn": "none"}), "head", "none-8"),
        (ModelName("proposed", 8, {"ffn": "none", "ratio": 2}), "ffn", "proposed-8"),
        (ModelName("none", 8, {"ratio": 2}), "ffn", "baseline-8"),
        (ALL, "ffn", str(ALL.without("ffn", "ratio"))),
        (ALL, "teacher", str(ALL.without("teacher", "alpha"))),
        (ALL, "skip", str(ALL.without("skip", "healed", "by"))),
        (ALL, "eliminate", str(ALL.without("tuned", "eliminate"))),
    ],
)
def test_a_change_is_taken_away(name: ModelName, change: str, left: str) -> None:
    assert change in changes_of(name)
    assert str(without(name, change)) == left


def test_every_change_can_go_in_any_order() -> None:
    assert changes_of(ALL) == ["head", "ffn", "teacher", "skip", "eliminate"]
    for order in (changes_of(ALL), changes_of(ALL)[::-1]):
        left = ALL
        for change in order:
            assert not left.is_depth_baseline
            left = without(left, change)
        assert str(left) == "baseline-6"
