"""What `shallower front` writes, from the files of a made-up study."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from made_up_front import (
    HEALED,
    SKIP,
    STUDENT,
    TRUTH,
    TUNED,
    combined,
    gains_of,
    made,
    units_of,
)
from shallower.analysis.front import write_front
from shallower.analysis.front_data import lineage, plain
from shallower.analysis.methods import purpose
from shallower.cli import main
from shallower.config import Study

CONTRACT = {
    "pareto": "model system axis scale quality quality_ci_low quality_ci_high latency "
    "latency_ci_low latency_ci_high on_front_probability",
    "gains": "axis model null effect ci_low ci_high total_low total_high speedup "
    "speedup_low speedup_high values nulls verdict note",
    "dominance": "axis model over probability bootstrap quality quality_ci_low "
    "quality_ci_high latency latency_ci_low latency_ci_high verdict",
    "additivity": "both a b base seeds n effect ci_low ci_high verdict",
    "hypervolume": "axis system models hypervolume share",
    "methods": "model system changes parameters cache_bytes training_flops "
    "training_share quality quality_ci_low quality_ci_high per_token "
    "per_token_ci_low per_token_ci_high first_token first_token_ci_low "
    "first_token_ci_high on_front_per_token on_front_first_token verdict",
    "profiles": "model seed block metric value",
    "arms": "model run seed predicted_decode predicted_prefill cache_bytes "
    "run_cache_bytes counts",
}


@pytest.fixture
def study(configuration: dict) -> Study:
    return combined(configuration)


def facts_of(study: Study, run: str, seed: int) -> dict[str, Any]:
    arms = {
        arm: {
            "skip": {"attention": [], "ffn": []},
            "elimination": None,
            "counts": [9, 7, 5, 3] if "eliminate" in arm else None,
            "predicted_decode": 1.1,
            "predicted_prefill": 2.0 + seed,
            "cache_bytes": 1000 + seed,
        }
        for arm in study.arms_of[run]
    }
    importance = {part: [0.4, 0.3, 0.2, 0.1] for part in ("attention", "ffn", "block")}
    return {
        "model": run,
        "seed": seed,
        "importance": importance,
        "contribution": [0.9, 0.8, 0.7, 0.6],
        "profile": [1.0, 0.9, 0.8, 0.7],
        "arms": arms,
        "run_cache_bytes": 4000,
    }


@pytest.fixture
def results(study: Study, tmp_path: Path) -> Path:
    units_of(TRUTH).to_csv(tmp_path / "by_seed.csv", index=False)
    sizes = [
        {"model": m, "scale": scale, "parameters_deployed": 10 * len(m)}
        for m in TRUTH
        for scale in ("study", "paper")
    ]
    pd.DataFrame(sizes).to_csv(tmp_path / "parameters.csv", index=False)
    for model, seed in study.runs:
        path = tmp_path / "runs" / model / f"seed{seed}" / "training.json"
        path.parent.mkdir(parents=True)
        # Means over seeds: one a block and step, of ten steps.
        flops = study.models[model].depth * study.run(model, seed)["training"]["steps"]
        flops *= 1 + 0.1 * (seed - 1)
        path.write_text(json.dumps({"flops": flops}))
    for run, seed in study.arm_runs:
        path = tmp_path / "evaluations" / run / f"seed{seed}.arms.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts_of(study, run, seed)))
    return tmp_path


def tables_of(results: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(results / f"{name}.csv") for name in CONTRACT}


def test_every_table_is_written(study: Study, results: Path) -> None:
    main(*[["front", "--results", str(results), "--settings", study.model_dump_json()]])
    tables = tables_of(results)
    for name, columns in CONTRACT.items():
        assert set(columns.split()) <= set(tables[name]), name
        assert len(tables[name]), name
    before = {name: (results / f"{name}.csv").read_bytes() for name in CONTRACT}
    other = results / "again"
    write_front(results, study, other)
    assert before == {name: (other / f"{name}.csv").read_bytes() for name in CONTRACT}


def test_training_counts_every_run_once(study: Study, results: Path) -> None:
    """Baseline-4, parent and teacher, costs 40 and two steps more, the fewest, 8."""
    write_front(results, study)
    table = tables_of(results)["methods"].set_index("model")
    flops = table["training_flops"]
    assert flops["baseline-4"] == pytest.approx(40)
    assert lineage(study, HEALED) == {HEALED, "baseline-4"}
    assert flops[HEALED] == pytest.approx(40 + 8)
    assert flops[TUNED] == flops["baseline-4__tuned=0.1"] == pytest.approx(40 + 8)
    assert flops[f"{SKIP}2"] == pytest.approx(40)
    assert flops[STUDENT] == pytest.approx(20 + 40)
    assert table["training_share"][STUDENT] == pytest.approx(1.5)


def test_methods_hold_everything(study: Study, results: Path) -> None:
    write_front(results, study)
    tables = tables_of(results)
    table = tables["methods"].set_index("model")
    assert list(table.index[:4]) == [
        *("baseline-2", "baseline-3", "baseline-4"),
        ("proposed-2"),
    ]
    row = table.loc[TUNED]
    assert row["system"] == "S4"
    assert row["changes"].startswith("tuned on 10 % of the steps")
    assert row["parameters"] == 10 * len(TUNED)
    assert row["cache_bytes"] == 1001  # mean over seeds, as they were evaluated
    first = gains_of(made(TRUTH), "depth", "first_token")
    assert row["verdict"] == first.loc[TUNED, "verdict"] == "supported"
    assert table.loc[f"{SKIP}2", "verdict"] == "not supported"
    assert table.loc[["baseline-2", "baseline-4"], "verdict"].isna().all()
    assert table.loc[f"{SKIP}1", "cache_bytes"] == 1001
    assert purpose("baseline-4__tuned=0.1") == "first_token"  # tuned for elimination
    assert purpose(f"{SKIP}1") == "per_token"
    # Keys and values of 4 blocks, 128 wide, in fp32, of three quarters and 24 tokens.
    tokens = 3 * study.model.context // 4 + study.evaluation.new_tokens
    assert table.loc["baseline-4", "cache_bytes"] == 4 * 2 * 128 * 4 * tokens
    healed = 3 / 4 * table.loc["baseline-4", "cache_bytes"]
    assert table.loc[HEALED, "cache_bytes"] == healed
    points = tables["pareto"].set_index(["axis", "model"])
    for axis in ("per_token", "first_token"):
        point = points.loc[(axis, "proposed-2")]
        assert table.loc["proposed-2", axis] == point["latency"]
        assert table.loc["proposed-2", f"on_front_{axis}"] == point["on_front"]


def test_arms_and_profiles(study: Study, results: Path) -> None:
    write_front(results, study)
    tables = tables_of(results)
    arms = tables["arms"]
    chosen = arms[(arms["model"] == TUNED) & (arms["seed"] == 1)].iloc[0]
    assert chosen["run"] == "baseline-4__tuned=0.1"
    assert chosen["predicted_prefill"] == 3.0
    assert chosen["counts"] == "9 7 5 3"
    assert arms["counts"].isna().sum() == 4 * 3
    profiles = tables["profiles"].set_index(["model", "seed", "block", "metric"])[
        "value"
    ]
    assert profiles[("baseline-4", 2, 3, "importance_ffn")] == 0.1
    assert profiles[("baseline-4", 0, 1, "contribution")] == 0.8
    assert len(profiles) == 2 * 3 * 4 * 5


def test_the_cache_of_an_arm_is_what_was_evaluated(study: Study, results: Path) -> None:
    for seed in (0, 1, 2):
        (results / "evaluations" / "baseline-4" / f"seed{seed}.arms.json").unlink()
    write_front(results, study)
    table = tables_of(results)["methods"].set_index("model")
    assert np.isnan(table.loc[f"{SKIP}1", "cache_bytes"])
    assert table.loc[TUNED, "cache_bytes"] == 1001


def test_a_run_that_diverged_is_named(study: Study, results: Path) -> None:
    units = pd.read_csv(results / "by_seed.csv")
    lost = (units["model"] == "proposed-4") & (units["unit_id"] == 1)
    units.loc[lost & (units["unit"] == "nats"), "value"] = np.inf
    units.to_csv(results / "by_seed.csv", index=False)
    write_front(results, study)
    table = tables_of(results)["methods"].set_index("model")
    assert table.loc["proposed-4", "verdict"] == "not tested"
    assert np.isnan(table.loc["proposed-4", "quality"])


LEFT_OUT: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "everything": lambda units: units["model"] == "nothing",
    "times": lambda units: units["unit"] == "nats",
    "quality": lambda units: units["unit"] == "us",
    "arms": lambda units: ~units["model"].str.contains("skip|eliminate|tuned"),
    "depths": lambda units: ~units["model"].isin(plain(TRUTH)),
    "one_axis": lambda units: units["metric"] != "time_to_first_token",
}


@pytest.mark.parametrize("left", LEFT_OUT)
def test_what_is_missing(study: Study, results: Path, left: str) -> None:
    units = pd.read_csv(results / "by_seed.csv")
    units[LEFT_OUT[left](units)].to_csv(results / "by_seed.csv", index=False)
    if left in ("arms", "everything"):
        for path in (results / "evaluations").rglob("*.json"):
            path.unlink()
    write_front(results, study)
    tables = tables_of(results)
    for name, columns in CONTRACT.items():
        assert set(columns.split()) <= set(tables[name]), name
    if left in ("everything", "times", "quality"):
        for name in ("pareto", "gains", "dominance", "hypervolume", "methods"):
            assert tables[name].empty, name
        assert tables["additivity"].empty == (left != "times")
    if left == "arms":
        assert set(tables["gains"]["null"]) == {"depth", "flops"}
        assert tables["arms"].empty
        assert tables["profiles"].empty
    if left == "depths":
        notes = tables["gains"].set_index(["axis", "model", "null"])["note"]
        assert notes[("per_token", "proposed-2", "depth")] == "no depth was timed"
        assert set(tables["methods"]["verdict"]) == {"not tested"}
    if left == "one_axis":
        assert set(tables["pareto"]["axis"]) == {"per_token"}
        assert tables["methods"]["first_token"].isna().all()


def test_tables_need_no_torch() -> None:
    slow = "{'torch', 'scipy.stats'}"
    loaded = f"bool({slow} & {{*sys.modules}})"
    code = f"import sys, shallower.analysis.front; sys.exit({loaded})"
    subprocess.run([sys.executable, "-c", code], check=True)
