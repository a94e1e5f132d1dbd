"""Summaries and intervals, against numpy, scipy and hand-worked cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shallower.analysis.comparisons import compare, contrasts
from shallower.analysis.raw import latency_rows, quality_rows, training_rows
from shallower.analysis.sessions import judge, used
from shallower.analysis.statistics import (
    describe,
    holm,
    paired_t,
    ratio_interval,
    ratio_p,
    t_interval,
)
from shallower.analysis.summary import COLUMNS, by_unit, summarise

RUNS = [(m, s) for m in ("baseline-1", "proposed-1") for s in (0, 1)]
numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


@settings(max_examples=100, deadline=None)
@given(values=numbers)
def test_interval_is_scipys(values: list[float]) -> None:
    if np.std(values) == 0:
        return
    due = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((due.low, due.high), abs=1e-9)


def test_one_value_has_no_interval() -> None:
    assert np.isnan(t_interval([3.0])).all()


@settings(max_examples=100, deadline=None)
@given(values=numbers)
def test_description_is_numpys(values: list[float]) -> None:
    array = np.array(values)
    row = describe(array, np.ones(len(array)), np.arange(len(array)))
    assert row["n"] == len(values)
    assert row["mean"] == pytest.approx(np.mean(array), abs=1e-9)
    assert row["median"] == pytest.approx(np.median(array), abs=1e-9)
    assert row["p5"] == pytest.approx(np.quantile(array, 0.05), abs=1e-9)
    assert row["p95"] == pytest.approx(np.quantile(array, 0.95), abs=1e-9)
    assert row["std"] == pytest.approx(np.std(array, ddof=1), abs=1e-9)


def test_weights_and_units() -> None:
    """Two seeds of two documents with 1 and 3 tokens: worked by hand."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    weights = np.array([1.0, 3.0, 1.0, 3.0])
    row = describe(values, weights, np.array([0, 0, 1, 1]))
    assert row["mean"] == pytest.approx((1 + 6 + 3 + 12) / 8)
    # Seed means 1.75 and 3.75: mean 2.75, standard error 1, t(1) = 12.706.
    assert row["ci_low"] == pytest.approx(2.75 - 12.7062, abs=1e-3)
    assert row["ci_high"] == pytest.approx(2.75 + 12.7062, abs=1e-3)


def test_ratio_of_means() -> None:
    ratio, low, high = ratio_interval([10.0, 30.0], [5.0, 10.0])
    assert ratio == pytest.approx(40 / 15)  # not the mean of 2 and 3
    assert low < ratio < high
    same = ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert same == pytest.approx((2.0, 2.0, 2.0))


def test_ratio_interval_covers() -> None:
    """Simulated with five noisy sessions: 95 % intervals hold the true ratio."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        drift = draw.normal(1, 0.05, 5)  # common to both, as in one session
        a = 1.4 * drift * draw.normal(1, 0.02, 5)
        b = drift * draw.normal(1, 0.02, 5)
        _, low, high = ratio_interval(a, b)
        covered += low <= 1.4 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    # No p value is no comparison, and certainly not p = 0.
    assert np.isnan(holm([float("nan")])[0])
    assert holm([0.03, float("nan")])[0] == 0.03


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(0.9, 1.1))
def test_a_ratios_p_and_interval_agree(seed: int, shift: float) -> None:
    draw = np.random.default_rng(seed)
    a, b = shift * draw.normal(1, 0.05, 4), draw.normal(1, 0.05, 4)
    ratio, low, high = ratio_interval(a, b)
    assert (ratio_p(ratio, low, 4) < 0.05) == (not low <= 1 <= high)


def test_paired_p_is_scipys() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.5, 2.5, 3.0])
    assert paired_t(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert np.isnan(paired_t([1.0]))


# --- raw rows -----------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two models with two seeds each, small enough to work out by hand."""
    for model, shift in (("baseline-1", 0.0), ("proposed-1", -0.5)):
        for seed in (0, 1):
            rows = [
                ("text", "d", "x", "cross_entropy", 3.0 + shift + seed, 10.0),
                ("text", "d", "y", "cross_entropy", 5.0 + shift + seed, 30.0),
                ("qa", "g", "q", "fuzzy", 40.0 + seed, 1.0),
            ]
            columns = ["dataset", "group", "sample", "metric", "value", "weight"]
            path = tmp_path / "evaluations" / model / f"seed{seed}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows, columns=columns).assign(form="trained").to_parquet(path)
            run = tmp_path / "runs" / model / f"seed{seed}"
            run.mkdir(parents=True)
            losses = pd.DataFrame({"iteration": range(20), "loss": range(20)})
            losses.to_csv(run / "losses.csv")
            facts = {"seconds": 2.0, "tokens": 100 + seed}
            (run / "training.json").write_text(json.dumps(facts))
    return tmp_path


def test_perplexity_is_exp_of_the_token_weighted_mean(results: Path) -> None:
    rows = quality_rows(results / "evaluations", RUNS[:2])
    values = rows.loc[rows["metric"] == "perplexity", "value"]
    nats = (3 * 10 + 5 * 30) / 40
    assert list(values) == pytest.approx([np.exp(nats), np.exp(nats + 1)])


def test_summary_of_quality(results: Path) -> None:
    summary = summarise(quality_rows(results / "evaluations", RUNS))
    assert list(summary.columns) == COLUMNS
    row = (
        summary[(summary["model"] == "proposed-1")]
        .set_index("metric")
        .loc["cross_entropy"]
    )
    assert row["mean"] == pytest.approx(4.5 - 0.5 + 0.5)
    assert row["n"] == 4
    assert row["n_seeds"] == 2
    assert row["std"] == pytest.approx(np.std([2.5, 4.5, 3.5, 5.5], ddof=1))
    assert (row["variant"], row["depth"]) == ("proposed", 1)
    units = summary.set_index("metric")["unit"]
    assert units["cross_entropy"].iloc[0] == "nats"
    assert units["fuzzy"].iloc[0] == "percent"


def test_final_loss_is_the_mean_of_the_last_tenth(results: Path) -> None:
    rows = training_rows(results / "runs", RUNS[:2]).set_index("metric")
    assert list(rows.loc["training_loss", "value"]) == [18.5, 18.5]
    assert list(rows.loc["tokens_per_second", "value"]) == [50.0, 50.5]


def latency_table(per_token: dict[str, float]) -> pd.DataFrame:
    """Requests of four tokens: prefill 100, then `per_token` microseconds each."""
    rows = [
        {
            "model": model,
            "seed": 0,
            "form": "trained",
            "mode": "eager",
            "scale": "study",
            "workload": "fixed",
            "session": session,
            "repeat": repeat,
            "token_index": index,
            "nanoseconds": 1000 * (us * (1 + 0.01 * session) if index else 100.0),
        }
        for model, us in per_token.items()
        for session in range(3)
        for repeat in range(2)
        for index in range(4)
    ]
    return pd.DataFrame(rows)


def test_latency_metrics_by_hand() -> None:
    rows = latency_rows(latency_table({"baseline-1": 10.0}))
    first = rows[(rows["unit_id"] == 0) & (rows["repeat"] == 0)].set_index("metric")
    assert first["value"].to_dict() == pytest.approx(
        {
            "time_to_first_token": 100.0,
            "time_per_output_token": 10.0,
            "generation_loop": 130.0,
            "time_per_generated_token": 32.5,
            "generated_tokens": 4.0,
        }
    )


def test_one_token_has_no_time_per_output_token() -> None:
    table = latency_table({"baseline-1": 10.0})
    rows = latency_rows(table[table["token_index"] == 0])
    assert "time_per_output_token" not in set(rows["metric"])


def test_every_seed_is_listed(results: Path) -> None:
    rows = quality_rows(results / "evaluations", RUNS[:2])
    units = by_unit(rows)
    nats = units[units["metric"] == "cross_entropy"].set_index("unit_id")["value"]
    assert nats.to_dict() == pytest.approx({0: 4.5, 1: 5.5})


def test_a_sessions_time_is_its_median() -> None:
    """One request that was held up does not make a model slow."""
    table = latency_table({"baseline-1": 10.0})
    more = table[table["session"] == 0].assign(repeat=lambda t: t["repeat"] + 2)
    held_up = more["nanoseconds"].where(more["repeat"] == 2, 1e9)
    units = by_unit(latency_rows(pd.concat([table, more.assign(nanoseconds=held_up)])))
    times = units[units["metric"] == "time_per_output_token"].set_index("unit_id")
    assert times.loc[0, "value"] == pytest.approx(10.0)


# --- comparisons --------------------------------------------------------------------


def test_contrasts() -> None:
    models = ["baseline-5", "baseline-8", "proposed-5", "proposed-8"]
    families = contrasts([*models, "baseline-8__twin=1"])
    assert families["layer"] == [
        ("proposed-5", "baseline-5"),
        ("proposed-8", "baseline-8"),
    ]
    assert ("proposed-5", "baseline-8") in families["depth"]
    assert families["twin"] == [("baseline-8__twin=1", "baseline-8")]


def test_a_new_variant_is_compared_too() -> None:
    models = ["baseline-5", "baseline-8", "mine-5", "mine-8"]
    families = contrasts(models)
    assert families["layer"] == [("mine-5", "baseline-5"), ("mine-8", "baseline-8")]
    assert ("mine-5", "baseline-8") in families["depth"]
    assert ("baseline-5", "baseline-8") in families["depth"]


def test_differences_are_paired_by_seed(results: Path) -> None:
    rows = quality_rows(results / "evaluations", RUNS)
    table = compare(by_unit(rows))
    row = table[table["metric"] == "cross_entropy"].iloc[0]
    assert (row["left"], row["right"]) == ("proposed-1", "baseline-1")
    # Seeds differ by 1 nat, but both pairs by exactly -0.5.
    assert row["effect"] == row["ci_low"] == row["ci_high"] == pytest.approx(-0.5)


def test_time_ratios() -> None:
    rows = latency_rows(latency_table({"baseline-1": 20.0, "proposed-1": 22.0}))
    table = compare(by_unit(rows))
    row = table[table["metric"] == "time_per_output_token"].iloc[0]
    assert row["effect"] == pytest.approx(1.1)
    assert row["unit"] == "ratio"
    assert row["n"] == 3


# --- sessions -----------------------------------------------------------------------


def sessions(twin: list[float], neighbours: list[float]) -> pd.DataFrame:
    """One session per factor by which the twin is slower, judged."""
    table = latency_table({"baseline-1": 10.0, "baseline-1__twin=1": 10.0})
    table = table[table["session"] < len(twin)]
    slow = table["session"].map(dict(enumerate(twin)))
    slow = slow.where(table["model"].str.endswith("twin=1"), 1.0)
    noise = 1 + 0.001 * table["repeat"] * table["model"].str.endswith("twin=1")
    busy = table["session"].map(dict(enumerate(neighbours)))
    times = table["nanoseconds"] * slow * noise
    return judge(table.assign(nanoseconds=times, neighbours=busy))


def test_quiet_sessions_are_used() -> None:
    table = sessions([1.0, 1.01, 1.0], [0.0, 0.1, 0.2])
    assert not table["disturbed"].any()
    assert used(table) == [0, 1, 2]
    assert table["ratio"].tolist() == pytest.approx([1.0005, 1.0105, 1.0005], abs=1e-4)


def test_disturbed_sessions_are_left_out() -> None:
    assert used(sessions([1.0, 1.2, 1.0], [0.0, 0.0, 0.0])) == [0, 2]
    assert used(sessions([1.0, 1.0, 1.0], [0.0, 0.0, 0.5])) == [0, 1]


def test_too_few_quiet_sessions_keep_all() -> None:
    table = sessions([1.3, 1.2, 1.0], [0.0, 0.0, 0.0])
    assert table["disturbed"].tolist() == [True, True, False]
    assert used(table) == [0, 1, 2]
