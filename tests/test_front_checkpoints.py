"""Fronts, gains, interactions and replicates of checkpoints, computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from drawing import drawn
from made_up_checkpoints import (
    DEPTH,
    DOCUMENTS,
    TOGETHER,
    MadeUpCheckpoints,
    configuration,
    study_of_checkpoints,
    times,
)
from shallower.analysis import front, methods
from shallower.analysis.claims import elimination, skipping
from shallower.analysis.claims.base import Context
from shallower.analysis.front import facts, gain_over
from shallower.analysis.interventions import (
    against_curve,
    change,
    curve_of,
    measured,
)
from shallower.analysis.result_files import labelled
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.errors import UserError
from shallower.reporting.figures.front import points
from shallower.reporting.numbers import all_numbers
from shallower.reporting.tables import all_tables
from shallower.reporting.tables.study import with_labels
from shallower.study.study import ALL_CHECKPOINTS, load_study

NAME = "small-1.5b"
SKIP, ELIMINATE = f"{NAME}__skip=", f"{NAME}__eliminate="
CLAIMS = {claim.id: claim for claim in (*skipping.CLAIMS, *elimination.CLAIMS)}


def tables(context: Context) -> dict[str, pd.DataFrame]:
    return front.tables(context) | methods.tables(context)


def context_of(folder: Path, *names: str) -> Context:
    return Context(MadeUpCheckpoints(study_of_checkpoints(*names), folder).results())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A study of one checkpoint and nothing else, with every estimate of the front."""
    context = context_of(tmp_path_factory.mktemp("alone"), NAME)
    list(facts(context))
    return context


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same, with all tables of its analysis."""
    made = MadeUpCheckpoints(study_of_checkpoints(NAME), tmp_path_factory.mktemp("all"))
    made.results()
    write_analysis(made.folder)
    return Results.read(made.folder)


def nats(context: Context, label: str) -> np.ndarray:
    """By document, as it was written."""
    table = context.results.by_seed
    rows = table[(table["label"] == label) & (table["metric"] == "cross_entropy")]
    return rows.set_index("unit_id").loc[DOCUMENTS, "value"].to_numpy(float)


# --- the front ------------------------------------------------------------------------


def test_points_of_a_checkpoint(alone: Context) -> None:
    table = labelled(tables(alone)["pareto"]).set_index(["axis", "label"])
    assert set(table["scale"]) == {"pretrained"}
    row = table.loc[("first_token", f"{ELIMINATE}acc.2")]
    due = stats.ttest_1samp(nats(alone, f"{ELIMINATE}acc.2"), 0).confidence_interval()
    assert (row["quality_ci_low"], row["quality_ci_high"]) == pytest.approx(due)
    assert row["latency"] == pytest.approx(
        times(alone.study.names[f"{ELIMINATE}acc.2"])[1], rel=1e-3
    )
    assert (row["documents"], row["seeds"], row["sessions"]) == ("16", "", "0 1 2")
    # Early attention is slower and worse than late attention.
    assert not table.loc[("per_token", f"{SKIP}attention.first.1"), "on_front"]
    assert table.loc[("per_token", f"{SKIP}attention.last.2"), "on_front"]


def test_gain_over_left_out_blocks(alone: Context) -> None:
    """By hand: document by document, on the line between two knots; Satterthwaite."""
    label, data = f"{SKIP}attention.last.2", measured(alone.results, "per_token", NAME)
    curve = curve_of(alone.study, data, "blocks")
    assert curve == [NAME, *(f"{SKIP}block.last.{k}" for k in (1, 2, 3))]
    gain, _ = gain_over(alone, data, label, "blocks")
    us = {m: data.latency[m].to_numpy() for m in (label, *curve)}
    slow, fast, at = (us[m].mean() for m in (NAME, f"{SKIP}block.last.1", label))
    share = (at - fast) / (slow - fast)
    ends = nats(alone, NAME), nats(alone, f"{SKIP}block.last.1")
    each = nats(alone, label) - share * ends[0] - (1 - share) * ends[1]
    delay = us[label] - share * us[NAME] - (1 - share) * us[f"{SKIP}block.last.1"]
    error = (ends[0].mean() - ends[1].mean()) / (slow - fast) * delay
    parts = [stats.sem(each) ** 2, stats.sem(error) ** 2]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 15 + parts[1] ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    assert gain.effect == pytest.approx(each.mean())
    assert (gain.ci_low, gain.ci_high) == pytest.approx(
        (each.mean() - half, each.mean() + half)
    )
    assert (gain.n, gain.replicates, gain.scale) == (16, "documents", "pretrained")
    assert gain.method == "t over documents and sessions"
    # Found again by whoever looks it up, without the scale.
    asked = alone.results.placed(against_curve(label, "blocks", "per_token"))
    assert alone.used[asked.id] is gain


def test_a_speed_up_that_no_left_out_block_reaches_is_not_compared(
    alone: Context,
) -> None:
    data = measured(alone.results, "first_token", NAME)
    gain, _ = gain_over(alone, data, f"{ELIMINATE}acc.4", "blocks")
    assert "outside the curve" in gain.note


def test_each_checkpoint_has_a_plane_of_its_own(tmp_path: Path) -> None:
    context = context_of(tmp_path, "one", "two")
    found = labelled(tables(context)["pareto"])
    for name in ("one", "two"):
        own = found[(found["model"] == name) & (found["axis"] == "per_token")]
        assert name in set(own.loc[own["on_front"], "label"])
        data = measured(context.results, "per_token", name)
        assert {context.study.names[m].variant for m in data.models} == {name}
    assert measured(context.results, "per_token").models == []
    assert not context.study.pooled  # three are needed


def test_skipping_and_eliminating_add_up_or_do_not(written: Results) -> None:
    found = {e.left: e for e in written.estimates_of(kind="interaction")}
    both = f"{SKIP}attention.last.2__eliminate=acc.2"
    assert set(found) == {both, both.replace("last.2", "last.1")}
    context = Context(written)
    parts = [both, f"{SKIP}attention.last.2", f"{ELIMINATE}acc.2", NAME]
    each = [nats(context, label) for label in parts]
    due = stats.ttest_1samp(each[0] - each[1] - each[2] + each[3], 0)
    ends = due.confidence_interval()
    one = found[both]
    assert (one.ci_low, one.ci_high) == pytest.approx(tuple(ends), rel=1e-6)
    assert one.effect == pytest.approx(TOGETHER, abs=0.005)
    assert (one.scale, one.replicates, one.n) == ("pretrained", "documents", 16)
    assert written.fact("pretrained.interactions") == 2
    assert written.fact("pretrained.interactions.worse") == 2
    assert written.fact("front.interactions") == 0  # of trained models
    table = all_tables()["both"](written)
    assert f"{one.effect:.3f} & [{one.ci_low:.3f}, {one.ci_high:.3f}]" in table
    assert f"{(each[0] - each[3]).mean():.3f}" in table


# --- tables, figures and numbers ------------------------------------------------------


def test_costs_and_verdicts_of_a_checkpoint(written: Results) -> None:
    table = written.methods
    assert not any("only" in label for label in table.index)  # a profile, no method
    row = table.loc[f"{ELIMINATE}acc.2"]
    assert (row["cache_share"], row["predicted_prefill"]) == (0.5, 2.0)
    assert np.isnan(row["training_flops"])
    assert table.loc[f"{SKIP}attention.last.2", "verdict"] == "supported"
    assert table["verdict"].isna()[[NAME, f"{SKIP}block.last.2"]].all()
    shown = all_tables()["front_pretrained"](written)
    assert "skip attention of the last 2 & 100 & 18.66 & " in shown
    # The table of trained models has none of it.
    assert "not in this study" in all_tables()["front"](written)


def test_figure_of_a_checkpoint(written: Results) -> None:
    figure = drawn(written, "front_pretrained")
    axes = [each for row in figure.subfigs for each in row.axes]
    assert axes[0].get_xlabel() == "time per token (ms)"
    key = " ".join(text.get_text() for text in axes[1].texts).replace("\u00a0", " ")
    assert "skip attention of the last 2" in key
    table = points(written, "per_token", NAME).set_index("label")
    assert table.loc[f"{SKIP}block.last.2", "blocks"] == DEPTH - 2
    assert table.loc[f"{SKIP}attention.last.2", "blocks"] == 0
    assert points(written, "per_token").empty


def test_numbers_of_a_checkpoint(written: Results) -> None:
    found = all_numbers(written)
    assert (found["has.trained"], found["has.pretrained.front"]) == ("", "yes")
    assert found["pretrained.name"] == "small{-}1.5b"


def test_labels_in_notes_are_put_in_words(written: Results) -> None:
    found = with_labels(written, f"supported: {ELIMINATE}acc.2, 1.5; of {NAME} alone")
    words = f"{NAME}, eliminate ×2 by attention received"
    assert found == f"supported: \u201c{words}\u201d, 1.5; of {NAME} alone"


def test_every_claim_of_a_study_without_training_has_a_verdict(
    written: Results,
) -> None:
    table = written.claims.set_index("id")
    trained = table[(table["weights"] == "trained")]
    assert set(trained["source"]) == {"S1", "S2"}
    assert set(trained["verdict"]) == {"not tested"}
    assert trained["note"].str.startswith("trained models: not in this study").all()
    assert table.loc["C2", "verdict"] == "supported"  # arithmetic
    due = {
        "S3-2": "supported",
        "S3-2b": "supported",
        "S3-4": "not supported",
        "S3-5": "not supported",
        "S4-1": "supported",
        "S4-3": "supported",
        "S4-5": "supported",
        "S4-6": "not supported",
    }
    own = table.loc[list(due)]
    assert own["verdict"].to_dict() == due
    assert (own["scale"] == "pretrained").all()
    assert own["note"].str.endswith(f"of {NAME} alone").all()
    assert "1 of 6 skipped" in table.loc["S3-4", "note"]


def test_what_has_neither_training_nor_checkpoints_is_refused() -> None:
    with pytest.raises(UserError, match=r"experiments\.depth: missing"):
        load_study(configuration() | {"experiments": {}})


def test_trained_models_are_judged_as_without_a_checkpoint(
    analysed: Results, tmp_path: Path
) -> None:
    study = study_of_checkpoints(NAME, beside=analysed.study)
    made = MadeUpCheckpoints(study, tmp_path)
    made.results()
    write_analysis(tmp_path)
    both = Results.read(tmp_path)
    for name in ("pareto", "methods"):
        ours, theirs = both.table(name), analysed.table(name)
        ours = ours[~ours["model"].eq(NAME)].reset_index(drop=True)
        assert len(ours) < len(both.table(name))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    ours, theirs = (r.estimates.set_index("id").sort_index() for r in (both, analysed))
    # The noise of made up twins and of the original's size depends on what is beside.
    theirs = theirs[(theirs["scale"] == "study") & (theirs["family"] != "twin")]
    # All but what claims about interventions ask for, which are another model's now.
    shared = theirs.index.intersection(ours.index)
    assert len(shared) > 0.9 * len(theirs)
    ours, theirs = (t.loc[shared].drop(columns="role") for t in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs)
    keys = [f"front.{key}" for key in ("per_token.size", "interactions", "models")]
    assert [both.fact(key) for key in keys] == [analysed.fact(key) for key in keys]
    ours, theirs = (r.claims.set_index("id")["verdict"] for r in (both, analysed))
    plain = [claim for claim in theirs.index if claim[:2] not in ("S3", "S4")]
    assert ours[plain].equals(theirs[plain])
    assert both.claims.set_index("id").loc["S3-2", "scale"] == "pretrained"
    for make in all_tables().values():
        make(both)
    assert all_numbers(both)["has.trained"] == "yes"


# --- several checkpoints --------------------------------------------------------------


def test_three_checkpoints_are_the_replicates(tmp_path: Path) -> None:
    """By hand: each one's mean over documents, then Student's t over three."""
    names = ("one", "two", "three")
    made = MadeUpCheckpoints(study_of_checkpoints(*names), tmp_path)
    wanted = "skip=attention.last.2"
    for which, cost in enumerate((0.02, 0.08, 0.05)):
        made.nats(f"{names[which]}__{wanted}", 3.0 + cost, which=which)
    context = Context(made.results())
    assert context.study.intervened_on == ALL_CHECKPOINTS
    left = f"{ALL_CHECKPOINTS}__{wanted}"
    found = context.estimate(change(left, ALL_CHECKPOINTS))
    each = [
        nats(context, f"{name}__{wanted}").mean() - nats(context, name).mean()
        for name in names
    ]
    due = stats.ttest_1samp(each, 0)
    ends = due.confidence_interval()
    assert found.effect == pytest.approx(np.mean(each))
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(ends))
    assert found.p == pytest.approx(due.pvalue)
    assert (found.n, found.replicates, found.scale) == (3, "checkpoints", "pretrained")
    # Sure of each one alone, and not of others like them.
    assert found.ci_low < 0 < context.estimate(change(f"one__{wanted}", "one")).ci_low
    rows = {claim: CLAIMS[claim].row(context) for claim in CLAIMS}
    assert rows["S3-2"]["note"].endswith("over 3 checkpoints")
    assert rows["S3-2b"]["note"].endswith("of one alone")  # times are one's own
    assert rows["S4-1"]["verdict"] == "supported"
    assert rows["S4-5"]["verdict"] == "supported"


def test_coverage_over_checkpoints(tmp_path: Path) -> None:
    """Checkpoints' effects are drawn anew: the interval over them holds their mean.

    One over all documents of all of them, as if they were one's, hardly ever does.
    """
    random, names = np.random.default_rng(4), ("one", "two", "three", "four")
    made = MadeUpCheckpoints(study_of_checkpoints(*names), tmp_path)
    wanted, hits, naive = "skip=attention.last.1", 0, 0
    results = made.results()
    by_key = dict(results._by_key)
    key = ("pretrained", "trained", "eager", "continuation", "cross_entropy")
    for _ in range(300):
        effects, everything = random.normal(0.05, 0.03, 4), []
        for name, effect in zip(names, effects, strict=True):
            base = by_key[(name, *key)]
            noise = random.normal(0, 0.01, len(base))
            by_key[(f"{name}__{wanted}", *key)] = base + effect + noise
            everything += list(effect + noise)
        results.__dict__["_by_key"] = by_key | results._pooled(by_key)
        asked = change(f"{ALL_CHECKPOINTS}__{wanted}", ALL_CHECKPOINTS)
        found = Context(results).estimate(asked)
        hits += found.ci_low <= 0.05 <= found.ci_high
        ends = stats.ttest_1samp(everything, 0).confidence_interval()
        naive += ends.low <= 0.05 <= ends.high
    assert 0.92 < hits / 300 < 0.98
    assert naive / 300 < 0.5


def test_what_one_checkpoint_lacks_is_not_pooled() -> None:
    settings = configuration("one", "two", "three")
    settings["pretrained"]["models"] = {
        name: {**each, "sizes": each["sizes"] | {"depth": 6 - which}}
        for which, (name, each) in enumerate(settings["pretrained"]["models"].items())
    }
    settings["experiments"]["pretrained"].append(
        {"models": ["one"], "options": {"skip": ["attention.last.4"]}}
    )
    study = load_study(settings)
    assert f"{ALL_CHECKPOINTS}__skip=attention.last.3" in study.pooled
    assert f"{ALL_CHECKPOINTS}__skip=attention.last.4" not in study.pooled
    # A block's number means another place in each.
    assert not any("only" in label for label in study.pooled)


def test_a_step_to_a_larger_speed_up_is_judged_by_itself(tmp_path: Path) -> None:
    """S4-3 of a checkpoint: no document's noise counts, a better step does."""
    made = MadeUpCheckpoints(study_of_checkpoints(NAME), tmp_path)
    random = np.random.default_rng(2)
    key = ("pretrained", "trained", "eager", "continuation", "cross_entropy")
    for label in (NAME, *(f"{ELIMINATE}acc.{s}" for s in ("1.5", "2", "4"))):
        values = made.values[(label, *key)]
        noise = dict(zip(values, random.normal(0, 0.004, 16), strict=True))
        made.values[(label, *key)] = {d: v + noise[d] for d, v in values.items()}
    assert CLAIMS["S4-3"].judge(Context(made.results())).verdict == "supported"
    made.nats(f"{ELIMINATE}acc.4", 2.95)
    found = CLAIMS["S4-3"].judge(Context(made.results()))
    assert found.verdict == "not supported"
    assert "2 to 4" in found.note
