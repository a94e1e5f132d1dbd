"""Verdicts on the original's claims, from a study whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import (
    CONTRASTS,
    HEADS,
    SMALL,
    TOKEN,
    MadeUp,
    default_configuration,
    study_of,
)
from shallower.analysis import heads_facts
from shallower.analysis.claims import contrasts, heads
from shallower.analysis.claims.base import Context, judged
from shallower.analysis.claims.heads import TABLE_1, tokens_to_loss, worth_of_tokens
from shallower.analysis.verdicts import Verdict

TEXT = ("text", "cross_entropy")
STEP = ("step", "step_time")
EAGER = ("trained", "eager")
TWIN = "baseline-8__twin=1"


@pytest.fixture
def world(tmp_path: Path) -> MadeUp:
    """Depth pays, two proposed blocks match four, the layer is cheap."""
    study = study_of(default_configuration(), CONTRASTS, **HEADS)
    world = MadeUp(study, tmp_path)
    for variant in ("baseline", "proposed"):
        for depth, count in TABLE_1[variant].items():
            sizes = world.sizes["original", f"{variant}-{depth}"]
            sizes["parameters_trained"] = count
    for depth in study.depths:
        # Lower by .2, where losses fall by .01 per iteration: twenty iterations.
        world.losses[f"proposed-{depth}"] = lambda _, i: 6 - 0.2 - 0.01 * i
    for form in ("trained", "folded"):
        world.put("baseline-8", *TOKEN, [140, 142, 138], "original")
        world.put(TWIN, *TOKEN, [141, 142, 139], "original")
        world.put("proposed-5", *TOKEN, [100, 101, 99], "original", form)
    return world


def table(world: MadeUp) -> pd.DataFrame:
    context = Context(world.results())
    claims = [*heads.CLAIMS, *contrasts.contrasts(world.study)]
    return pd.DataFrame(judged(claims, context)).set_index("id")


def test_a_world_in_which_most_is_true(world: MadeUp) -> None:
    found = table(world)
    verdicts: dict[str, Verdict] = {f"C{n}": "supported" for n in range(1, 12)}
    verdicts["C3"] = "not supported"  # the linear layer alone is equivalent to none
    verdicts["C8"] = "not tested"  # no text metric was measured
    verdicts |= dict.fromkeys(("fold", "A1-A0", "A5-A0", "A12-A1"), "supported")
    assert found["verdict"].to_dict() == verdicts
    assert found.loc["C5", "effect"] == pytest.approx(-0.2, abs=0.01)
    assert found.loc["C7", "effect"] == pytest.approx(1.4)
    assert found.loc["C9", "effect"] == pytest.approx(0.8)
    assert found.loc["C9", "threshold"] == 1.0
    kinds = found["kind"].to_dict()
    assert [i for i in kinds if kinds[i] == "identity"] == ["C1", "C2", "fold"]
    assert [i for i in kinds if kinds[i] == "cost"] == ["C7", "C10"]
    assert set(found.loc[["C1", "C7"], "weights"]) == {"untrained"}


def test_what_refutes_the_claims(world: MadeUp) -> None:
    world.sizes["original", "proposed-7"]["parameters_trained"] += 1
    world.shift(0.1, "linear-2")
    world.shift(0.4, "proposed-3")  # harm at one depth refutes "at every depth"
    for label in ("baseline-8", TWIN):
        world.shift(60, label, "time_per_output_token", "original")
    times = world.values[("baseline-2", "study", "trained", "eager", *STEP)]
    world.put("proposed-2", *STEP, {s: 1.3 * us for s, us in times.items()})
    found = table(world).loc[["C1", "C2", "C3", "C5", "C7", "C10"]]
    assert set(found["verdict"]) == {"not supported"}
    # A model itself, and what it has more than the baseline.
    assert found["effect"][["C1", "C2"]].tolist() == [2, 1]
    assert found["effect"]["C5"] == pytest.approx(0.2, abs=0.01)
    assert found["effect"]["C10"] == pytest.approx(1.3)
    assert "not supported: 3 blocks" in found["note"]["C5"]
    assert "folded 2.00" in found["note"]["C7"]
    assert "2 of 3 depths" in found["note"]["C10"]


def test_linear_layers_that_change_training(world: MadeUp) -> None:
    world.shift(-0.1, "linear-2")
    assert table(world).loc["C3", "verdict"] == "supported"
    key = ("linear-2", "study", "trained", "eager", "text", "cross_entropy")
    world.values[key][0] += 0.2
    assert table(world).loc["C3", "verdict"] == "inconclusive"


def test_without_depth_that_pays_nothing_is_tested(world: MadeUp) -> None:
    """Where deeper baselines are worse, 'no worse than deeper' says nothing."""
    for depth in (3, 4):
        world.shift(0.5, f"baseline-{depth}")
    row = table(world).loc["C6"]
    assert row["verdict"] == "not tested"
    assert "no assay sensitivity" in row["note"]


def test_the_margin_is_fixed_whatever_more_tokens_gain(world: MadeUp) -> None:
    # Halving the tokens costs .3 nats, so 10 % more gain .3 log2(1.1) of that.
    context = Context(world.results())
    worth = worth_of_tokens(context)
    assert worth is not None
    assert worth.effect == pytest.approx(0.3 * math.log2(1.1), abs=1e-3)
    assert context.margin == 0.03


def test_verdicts_at_half_and_at_double_the_margin(world: MadeUp) -> None:
    """A linear layer that costs .02 nats: within .03 and .06, not within .015."""
    world.shift(0.02, "linear-2")
    found = table(world)
    columns = ["verdict", "verdict_half_margin", "verdict_double_margin"]
    equal, wider = "supported", "not supported"  # C3 is refuted by equality
    assert found.loc["A5-A0", columns].tolist() == [equal, "inconclusive", equal]
    assert found.loc["C3", columns].tolist()[::2] == [wider, wider]
    assert found.loc["C5", columns[1:]].tolist() == ["", ""]


def test_contrasts_are_adjusted_over_all_that_are_registered(world: MadeUp) -> None:
    found = table(world)
    p = found.loc[["A1-A0", "A5-A0", "A12-A1"], "p"].to_numpy()
    ordered, due = np.argsort(p), np.empty(3)  # by hand: Holm 1979
    due[ordered] = np.maximum.accumulate(p[ordered] * [3, 2, 1])
    adjusted = found.loc[["A1-A0", "A5-A0", "A12-A1"], "p_holm"]
    assert adjusted.to_numpy() == pytest.approx(np.minimum(due, 1))
    # By itself the second would be supported; by Holm over three it is not.
    label, alone = "silu_even-2", stats.t.ppf(1 - 0.03 / 2, 2)
    right = world.values[("silu-2", "study", "trained", "eager", *TEXT)]
    spread = np.array([-1.0, 0.0, 1.0])
    shift = alone / np.sqrt(3) * spread.std(ddof=1)
    world.put(label, *TEXT, {s: right[s] - shift + spread[s] for s in right})
    world.shift(0.028, "linear-2")
    row = table(world).loc["A12-A1"]
    assert row["p"] == pytest.approx(0.03)
    assert row["p_holm"] > 0.05
    assert row["verdict"] == "inconclusive"
    assert row["ci_low"] < 0 < row["ci_high"]


def test_times_that_an_a_a_pair_does_not_repeat_decide_nothing(world: MadeUp) -> None:
    """Neither a wrong ratio nor a noisy one passes."""
    base = world.values[("baseline-8", "original", "trained", "eager", *TOKEN)]
    for factors in ([0.88, 0.881, 0.879], [0.93, 1.09, 0.98]):
        us = {s: base[s] * factor for s, factor in enumerate(factors)}
        world.put(TWIN, *TOKEN, us, "original")
        row = table(world).loc["C7"]
        assert row["verdict"] == "not tested"
        assert row["note"].startswith("timing too noisy: A/A")
    world.put(TWIN, *TOKEN, {s: 1.01 * us for s, us in base.items()}, "original")
    assert table(world).loc["C7", "verdict"] == "supported"


def test_tokens_to_loss_by_hand() -> None:
    iterations = np.arange(1, 101)
    right = pd.DataFrame({0: 6 - 0.01 * iterations, 1: 6 - 0.01 * iterations})
    right.index = iterations
    left = right.add([-0.2, 0.3])  # parallel lines, twenty iterations apart; and above
    assert tokens_to_loss(left, right).to_dict() == pytest.approx({0: 0.8, 1: 1.0})


def test_deeper_is_judged_at_the_largest_budget(world: MadeUp) -> None:
    world.shift(0.9, "baseline-4__steps=50")
    row = table(world).loc["C11"]
    assert row["verdict"] == "supported"
    depths = [2, 3, 4]
    context = Context(world.results())
    levels = [context.results.values(f"baseline-{d}", *TEXT) for d in depths]
    seeds = pd.concat(levels, axis=1).to_numpy()
    slopes = [stats.linregress(depths, row).slope for row in seeds]
    assert f"slope at the main budget {np.mean(slopes):+.3f}" in row["note"]
    world.shift(0.9, "baseline-4__steps=400")
    assert table(world).loc["C11", "verdict"] == "not supported"


# --- facts ----------------------------------------------------------------------------


def test_the_cost_of_the_layer_has_an_interval(world: MadeUp) -> None:
    """Folded it costs -1.8 % in the mean: noise, as the interval says."""
    share = {5: [0.97, 1.01, 0.98], 8: [0.97, 0.96, 1.0]}
    for depth, ratios in share.items():
        base = world.values[(f"baseline-{depth}", "original", *EAGER, *TOKEN)]
        us = {s: base[s] * ratio for s, ratio in enumerate(ratios)}
        world.put(f"proposed-{depth}", *TOKEN, us, "original", "folded")
    context = Context(world.results())
    found = heads_facts.overhead(context, [5, 8], TOKEN, "original", "folded")
    logs = np.log(np.array([share[5], share[8]])).mean(axis=0)
    due = np.exp(stats.ttest_1samp(logs, 0).confidence_interval())
    assert found.effect == pytest.approx(np.exp(logs.mean()))
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(due))
    assert found.ci_low < 1 < found.ci_high


def test_facts_of_the_text(world: MadeUp) -> None:
    results = world.results()
    context = Context(results)
    found = {fact.key: fact.value for fact in heads_facts.facts(context)}
    train = results.shards("train")
    per_document = train["tokens"] / train["documents"]
    tokens = results.trainings[0]["tokens"]
    due = min(tokens / per_document, train["documents"])
    assert found["heads.training.documents"] == pytest.approx(due)
    assert found["heads.original.tokens_per_parameter"] == 5.96
    # A difference that three such seeds find in four of five studies.
    left, right = (results.values(m, *TEXT) for m in ("proposed-2", "baseline-2"))
    spread = float((left - right).std())
    assert found["detectable.shallow"] == pytest.approx(3.264 * spread, rel=1e-3)
    assert {"detectable.cross", "detectable.contrast.A1-A0"} <= found.keys()


@pytest.mark.parametrize(("factor", "above"), [(1.0, 0), (1.2, 1)])
def test_more_than_the_ratio_of_depths_is_told_by_the_lower_end(
    world: MadeUp, factor: float, above: int
) -> None:
    deep = {s: 160 * factor * us for s, us in enumerate((1.0, 1.06, 0.97))}
    world.put("baseline-8", *TOKEN, deep, "original")
    world.put("baseline-5", *TOKEN, [98, 100, 99], "original")
    found = {f.key: f.value for f in heads_facts.facts(Context(world.results()))}
    assert found["heads.depth_alone.original"] > 8 / 5
    assert found["heads.depth_alone.original.above"] == above


# --- text metrics and their controls --------------------------------------------------


def with_metric(world: MadeUp, rising: bool, mismatched: float) -> pd.Series:
    """C8 with ROUGE-L on chat: 4, 8, 12 of 100 over the budgets if it rises."""
    scores = {"baseline-4__steps=25": 4.0, "baseline-4__steps=50": 8.0}
    scores |= {"baseline-4": 12.0, "proposed-2": 12.1}
    for index, (label, value) in enumerate(scores.items()):
        # Stored as a ratio, and judged on the scale of 0 to 100.
        values = ((value if rising else 12.0) + np.roll(SMALL, index)) / 100
        world.put(label, "chat", "rougeL", values)
        wrong = values - (mismatched + np.roll(SMALL, index + 1)) / 100
        world.put(label, "chat", "rougeL.mismatched", wrong)
    return table(world).loc["C8"]


def test_a_metric_that_passes_both_controls(world: MadeUp) -> None:
    row = with_metric(world, rising=True, mismatched=3.0)
    assert row["verdict"] == "supported"
    assert row["effect"] == pytest.approx(0.1)
    assert row["threshold"] == pytest.approx(0.25 * 4, abs=0.01)
    assert row["note"].startswith("1 of 16 metrics pass both controls: rougeL on chat")


@pytest.mark.parametrize(("rising", "mismatched"), [(False, 3.0), (True, 0.0)])
def test_a_metric_that_fails_a_control(
    world: MadeUp, rising: bool, mismatched: float
) -> None:
    row = with_metric(world, rising, mismatched)
    assert row["verdict"] == "not tested"
    assert row["note"] == "0 of 16 metrics pass both controls"


def test_text_metrics_without_shorter_schedules(tmp_path: Path) -> None:
    """Nothing was measured, which is not the same as a control that fails."""
    world = MadeUp(study_of(default_configuration()), tmp_path)
    note = table(world).loc["C8", "note"]
    assert note == "baselines at a quarter and half of the tokens: not in this study"


def test_one_seed_tests_nothing(world: MadeUp) -> None:
    world.first_units(1)
    verdicts = table(world)["verdict"]
    for name in ("C3", "C4", "C5", "C6", "C7", "C8", "C10", "C11", "A1-A0", "A5-A0"):
        assert verdicts[name] == "not tested", name
