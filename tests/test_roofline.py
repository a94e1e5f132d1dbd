"""Roofline arithmetic, worked by hand, and its figure."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from shallower.analysis import roofline
from shallower.reporting import roofline as figure
from shallower.reporting import style

# Width 10, 20 words: the input embedding has 200 parameters, which no step reads.
SIZES = {"study": {"width": 10, "vocabulary": 20}}
PARAMETERS = pd.DataFrame(
    {
        "model": ["proposed-2", "proposed-6"],
        "scale": "study",
        "depth": [2, 6],
        "variant": "proposed",
        "parameters_trained": [1200, 3200],
        "parameters_deployed": [1100, 2900],
    }
)
# Decode at 4 bytes: prompt 6, 4 new ones. `fixed` sees 8 keys on average, of which
# there are 2 * depth * 10; the static cache of `decode` always has 10.
BYTES = {
    ("proposed-2", "fixed", "trained"): 4 * (1000 + 40 * 8),
    ("proposed-2", "decode", "trained"): 4 * (1000 + 40 * 10),
    ("proposed-2", "decode", "folded"): 4 * (900 + 40 * 10),
    ("proposed-6", "fixed", "trained"): 4 * (3000 + 120 * 8),
    ("proposed-6", "decode", "trained"): 4 * (3000 + 120 * 10),
}


def latency_rows(steps: dict[tuple[str, str, str, str], list[float]]) -> pd.DataFrame:
    """Three repeats of a prefill and 3 steps; `steps` in us by session.

    One repeat is ten times as slow, which a median does not see.
    """
    rows = []
    for (model, workload, form, mode), sessions in steps.items():
        for (session, us), repeat, index in product(
            enumerate(sessions), range(3), range(4)
        ):
            value = us * (10 if repeat == 1 else 1) if index else 1e6
            rows.append(
                {
                    "model": model,
                    "seed": session,
                    "form": form,
                    "mode": mode,
                    "scale": "study",
                    "workload": workload,
                    "session": session,
                    "repeat": repeat,
                    "token_index": index,
                    "prompt_tokens": 6,
                    "generated_tokens": 4,
                    "dtype": "float32",
                    "neighbours": 0.0,
                    "nanoseconds": 1000 * value,
                }
            )
    return pd.DataFrame(rows)


def reads(sessions: int) -> pd.DataFrame:
    """8 bytes a nanosecond up to 4,000 bytes, 2 from 64,000 on; one slow repeat."""
    rows = [
        {
            "session": s,
            "bytes": b,
            "way": way,
            "repeat": r,
            "nanoseconds": t * slower * (9 if r == 2 else 1),
        }
        for s, (b, t), r in product(
            range(sessions), [(4000, 500), (64_000, 32_000)], range(3)
        )
        # At each size another way is the fastest.
        for way, slower in (("library", 1 + (b > 4000)), ("loop", 1 + (b < 64_000)))
    ]
    return pd.DataFrame(rows)


def table(steps: dict[tuple[str, str, str, str], list[float]]) -> pd.DataFrame:
    sessions = len(next(iter(steps.values())))
    return roofline.by_session(latency_rows(steps), reads(sessions), PARAMETERS, SIZES)


def test_bytes_are_weights_and_the_cache_that_is_read() -> None:
    steps = {(*key, "eager"): [10.0, 10.0] for key in BYTES}
    found = table(steps).set_index(["model", "workload", "form"])["bytes_per_token"]
    assert found.groupby(level=[0, 1, 2]).first().to_dict() == BYTES


def test_bandwidth_is_interpolated_on_the_logarithm_of_the_size() -> None:
    curve = roofline.bandwidth_curve(reads(1))
    assert curve.to_dict() == {4000: 8.0, 64_000: 2.0}
    assert roofline.interpolate(curve, 16_000) == pytest.approx(5.0)  # half-way
    assert roofline.interpolate(curve, 8000) == pytest.approx(6.5)
    assert roofline.interpolate(curve, 10) == 8.0
    assert roofline.interpolate(curve, 1e9) == 2.0


def test_points() -> None:
    """5,600 bytes at 8 - 6 ln(1.4) / ln(16) = 7.2719 GB/s are 0.7701 us."""
    steps = {("proposed-2", "decode", "trained", "compiled"): [1.0, 2.0]}
    (row,) = roofline.points(table(steps)).to_dict("records")
    assert row["bytes_per_token"] == 5600
    assert row["bandwidth_gb_s"] == pytest.approx(7.2719, abs=1e-4)
    assert row["floor_us"] == pytest.approx(0.77009, abs=1e-5)
    # The first token and the slow repeat have no part in it.
    assert row["measured_us"] == pytest.approx(1.5)
    assert row["share_of_floor"] == pytest.approx(0.77009 / 1.5, abs=1e-5)
    # t with one degree of freedom: 1.5 -+ 12.7062 * 0.5.
    assert row["measured_us_ci_low"] == pytest.approx(1.5 - 6.3531, abs=1e-4)
    assert row["measured_us_ci_high"] == pytest.approx(1.5 + 6.3531, abs=1e-4)
    assert (row["variant"], row["depth"], row["sessions"]) == ("proposed", 2, 2)


def test_the_difference_of_depths_is_weights_and_the_rest() -> None:
    """16,800 bytes at 8 - 6 ln(4.2) / ln(16) = 4.8944 GB/s are 3.4325 us."""
    steps = {
        ("proposed-2", "decode", "trained", "eager"): [10.0, 12.0],
        ("proposed-6", "decode", "trained", "eager"): [30.0, 34.0],
    }
    (row,) = roofline.pairs(table(steps)).to_dict("records")
    assert (row["shallow"], row["deep"], row["sessions"]) == (2, 6, 2)
    assert row["ratio"] == pytest.approx(32 / 11)
    assert row["ratio_of_bytes"] == pytest.approx(3.0)
    assert row["ratio_of_blocks"] == 3.0
    assert row["ratio_of_floors"] == pytest.approx(3.4325 / 0.77009, abs=1e-3)
    weights = 3.4325 - 0.7701
    assert row["difference_us"] == pytest.approx(21.0)
    assert row["weights_us"] == pytest.approx(weights, abs=1e-3)
    assert row["rest_us"] == pytest.approx(21 - weights, abs=1e-3)
    assert row["rest_per_block_us"] == pytest.approx((21 - weights) / 4, abs=1e-3)
    assert row["weights_share"] == pytest.approx(weights / 21, abs=1e-4)
    # Differences of the sessions: 20 and 22.
    assert row["difference_us_ci_high"] == pytest.approx(21 + 12.7062, abs=1e-3)


def test_modes_forms_and_workloads_are_paired_with_their_own() -> None:
    steps = {
        (f"proposed-{depth}", "decode", "trained", mode): [us, us]
        for depth, mode, us in (
            *((2, "eager", 10.0), (6, "eager", 30.0)),
            *((2, "compiled", 5.0), (6, "compiled", 10.0)),
        )
    }
    steps[("proposed-2", "decode", "folded", "eager")] = [9.0, 9.0]  # deep: missing
    pairs = roofline.pairs(table(steps)).set_index("mode")["ratio"]
    assert pairs.to_dict() == pytest.approx({"eager": 3.0, "compiled": 2.0})


def test_other_modes_workloads_and_models_are_left_out() -> None:
    steps = {
        ("proposed-2", "decode", "trained", "eager"): [10.0, 12.0],
        ("proposed-2", "fixed", "trained", "uncached"): [90.0, 90.0],
        ("proposed-2", "chat", "trained", "eager"): [90.0, 90.0],
        ("proposed-6__twin=1", "fixed", "trained", "eager"): [90.0, 90.0],
    }
    assert set(table(steps)["measured_us"]) == {10.0, 12.0}


def test_files(tmp_path: Path) -> None:
    """A disturbed session is not used: others were busy in the third."""
    steps = {
        (f"proposed-{d}", w, "trained", "eager"): [d * 1.0, d * 1.0, 900.0]
        for d, w in product((2, 6), ("fixed", "decode"))
    }
    steps[("proposed-6__twin=1", "fixed", "trained", "eager")] = [6.0, 6.0, 900.0]
    rows = latency_rows(steps)
    rows.loc[rows["session"] == 2, "neighbours"] = 1.0
    rows.to_parquet(tmp_path / "latency.parquet")
    reads(3).to_parquet(tmp_path / "bandwidth.parquet")
    PARAMETERS.to_csv(tmp_path / "parameters.csv", index=False)
    roofline.write_roofline(tmp_path, SIZES)
    points = pd.read_csv(tmp_path / "roofline.csv")
    assert sorted(points["measured_us"]) == [2.0, 2.0, 6.0, 6.0]
    pairs = pd.read_csv(tmp_path / "roofline_pairs.csv")
    assert pairs["ratio"].tolist() == [3.0, 3.0]


# --- figure -------------------------------------------------------------------------


def drawn() -> pd.DataFrame:
    rows = []
    for scale, variant, form, depth, mode in product(
        ("study", "paper"),
        ("baseline", "proposed"),
        ("trained", "folded"),
        (5, 8),
        ("eager", "compiled"),
    ):
        if (variant, form) == ("baseline", "folded"):
            continue
        size = depth * (1e6 if scale == "study" else 7e7)
        rows.append(
            {
                "scale": scale,
                "model": f"{variant}-{depth}",
                "variant": variant,
                "form": form,
                "depth": depth,
                "mode": mode,
                "workload": "decode",
                "bytes_per_token": size,
                "floor_us": size / 2e4,
                "measured_us": size / 1e4 * (2 if mode == "eager" else 1),
            }
        )
    return pd.DataFrame(rows)


def test_the_figure_shows_every_model_and_the_floor() -> None:
    table = drawn()
    other = table.assign(workload="fixed", measured_us=1.0)
    style.use_style()
    panels = figure.draw(pd.concat([table, other])).axes
    assert len(panels) == 2
    for axes, factor in zip(panels, (1.0, 1e-3), strict=True):
        floor, *points = axes.lines
        scale = "study" if factor == 1 else "paper"
        rows = table[table["scale"] == scale]
        assert sorted(floor.get_ydata()) == pytest.approx(
            sorted(rows["floor_us"] * factor)
        )
        assert sorted(p.get_ydata()[0] for p in points) == pytest.approx(
            sorted(rows["measured_us"] * factor)
        )
        assert {p.get_marker() for p in points} == {"o", "s"}
        colours = {to_hex(p.get_color()).upper() for p in points}
        assert colours == set(style.COLOURS.values())
        hollow = [p for p in points if p.get_markerfacecolor() == "white"]
        assert len(hollow) == 4
        assert len([p for p in points if p.get_alpha() == figure.PALE]) == 6
        assert len(axes.texts) == 6  # arrows
        # Set apart by less than the depths are.
        places = np.array([p.get_xdata()[0] for p in points])
        assert len(set(places.round(9))) == 6


def test_without_compiled_rows_the_ordinary_workload_is_drawn() -> None:
    table = drawn()
    table = table[table["mode"] == "eager"].assign(workload="fixed")
    axes = figure.draw(table[table["scale"] == "study"]).axes
    assert len(axes) == 1
    assert not axes[0].texts
