"""Verdicts on the original's claims, from studies whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shallower.analysis.claims import COLUMNS, claims, tokens_to_target
from shallower.analysis.evidence import Evidence
from shallower.analysis.published import TABLE_1
from shallower.config import load_study

SEEDS = (0, 1, 2)
STEPS = 30  # of the default study
NOISE = np.array([-0.004, 0.001, 0.003])  # over the seeds, of differences
SHARED = np.array([0.3, -0.2, 0.0])  # over the seeds, common to all models


def quality(model: str) -> float:
    """A world in which depth pays and five proposed blocks match eight."""
    variant, _, depth = model.partition("__")[0].rpartition("-")
    nats = 4.0 - 0.08 * (int(depth) - 5)
    nats -= {"proposed": 0.25, "silu": 0.25, "silu_even": 0.35}.get(variant, 0.0)
    steps = model.partition("__steps=")[2]
    return nats + 0.5 * math.log2(STEPS / int(steps)) if steps else nats


def rows_of(model: str, dataset: str, metric: str, values: np.ndarray, **more: str):
    labels = {"scale": "study", "form": "trained", "mode": "eager"} | more
    return [
        labels
        | {"model": model, "dataset": dataset, "metric": metric}
        | {"unit": "nats", "unit_id": unit, "value": value}
        for unit, value in enumerate(values)
    ]


@pytest.fixture
def evidence(configuration: dict, tmp_path: Path) -> Evidence:
    study = load_study(configuration)
    rows, counts = [], []
    for index, model in enumerate(study.models):
        values = quality(model) + SHARED + np.roll(NOISE, index)
        rows += rows_of(model, "text", "cross_entropy", values)
        rows += rows_of(model, "train", "training_loss", values - 0.1)
        counts.append((model, "study", 1_500_000))
    for model in study.depth_models:
        variant, depth = model.split("-")
        steps = 100.0 * int(depth) * (1.03 if variant == "proposed" else 1.0)
        rows += rows_of(model, "step", "step_time", steps + 5 * NOISE)
        write_losses(tmp_path / "runs", model, -0.2 if variant == "proposed" else 0.0)
    for variant, published in TABLE_1.items():
        for depth, count in published.items():
            model = f"{variant}-{depth}"
            counts.append((model, "paper", count))
            times = 1e4 * (2 + 0.9 * depth) * (1 + NOISE)
            fixed = ("fixed", "time_per_output_token", times)
            rows += rows_of(model, *fixed, scale="paper")
            rows += rows_of(model, *fixed, scale="paper", form="folded")
    for metric, error in (("fold_error_float64", 1e-14), ("fold_error_float32", 1e-6)):
        rows += rows_of("proposed-5", "text", metric, np.full(3, error))
    table = pd.DataFrame(counts, columns=["model", "scale", "parameters_trained"])
    study_block = 128**2 // 8 + 128
    for depth in study.depths:
        chosen = (table["model"] == f"proposed-{depth}") & (table["scale"] == "study")
        table.loc[chosen, "parameters_trained"] += depth * study_block
    return Evidence(study, pd.DataFrame(rows), table, tmp_path / "runs")


def write_losses(runs: Path, model: str, shift: float) -> None:
    """Losses that fall by .01 an iteration; a shift of -.2 is 20 iterations."""
    table = pd.DataFrame({"iteration": range(1, 101)})
    table["loss"] = 5.0 + shift - 0.01 * table["iteration"]
    for seed in SEEDS:
        path = runs / model / f"seed{seed}" / "losses.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)


def judged(evidence: Evidence) -> pd.DataFrame:
    table = claims(evidence)
    assert list(table.columns) == COLUMNS
    return table.set_index("id")


def change(
    evidence: Evidence, chosen: Callable[[pd.DataFrame], pd.Series], add: float
) -> Evidence:
    units = evidence.units.copy()
    units.loc[chosen(units), "value"] += add
    return Evidence(evidence.study, units, evidence.parameters, evidence.runs)


def test_a_world_in_which_most_is_true(evidence: Evidence) -> None:
    table = judged(evidence)
    due = {
        **{f"C{number}": "yes" for number in range(1, 12)},
        "C3": "no",  # the linear layer alone is equivalent to none
        "C8": "open",  # no text metric was measured
        "fold": "yes",
        "A1-A0": "yes",
        "A4-A1": "yes",
        "A5-A0": "yes",
        "A12-A1": "yes",
    }
    words = {"yes": "supported", "no": "not supported", "open": "not tested"}
    verdicts = table.loc[table["source"] == "S1", "verdict"]
    assert verdicts.to_dict() == {k: words[v] for k, v in due.items()}
    assert table.loc["C5", "effect"] == pytest.approx(-0.25, abs=0.01)
    assert table.loc["C7", "effect"] == pytest.approx(9.2 / 6.5)
    assert list(table["status"].unique()) == [
        *("claim of the original", "identity", "claim of the thesis"),
        *("claim on skipping", "claim on elimination"),
        "pre-registered",
    ]


def test_one_wrong_count_refutes_table_1(evidence: Evidence) -> None:
    rows = evidence.parameters["model"] == "proposed-7"
    evidence.parameters.loc[rows, "parameters_trained"] += 1
    table = judged(evidence)
    # The model itself, and what it has more than the baseline; at both scales.
    assert table.loc["C1", "effect"] == 2
    assert table.loc["C2", "effect"] == 2
    assert set(table.loc[["C1", "C2"], "verdict"]) == {"not supported"}


def test_each_means_each(evidence: Evidence) -> None:
    """One depth at which the layer does harm refutes 'at every depth'."""
    worse = change(evidence, lambda u: u["model"] == "proposed-7", 0.45)
    table = judged(worse)
    assert table.loc["C5", "verdict"] == "not supported"
    assert table.loc["C5", "effect"] == pytest.approx(0.2, abs=0.01)
    assert "not supported: 7 blocks" in table.loc["C5", "note"]


def test_linear_layers_that_help_in_training(evidence: Evidence) -> None:
    better = change(evidence, lambda u: u["model"] == "linear-5", -0.1)
    assert judged(better).loc["C3", "verdict"] == "supported"
    vague = change(evidence, lambda u: u["model"] == "linear-5", 0.0)
    rows = (vague.units["model"] == "linear-5") & (vague.units["unit_id"] == 0)
    vague.units.loc[rows, "value"] += 0.2
    assert judged(vague).loc["C3", "verdict"] == "inconclusive"


def test_without_depth_that_pays_nothing_is_tested(evidence: Evidence) -> None:
    """Where deeper baselines are worse, 'no worse than deeper' says nothing."""

    def deeper_baselines(units: pd.DataFrame) -> pd.Series:
        return units["model"].isin(["baseline-6", "baseline-7", "baseline-8"])

    table = judged(change(evidence, deeper_baselines, 0.5))
    assert table.loc["C6", "verdict"] == "not tested"
    assert "no assay sensitivity" in table.loc["C6", "note"]


def test_the_margin_is_what_more_tokens_gain(evidence: Evidence) -> None:
    # Halving the tokens costs .5 nats, so 10 % more gain .5 log2(1.1) of that.
    assert evidence.margin == pytest.approx(0.5 * math.log2(1.1), abs=1e-3)
    flat = change(evidence, lambda u: u["model"] == "baseline-8__steps=15", -0.5)
    assert flat.margin == 0.01


def test_too_fast_needs_an_explanation(evidence: Evidence) -> None:
    def deep(units: pd.DataFrame) -> pd.Series:
        return (units["model"] == "baseline-8") & (units["scale"] == "paper")

    assert judged(change(evidence, deep, 3e4)).loc["C7", "verdict"] == "not supported"


def test_a_costly_layer(evidence: Evidence) -> None:
    def steps(units: pd.DataFrame) -> pd.Series:
        return (units["model"] == "proposed-5") & (units["dataset"] == "step")

    table = judged(change(evidence, steps, 60))
    assert table.loc["C10", "verdict"] == "not supported"
    assert "3 of 4 depths" in table.loc["C10", "note"]


def test_tokens_to_target_by_hand(evidence: Evidence) -> None:
    # The smoothed losses are parallel lines, twenty iterations apart.
    assert tokens_to_target(evidence, 5, 0) == pytest.approx(0.80)
    write_losses(evidence.runs, "proposed-5", 0.3)
    assert tokens_to_target(evidence, 5, 0) == 1.0


def test_deeper_is_judged_at_the_largest_budget(evidence: Evidence) -> None:
    early = change(evidence, lambda u: u["model"] == "baseline-8__steps=8", 0.9)
    assert judged(early).loc["C11", "verdict"] == "supported"
    late = change(evidence, lambda u: u["model"] == "baseline-8", 0.9)
    assert judged(late).loc["C11", "verdict"] == "not supported"


# --- text metrics and their controls --------------------------------------------------


def with_metric(evidence: Evidence, rising: bool, mismatched: float) -> Evidence:
    """ROUGE-L on chat: 4, 8, 12 of 100 over the budgets if it rises."""
    rows = []
    models = {"baseline-8__steps=8": 4.0, "baseline-8__steps=15": 8.0}
    models |= {"baseline-8": 12.0, "proposed-5": 12.1}
    for index, (model, value) in enumerate(models.items()):
        values = (value if rising else 12.0) + np.roll(NOISE, index)
        # Stored as a ratio, and judged on the scale of 0 to 100.
        rows += rows_of(model, "chat", "rougeL", values / 100)
        wrong = values - mismatched
        rows += rows_of(model, "chat", "rougeL.mismatched", wrong / 100)
    units = pd.concat([evidence.units, pd.DataFrame(rows)], ignore_index=True)
    return Evidence(evidence.study, units, evidence.parameters, evidence.runs)


def test_a_metric_that_passes_both_controls(evidence: Evidence) -> None:
    row = judged(with_metric(evidence, rising=True, mismatched=3.0)).loc["C8"]
    assert row["verdict"] == "supported"
    assert row["threshold"] == pytest.approx(0.25 * 4, abs=0.01)
    assert row["note"].startswith("1 of 16 metrics pass both controls: rougeL on chat")


def test_a_metric_that_fails_a_control(evidence: Evidence) -> None:
    for kind in (
        {"rising": False, "mismatched": 3.0},
        {"rising": True, "mismatched": 0},
    ):
        row = judged(with_metric(evidence, **kind)).loc["C8"]
        assert row["verdict"] == "not tested"
        assert row["note"] == "0 of 16 metrics pass both controls"


def test_one_seed_tests_nothing(evidence: Evidence) -> None:
    first = evidence.units[evidence.units["unit_id"] == 0]
    single = Evidence(evidence.study, first, evidence.parameters, evidence.runs)
    verdicts = judged(single)["verdict"]
    for name in ("C3", "C4", "C5", "C6", "C7", "C8", "C10", "C11", "A1-A0", "A4-A1"):
        assert verdicts[name] == "not tested", name
