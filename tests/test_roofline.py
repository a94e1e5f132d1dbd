"""Roofline arithmetic, worked by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from made_up import MadeUp, default_configuration, grid, study_of
from shallower.analysis import roofline
from shallower.analysis.estimates import Comparison, Estimate

# Decoding at 4 bytes: prompt 6, 4 new tokens. `fixed` sees 8 keys on average, of which
# there are 2 * depth * 10; the static cache of `decode` always has 10.
BYTES = {
    ("proposed-2", "fixed", "trained"): 4 * (1000 + 40 * 8),
    ("proposed-2", "decode", "trained"): 4 * (1000 + 40 * 10),
    ("proposed-2", "decode", "folded"): 4 * (900 + 40 * 10),
    ("proposed-6", "fixed", "trained"): 4 * (3000 + 120 * 8),
    ("proposed-6", "decode", "trained"): 4 * (3000 + 120 * 10),
}
Key = tuple[str, str, str, str]  # label, workload, form, mode


def sessions(folder: Path, steps: dict[Key, list[float]]) -> pd.DataFrame:
    """Rows by session of models of width 10 with 20 words; `steps` in us by session.

    The input embedding has 200 parameters, which no step reads.
    """
    parts = {"depth": [grid("baseline proposed", [2, 6])]}
    world = MadeUp(study_of(default_configuration(), **parts), folder)
    world.values.clear()
    for (label, workload, form, mode), times in steps.items():
        where = {"form": form, "mode": mode}
        world.put(label, workload, "time_per_output_token", times, **where)
    for depth, trained, deployed in ((2, 1200, 1100), (6, 3200, 2900)):
        sizes = {"parameters_trained": trained, "parameters_deployed": deployed}
        sizes |= {"width": 10, "vocabulary": 20, "attending_blocks": depth}
        world.sizes["study", f"proposed-{depth}"] |= sizes
    world.reads = reads(3)
    return roofline.by_session(world.results())


def reads(count: int) -> list[dict[str, object]]:
    """8 bytes per nanosecond up to 4,000 bytes, 2 from 64,000 on; one slow repeat."""
    return [
        {"session": s, "bytes": b, "way": way, "repeat": r}
        | {"nanoseconds": float(t * slower * (9 if r == 2 else 1))}
        for s, (b, t), r in product(
            range(count), [(4000, 500), (64_000, 32_000)], range(3)
        )
        # At each size another way is the fastest.
        for way, slower in (("library", 1 + (b > 4000)), ("loop", 1 + (b < 64_000)))
    ]


def test_bytes_are_weights_and_the_cache_that_is_read(tmp_path: Path) -> None:
    steps = {(*key, "eager"): [10.0, 10.0] for key in BYTES}
    table = sessions(tmp_path, steps).set_index(["label", "workload", "form"])
    found = table["bytes_per_token"].groupby(level=[0, 1, 2]).first()
    assert found.to_dict() == BYTES


def test_bandwidth_is_interpolated_on_the_logarithm_of_the_size() -> None:
    curve = roofline.bandwidth_curve(pd.DataFrame(reads(1)))
    assert curve.to_dict() == {4000: 8.0, 64_000: 2.0}
    assert roofline.interpolate(curve, 16_000) == pytest.approx(5.0)  # half-way
    assert roofline.interpolate(curve, 8000) == pytest.approx(6.5)
    assert roofline.interpolate(curve, 10) == 8.0
    assert roofline.interpolate(curve, 1e9) == 2.0


def test_a_models_share_of_its_floor(tmp_path: Path) -> None:
    """5,600 bytes at 8 - 6 ln(1.4) / ln(16) = 7.2719 GB/s are 0.7701 us."""
    steps: dict[Key, list[float]] = {
        ("proposed-2", "decode", "trained", "compiled"): [1.0, 2.0]
    }
    table = roofline.roofline_table(sessions(tmp_path, steps))
    (row,) = table.to_dict("records")
    assert row["bytes_per_token"] == 5600
    assert row["bandwidth_gb_s"] == pytest.approx(7.2719, abs=1e-4)
    assert row["floor_us"] == pytest.approx(0.77009, abs=1e-5)
    assert row["measured_us"] == pytest.approx(1.5)
    assert row["share_of_floor"] == pytest.approx(0.77009 / 1.5, abs=1e-5)
    # t with one degree of freedom: 1.5 -+ 12.7062 * 0.5.
    assert row["measured_us_ci_low"] == pytest.approx(1.5 - 6.3531, abs=1e-4)
    assert row["measured_us_ci_high"] == pytest.approx(1.5 + 6.3531, abs=1e-4)
    assert (row["variant"], row["depth"], row["sessions"]) == ("proposed", 2, 2)


def test_no_model_is_faster_than_its_floor(tmp_path: Path) -> None:
    """One that reads 5,600 bytes in .4 us raises the bandwidth of its session alone."""
    steps: dict[Key, list[float]] = {
        ("proposed-2", "decode", "trained", "compiled"): [0.4, 2.0],
        ("proposed-6", "decode", "trained", "eager"): [30.0, 34.0],
    }
    table = sessions(tmp_path, steps).set_index(["label", "session"])
    raised = 0.77009 / 0.4
    assert table["raised"].to_dict() == pytest.approx(
        dict(zip(table.index, (raised, 1, raised, 1), strict=True)), abs=1e-4
    )
    assert table.loc[("proposed-2", 0), "floor_us"] == pytest.approx(0.4)
    assert table.loc[("proposed-6", 0), "floor_us"] == pytest.approx(
        3.4325 / raised, abs=1e-4
    )
    (fact,) = roofline.facts(table)
    assert fact.value == pytest.approx(100 * (raised - 1), abs=0.01)
    assert (table["floor_us"] <= table["measured_us"] * (1 + 1e-12)).all()


def test_reading_explains_no_more_than_the_difference(tmp_path: Path) -> None:
    """Six blocks that take hardly longer than two: the share is above one."""
    steps: dict[Key, list[float]] = {
        ("proposed-2", "decode", "trained", "eager"): [10.0, 12.0],
        ("proposed-6", "decode", "trained", "eager"): [11.0, 13.1],
    }
    asked = Comparison("proposed-6", "proposed-2", "decode", roofline.WEIGHTS, "ratio")
    share = estimated(tmp_path, steps)[asked.id]
    assert share.effect > 1
    assert share.note == roofline.UNEXPLAINED


def estimated(folder: Path, steps: dict[Key, list[float]]) -> dict[str, Estimate]:
    table = sessions(folder, steps)
    from shallower.analysis.results import Results

    return {e.id: e for e in roofline.estimates(Results.read(folder), table)}


def test_the_difference_of_depths_is_weights_and_the_rest(tmp_path: Path) -> None:
    """16,800 bytes at 8 - 6 ln(4.2) / ln(16) = 4.8944 GB/s are 3.4325 us."""
    found = estimated(
        tmp_path,
        {
            ("proposed-2", "decode", "trained", "eager"): [10.0, 12.0],
            ("proposed-6", "decode", "trained", "eager"): [30.0, 34.0],
        },
    )
    sides = ("proposed-6", "proposed-2", "decode")

    def effect(metric: str, kind: str) -> float:
        return found[Comparison(*sides, metric, kind).id].effect  # type: ignore[arg-type]

    assert effect(roofline.METRIC, "ratio") == pytest.approx(32 / 11)
    assert effect("bytes_per_token", "ratio") == pytest.approx(3.0)
    assert effect(roofline.FLOOR, "ratio") == pytest.approx(3.4325 / 0.77009, abs=1e-3)
    weights = 3.4325 - 0.7701
    assert effect(roofline.METRIC, "difference") == pytest.approx(21.0)
    assert effect(roofline.FLOOR, "difference") == pytest.approx(weights, abs=1e-3)
    rest = 21 - weights
    assert effect(roofline.REST, "difference") == pytest.approx(rest, abs=1e-3)
    assert effect(roofline.REST, "slope") == pytest.approx(rest / 4, abs=1e-3)
    assert effect(roofline.WEIGHTS, "ratio") == pytest.approx(weights / 21, abs=1e-4)
    # Differences of the sessions: 20 and 22.
    times = found[Comparison(*sides, roofline.METRIC, "difference").id]
    assert (times.ci_high, times.n) == (pytest.approx(21 + 12.7062, abs=1e-3), 2)
    assert times.unit == "us"


def test_modes_forms_and_workloads_are_paired_with_their_own(tmp_path: Path) -> None:
    times = {(2, "eager"): 10.0, (6, "eager"): 30.0}
    times |= {(2, "compiled"): 5.0, (6, "compiled"): 10.0}
    steps: dict[Key, list[float]] = {
        (f"proposed-{depth}", "decode", "trained", mode): [us, us]
        for (depth, mode), us in times.items()
    }
    steps["proposed-2", "decode", "folded", "eager"] = [9.0, 9.0]  # deep: missing
    found = estimated(tmp_path, steps).values()
    chosen = [e for e in found if (e.kind, e.metric) == ("ratio", roofline.METRIC)]
    ratios = {e.mode: e.effect for e in chosen}
    assert ratios == pytest.approx({"eager": 3.0, "compiled": 2.0})
    assert {e.form for e in found} == {"trained"}


def test_other_modes_workloads_and_twins_are_left_out(tmp_path: Path) -> None:
    steps: dict[Key, list[float]] = {
        ("proposed-2", "decode", "trained", "eager"): [10.0, 12.0],
        ("proposed-2", "fixed", "trained", "uncached"): [90.0, 90.0],
        ("proposed-2", "chat", "trained", "eager"): [90.0, 90.0],
        ("baseline-6__twin=1", "fixed", "trained", "eager"): [90.0, 90.0],
    }
    assert set(sessions(tmp_path, steps)["measured_us"]) == {10.0, 12.0}
