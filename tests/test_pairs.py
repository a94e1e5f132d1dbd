"""Any two models or runs side by side: values, differences, intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from shallower.analysis.estimates import Comparison
from shallower.analysis.pairs import (
    Side,
    compare_models,
    compare_runs,
    weighted_interval,
)
from shallower.analysis.results import Results
from shallower.errors import UserError


def scored(
    folder: Path, model: str, values: np.ndarray, weights: np.ndarray, seed: int = 0
) -> Side:
    """A run that was scored on documents, and on the answers to questions."""
    usual = {"intervention": "", "form": "trained", "group": ""}
    rows = [
        {**usual, "dataset": "text", "sample": f"t{n}", "metric": "cross_entropy"}
        | {"value": value, "weight": weight}
        for n, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]
    rows += [
        {**row, "dataset": "qa", "metric": "rougeL", "weight": 1.0} for row in rows[:5]
    ]
    # Neither another form nor an intervention may count.
    rows += [{**rows[0], "form": "folded", "value": 99.0}]
    rows += [{**rows[0], "intervention": "skip=ffn.last.1", "value": 99.0}]
    path = folder / "evaluations" / model / f"seed{seed}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return Side(folder, model, seed)


def test_equal_weights_give_the_paired_t_interval(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    left, right = draw.normal(4, 1, 30), draw.normal(4.5, 1, 30)
    ones = np.ones(30)
    sides = scored(tmp_path, "a-2", left, ones), scored(tmp_path, "b-2", right, ones)
    row = compare_runs(*sides).iloc[0]
    due = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert (row["dataset"], row["metric"], row["n"]) == ("text", "cross_entropy", 30)
    assert row["left"] == pytest.approx(left.mean())
    assert row["effect"] == pytest.approx((left - right).mean())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((due.low, due.high))


def test_weighted_intervals_cover_the_weighted_mean() -> None:
    """Of 2,000 samples from a known population, about 95 % of intervals hold it."""
    draw = np.random.default_rng(1)
    weights = draw.integers(5, 200, 100_000).astype(float)
    values = 0.1 + draw.normal(0, 1, 100_000) + 20 / weights
    truth, inside = np.average(values, weights=weights), 0
    for _ in range(2000):
        chosen = draw.integers(0, 100_000, 60)
        low, high = weighted_interval(values[chosen], weights[chosen])
        inside += low < truth < high
    assert 0.93 < inside / 2000 < 0.97


def test_cross_entropy_is_weighted_by_tokens_and_comes_first(tmp_path: Path) -> None:
    weights = np.array([1.0, 99.0, 50.0, 50.0, 10.0])
    left, right = np.array([9.0, 1, 2, 3, 4]), np.array([1.0, 2, 2, 3, 5])
    sides = [
        scored(tmp_path, m, v, weights) for m, v in (("a-2", left), ("b-2", right))
    ]
    table = compare_runs(*sides)
    assert list(table["metric"]) == ["cross_entropy", "rougeL"]
    assert table.loc[0, "left"] == pytest.approx((left * weights).sum() / 210)
    assert table.loc[0, "effect"] == pytest.approx((8 - 99 - 10) / 210)
    assert table.loc[1, "effect"] == pytest.approx((left - right).mean())


def test_runs_of_two_studies_are_compared_on_common_samples(tmp_path: Path) -> None:
    weights = np.ones(6)
    one = scored(tmp_path / "one", "a-2", np.arange(6.0), weights)
    other = scored(tmp_path / "other", "a-2", np.arange(6.0)[:4] - 1, weights[:4], 3)
    row = compare_runs(one, other).iloc[0]
    assert (row["n"], row["effect"]) == (4, 1.0)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    one = scored(tmp_path, "a-2", np.ones(6), np.ones(6))
    other = scored(tmp_path, "b-2", np.ones(6), np.full(6, 2.0))
    with pytest.raises(UserError, match="different tokenizers"):
        compare_runs(one, other)
    with pytest.raises(UserError, match="not scored yet"):
        compare_runs(one, Side(tmp_path, "c-2", 0))


def pair_of(results: Results) -> tuple[str, str]:
    depth = results.study.depths[-1]
    return f"proposed-{depth}", f"baseline-{depth}"


def test_models_are_compared_as_the_paper_does(analysed: Results) -> None:
    """Every difference and ratio that `estimates.csv` has of the pair is the same."""
    left, right = pair_of(analysed)
    table = compare_models(analysed, left, right)
    checked = 0
    for row in table.to_dict("records"):
        asked = Comparison(
            *(left, right, row["dataset"], row["metric"], row["kind"], row["scale"])
        )
        due = analysed.estimate(asked)
        if due.exists:
            found = row["effect"], row["ci_low"], row["ci_high"], row["n"]
            assert found == pytest.approx((due.effect, due.ci_low, due.ci_high, due.n))
            checked += 1
    assert checked >= 1
    assert table.loc[0, ["dataset", "metric"]].tolist() == ["text", "cross_entropy"]
    assert {"difference", "ratio"} == set(table["kind"])


def test_values_beside_a_difference_are_the_summarys(analysed: Results) -> None:
    left, right = pair_of(analysed)
    table = compare_models(analysed, left, right)
    row = table.iloc[0]
    means = [
        analysed.values(label, "text", "cross_entropy").mean()
        for label in (left, right)
    ]
    assert [row["left"], row["right"]] == pytest.approx(means)
    assert row["effect"] == pytest.approx(means[0] - means[1])


def test_a_model_that_is_not_there(analysed: Results) -> None:
    with pytest.raises(UserError, match="nothing-5: no such model"):
        compare_models(analysed, "nothing-5", "baseline-5")
