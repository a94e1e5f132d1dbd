"""The estimate layer: what is compared, by which numbers, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import FFNS, SESSION, MadeUp, default_configuration, grid, study_of
from shallower.analysis.claims.base import Context
from shallower.analysis.estimates import (
    Comparison,
    Estimate,
    adjusted,
    estimate,
    write_estimates,
)
from shallower.analysis.results import Results
from shallower.analysis.statistics import crossed_interval, holm
from shallower.analysis.write import comparisons, pairs_of
from shallower.study.names import twin

TOKEN = ("fixed", "time_per_output_token")
PAIR = ("proposed-2", "baseline-2")


@pytest.fixture
def world(tmp_path: Path) -> MadeUp:
    return MadeUp(study_of(default_configuration()), tmp_path)


# --- which ----------------------------------------------------------------------------


def test_families_of_the_depth_experiment(world: MadeUp) -> None:
    study = world.study
    families = pairs_of(study, "study")
    assert families["layer"] == [(f"proposed-{d}", f"baseline-{d}") for d in (2, 3, 4)]
    assert families["depth"] == [
        *(("proposed-2", "baseline-4"), ("baseline-2", "baseline-4")),
    ]
    assert families["twin"] == [(twin("baseline-4"), "baseline-4")]
    assert ("proposed-5", "baseline-8") in pairs_of(study, "original")["depth"]


def test_other_ffns_and_models_with_options_have_families_of_their_own(
    tmp_path: Path,
) -> None:
    parts = {"ffn": FFNS["ffn"], "t5": FFNS["t5"], "head": [grid("silu", 3)]}
    study = study_of(default_configuration(), **parts)
    families = pairs_of(study, "study")
    assert ("silu-3", "baseline-3") in families["layer"]
    assert len(families["layer"]) == 4
    made = list(comparisons(study, MadeUp(study, tmp_path).results()))
    ffns = {(c.left, c.right) for c in made if c.family == "ffn"}
    assert ffns == set(study.pairs["ffn"])
    assert not any("t5" in c.left for c in made)


def test_pre_registered_contrasts_that_no_family_has(tmp_path: Path) -> None:
    test = {"test": "superiority"}
    known = {"id": "a", "left": "proposed-2", "right": "baseline-2"} | test
    new = {"id": "b", "left": "proposed-2", "right": "baseline-3"} | test
    study = study_of(default_configuration(), [known, new])
    made = list(comparisons(study, MadeUp(study, tmp_path).results()))
    assert {(c.left, c.right) for c in made if c.family == "contrast"} == {
        ("proposed-2", "baseline-3")
    }


def test_a_speed_up_has_the_deep_model_on_the_left(world: MadeUp) -> None:
    made = list(comparisons(world.study, world.results()))
    depth = [c for c in made if (c.family, c.scale) == ("depth", "study")]
    times = {(c.left, c.right) for c in depth if c.kind == "ratio"}
    assert times == {("baseline-4", "proposed-2"), ("baseline-4", "baseline-2")}
    nats = {(c.left, c.right) for c in depth if c.kind == "difference"}
    assert nats == {(right, left) for left, right in times}


# --- by which numbers -----------------------------------------------------------------


def test_differences_are_paired_by_seed(world: MadeUp) -> None:
    world.put("baseline-2", "text", "cross_entropy", {0: 4.0, 1: 5.0, 2: 6.0, 9: 1.0})
    world.put("proposed-2", "text", "cross_entropy", {0: 3.5, 1: 4.4, 2: 5.6})
    found = estimate(world.results(), Comparison(*PAIR))
    due = stats.ttest_rel([3.5, 4.4, 5.6], [4.0, 5.0, 6.0])
    assert (found.n, found.replicates, found.unit) == (3, "seeds", "nats")
    assert found.effect == pytest.approx(-0.5)
    assert found.p == pytest.approx(due.pvalue)
    interval = due.confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(interval))
    narrow = estimate(world.results(), Comparison(*PAIR).at(0.9))
    assert narrow.ci_low > found.ci_low
    assert narrow.id != found.id


def test_times_are_ratios_of_the_means_of_sessions(world: MadeUp) -> None:
    world.put("baseline-2", *TOKEN, [20.0, 10.0])
    world.put("proposed-2", *TOKEN, [22.0, 12.0])
    found = estimate(world.results(), Comparison(*PAIR, *TOKEN, "ratio"))
    assert found.effect == pytest.approx(34 / 30)
    assert (found.n, found.replicates, found.unit) == (2, "sessions", "ratio")


def test_a_form_that_was_not_measured_is_the_trained_one(world: MadeUp) -> None:
    world.put("baseline-2", *TOKEN, [20.0, 20.0])
    world.put("proposed-2", *TOKEN, [30.0, 30.0])
    world.put("proposed-2", *TOKEN, [10.0, 10.0], form="folded")
    ratio = Comparison(*PAIR, *TOKEN, "ratio")
    for form, due in (("trained", 1.5), ("folded", 0.5), ("deployed", 0.5)):
        found = estimate(world.results(), replace(ratio, form=form))
        assert found.effect == pytest.approx(due), form


def test_what_was_not_measured_is_no_estimate(world: MadeUp, tmp_path: Path) -> None:
    missing = Comparison("proposed-2", "silu-2")
    results = world.results()
    found = estimate(results, missing)
    assert not found.exists
    write_estimates(tmp_path / "estimates.csv", [found])
    assert results.estimates.empty
    assert np.isnan(results.estimate(missing).effect)


def test_the_interval_over_seeds_and_documents(world: MadeUp) -> None:
    """The made-up documents differ by the same in all models: as over seeds alone."""
    context = Context(world.results())
    found = context.difference(*PAIR)
    tables = [
        context.results.documents(side).pivot(
            index="seed", columns="sample", values="value"
        )
        for side in PAIR
    ]
    weights = np.array([10.0, 20.0, 30.0, 40.0])
    differences = (tables[0] - tables[1]).to_numpy()
    _, low, high, _ = crossed_interval(differences, weights)
    assert (found.crossed_low, found.crossed_high) == (low, high)
    assert found.effect == pytest.approx(-0.2)
    other = context.difference(*PAIR, dataset="train", metric="training_loss")
    assert np.isnan(other.crossed_low)


def test_holm_counts_one_variants_comparisons_over_depths() -> None:
    def made(left: str, p: float, **more: Any) -> Estimate:
        asked = Comparison(left, "b", **({"family": "layer"} | more))
        return replace(Estimate.missing(asked), n=3, p=p)

    some = [made("x-1", 0.01), made("x-2", 0.02), made("y-1", 0.03)]
    some += [made("x-3", 0.001, level=0.9), made("x-4", 0.001, family="depth")]
    variants = {e.left: e.left[0] for e in some}
    found = [e.p_holm for e in adjusted(some, variants)]
    assert found[:3] == [*holm([0.01, 0.02]), 0.03]
    assert np.isnan(found[3])  # one-sided: the same comparison again
    assert found[4] == 0.001


# --- what is written ------------------------------------------------------------------


def test_an_estimate_survives_its_file(world: MadeUp) -> None:
    results = world.results()
    asked = Comparison(*PAIR, family="layer")
    found = Context(results).estimate(asked)
    write_estimates(results.directory / "estimates.csv", [found, found])
    assert len(results.estimates) == 1
    again = results.estimate(Comparison(*PAIR))
    assert again.effect == pytest.approx(found.effect)
    assert (again.family, again.method) == (found.family, found.method)
    assert results.estimates_of(family="layer") == [again]


def test_every_verdict_rests_on_estimates_of_the_table(analysed: Results) -> None:
    """A claim's interval is that of a row, or a multiple of it (percent, a share)."""
    rows, claims = analysed.estimates, analysed.claims
    assert claims["id"].is_unique
    assert rows["id"].is_unique
    ends = rows[["ci_low", "ci_high"]].div(rows["effect"], axis=0).to_numpy()
    for row in claims.dropna(subset=["ci_low"]).to_dict("records"):
        if row["effect"] == 0:
            continue
        own = np.array([row["ci_low"], row["ci_high"]]) / row["effect"]
        assert np.isclose(ends, own, rtol=1e-6).all(axis=1).any(), row["id"]


def test_facts_are_unique_and_count_verdicts(analysed: Results) -> None:
    facts = pd.read_csv(analysed.directory / "facts.csv")
    assert facts["key"].is_unique
    claims = analysed.claims[analysed.claims["source"] == "S1"]
    own = claims[claims["registered"].isna()]
    assert analysed.fact("claims.S1") == len(own)
    supported = (own["verdict"] == "supported").sum()
    assert analysed.fact("claims.S1.supported") == supported


def test_a_study_of_depth_alone_is_analysed(depth_alone: Results) -> None:
    claims = depth_alone.claims.set_index("id")["verdict"]
    assert claims["C10"] == "supported"
    assert claims["C3"] == claims["C5"] == "not tested"
    assert depth_alone.claims.set_index("id")["note"]["C5"].startswith("gate: rate (")
    assert depth_alone.learning_rates.empty


def test_sessions_are_common_to_all_models() -> None:
    """So that ratios of the made-up times are exact in the mean."""
    assert sum(SESSION.values()) == pytest.approx(len(SESSION))
