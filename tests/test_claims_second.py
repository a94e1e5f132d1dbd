"""Verdicts on the second system's claims, in made-up worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from shallower.analysis.claims_ffn import spread_ratio
from shallower.analysis.claims_second import SECOND
from shallower.analysis.evidence import Evidence
from shallower.config import load_study

NOISE = np.array([0.0, 0.004, -0.003, 0.002, -0.004])
SEEDS = list(range(len(NOISE)))
RULE = 0.70  # accuracy of the bag of words


def configured(configuration: dict) -> Any:
    configuration["experiments"] |= {
        "depth": [grid(["baseline", "proposed"], [5, 8])],
        "ffn": [
            grid(["none", "one_matrix", "two_matrices", "three_matrices"], [8]),
            grid(["three_matrices"], [8], ratio=[1.2, 1.5]),
        ],
        "distillation": [grid(["baseline"], [5], teacher=["baseline-8", "baseline-5"])],
        "t5": [{"sizes": ["mini"], "seeds": SEEDS, "options": {"ffn": T5_FFNS}}],
        **{name: [] for name in ("skip", "elimination", "combined")},
    }
    configuration["contrasts"] = []
    return load_study(configuration)


T5_FFNS = ["own", "none", "one_matrix", "three_matrices"]


def grid(variants: list[str], depths: list[int], **options: Any) -> dict[str, Any]:
    return {
        "variants": variants,
        "depths": depths,
        "seeds": SEEDS,
        "options": options,
    }


# Nats above 4.8; what the thesis says is true in this world.
QUALITY = {
    "none-8": 0.4,
    "one_matrix-8": 0.3,
    "two_matrices-8": 0.2,
    "three_matrices-8": 0.1,
    "three_matrices-8__ratio=1.2": 0.17,
    "three_matrices-8__ratio=1.5": 0.14,
    "baseline-5": 0.2,
    "baseline-5__teacher=baseline-8": 0.05,
    "baseline-5__teacher=baseline-5": 0.3,
    "baseline-5__steps=45": 0.1,
}
ACCURACY = {"own": 0.80, "none": 0.74, "one_matrix": 0.75, "three_matrices": 0.78}


@pytest.fixture
def evidence(configuration: dict, tmp_path: Path) -> Evidence:
    study = configured(configuration)
    rows: list[dict[str, Any]] = []
    for index, (model, name) in enumerate(study.models.items()):
        noise = np.roll(NOISE, index)
        if name.t5_size:
            if "task" in name.options:
                reached = ACCURACY[str(name.options.get("ffn", "own"))]
                rows += rows_of(model, "pairs", "accuracy", reached + noise)
            continue
        values = 4.8 + QUALITY.get(model, 0.0) + noise
        rows += rows_of(model, "text", "cross_entropy", values)
    rows += rows_of("bag_of_words", "pairs", "accuracy", np.array([RULE]))
    for error, size in (("float64", 1e-14), ("float32", 1e-6)):
        sizes = np.full(len(SEEDS), size)
        rows += rows_of("one_matrix-8", "text", f"collapse_error_{error}", sizes)
    for model, time in (("baseline-8", 3.0), ("none-8", 1.9)):
        times = time * (1 + NOISE)
        rows += rows_of(model, "fixed", "time_per_output_token", times, scale="paper")
    counts = [("baseline-8", "paper", 167), ("none-8", "paper", 99)]
    table = pd.DataFrame(counts, columns=["model", "scale", "parameters_trained"])
    return Evidence(study, pd.DataFrame(rows), table, tmp_path)


def rows_of(
    model: str, dataset: str, metric: str, values: np.ndarray, scale: str = "study"
) -> list[dict[str, Any]]:
    common = {"model": model, "scale": scale, "form": "trained", "mode": "eager"}
    common |= {"dataset": dataset, "metric": metric}
    return [common | {"unit_id": i, "value": v} for i, v in enumerate(values)]


def verdicts(evidence: Evidence) -> dict[str, str]:
    return {claim.id: claim.judge(evidence).verdict for claim in SECOND}


def shifted(evidence: Evidence, model: str, add: float) -> Evidence:
    units = evidence.units.copy()
    units.loc[units["model"] == model, "value"] += add
    return Evidence(evidence.study, units, evidence.parameters, evidence.runs)


def test_a_world_in_which_the_thesis_is_right(evidence: Evidence) -> None:
    found = verdicts(evidence)
    due = dict.fromkeys([f"S2-{n}" for n in range(1, 12)], "supported")
    due["S2-8"] = "not tested"  # one teacher, beside oneself
    due["S2-9"] = "not supported"  # arithmetic, whatever the world
    due["S2-12"] = "not tested"
    assert found == due
    judged = {claim.id: claim.judge(evidence) for claim in SECOND}
    assert judged["S2-2"].effect == pytest.approx(3.0 / 1.9)
    assert judged["S2-3"].effect == pytest.approx(0.4, abs=0.01)
    # The least favourable parts: a ratio of 1.5, and the one student with a teacher.
    assert judged["S2-5"].effect == pytest.approx(0.04, abs=0.01)
    assert judged["S2-6"].effect == pytest.approx(-0.15, abs=0.01)
    assert judged["S2-7"].effect == pytest.approx(-0.05, abs=0.01)
    assert judged["S2-10"].effect == pytest.approx(-6, abs=0.5)


@pytest.mark.parametrize(
    ("model", "add", "claim", "verdict"),
    [
        ("two_matrices-8", 0.2, "S2-4", "not supported"),  # worse than one matrix
        ("three_matrices-8__ratio=1.2", -0.2, "S2-5", "not supported"),
        ("none-8", -0.5, "S2-3", "not supported"),
        ("baseline-5__teacher=baseline-8", 0.1, "S2-7", "not supported"),
        ("baseline-5__teacher=baseline-8", 0.1, "S2-6", "supported"),
        ("baseline-5__teacher=baseline-5", 9.0, "S2-6", "supported"),  # a control
        ("t5_mini-2__ffn=none__task=pairs", 0.2, "S2-10", "not supported"),
        ("t5_mini-2__ffn=three_matrices__task=pairs", -0.1, "S2-11", "not supported"),
        ("bag_of_words", 0.2, "S2-10", "not tested"),  # no T5 has learnt the task
        ("bag_of_words", 0.2, "S2-11", "not tested"),
    ],
)
def test_each_verdict_follows_the_values(
    evidence: Evidence, model: str, add: float, claim: str, verdict: str
) -> None:
    assert verdicts(shifted(evidence, model, add))[claim] == verdict


def test_a_collapse_that_changes_something_is_refuted(evidence: Evidence) -> None:
    rows = evidence.units["metric"] == "collapse_error_float32"
    evidence.units.loc[rows, "value"] = 1e-3
    assert verdicts(evidence)["S2-1"] == "not supported"


def test_a_study_without_the_arms_tests_nothing(configuration: dict) -> None:
    without = ("ffn", "distillation", "t5", "combined")
    configuration["experiments"] |= {name: [] for name in without}
    study = load_study(configuration)
    columns = [
        "model",
        "scale",
        "form",
        "mode",
        "dataset",
        "metric",
        "unit_id",
        "value",
    ]
    nothing = Evidence(
        study, pd.DataFrame(columns=columns), pd.DataFrame(), Path("nowhere")
    )
    found = verdicts(nothing)
    assert found.pop("S2-9") == "not supported"  # the tables are always there
    assert set(found.values()) == {"not tested"}


def test_the_spread_of_two_teachers_needs_five_seeds(configuration: dict) -> None:
    configuration["experiments"]["distillation"] = [
        grid(["baseline"], [5], teacher=["baseline-8", "baseline-6"])
    ]
    configuration["experiments"]["depth"][0]["seeds"] = SEEDS
    study = load_study(configuration)
    draw = np.random.default_rng(0)
    rows = []
    for depth, sd in ((8, 0.3), (6, 0.01)):
        values = 5 + sd * draw.standard_normal(5)
        model = f"baseline-5__teacher=baseline-{depth}"
        rows += rows_of(model, "text", "cross_entropy", values)
    evidence = Evidence(study, pd.DataFrame(rows), pd.DataFrame(), Path("nowhere"))
    assert verdicts(evidence)["S2-8"] == "supported"
    few = evidence.units[evidence.units["unit_id"] < 4]
    fewer = Evidence(study, few, pd.DataFrame(), Path("nowhere"))
    assert verdicts(fewer)["S2-8"] == "not tested"


def test_the_ratio_of_spreads_covers_the_truth() -> None:
    """Simulated: the interval holds a ratio of 2 in 95 % of 4,000 studies."""
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(4000):
        a, b = 2 * draw.standard_normal(5), draw.standard_normal(6)
        ratio, low, high = spread_ratio(a, b)
        assert low < ratio < high
        inside += low < 2 < high
    assert inside / 4000 == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 4000) ** 0.5)
    same = np.array([1.0, 2, 4, 3])
    ratio, low, _ = spread_ratio(same, same)
    assert ratio == 1
    assert low == pytest.approx(stats.f.ppf(0.025, 3, 3) ** 0.5)
