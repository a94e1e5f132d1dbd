"""Tables of skipping, elimination and all methods say what the files say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from shallower.names import parse_name
from shallower.reporting import arm_tables, methods
from shallower.reporting.arms import AXES
from shallower.reporting.labels import printed
from shallower.reporting.latex import interval, number
from shallower.reporting.nulls import plain
from shallower.reporting.results import Results

ARMS = [
    arm_tables.skipping_table,
    arm_tables.elimination_table,
    methods.additivity_table,
]
ALL = [
    *ARMS,
    methods.methods_table,
    methods.gains_table,
    methods.choice_per_token,
    methods.choice_first_token,
]


def lines(text: str) -> dict[str, list[str]]:
    """Cells of each row by the first that says something: a model's name."""
    found = {}
    for line in text.splitlines():
        if line.endswith(r"\\"):
            cells = [cell.strip() for cell in line.removesuffix(r"\\").split("&")]
            found[next((c for c in cells if c), "")] = cells
    return found


@pytest.mark.parametrize("table", ALL)
def test_rows_have_all_columns_and_no_live_text(
    systems: Results, table: Callable[[Results], str]
) -> None:
    text = table(systems)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 4
    assert (
        len(
            {
                line.replace(r"\&", "").count("&")
                for line in rows
                if "multicolumn" not in line
            }
        )
        == 1
    )
    assert "__" not in text
    assert "%" not in text.replace(r"\%", "")
    assert "nan" not in text


@pytest.mark.parametrize("table", ALL)
def test_any_study_has_the_table(
    without_arms: Results, table: Callable[[Results], str]
) -> None:
    text = table(without_arms)
    assert ("not in this study" in text) == (table in ARMS)


def test_skipping(systems: Results) -> None:
    model = "baseline-8__skip=attention.latter.2"
    row = lines(arm_tables.skipping_table(systems))[printed(model)]
    compared = systems.gains[
        (systems.gains["model"] == model) & (systems.gains["axis"] == "per_token")
    ]
    for null, place in (("depth", 9), ("block", 11)):
        due = compared[compared["null"] == null].iloc[0]
        assert row[place] == number(due["effect"], 3)
        assert row[place + 1] == interval(due["total_low"], due["total_high"], 3)
    assert row[1] == "3"
    assert row[4] == "1.10"
    assert float(row[7]) == pytest.approx(900 / 850, abs=0.02)
    assert row[8] == "91"  # 1 / 1.1, in percent
    whole = lines(arm_tables.skipping_table(systems))[
        printed("baseline-8__skip=block.latter.4")
    ]
    assert whole[-2:] == ["{--}", ""]  # it is what the null is made of


def test_elimination(systems: Results) -> None:
    rows = lines(arm_tables.elimination_table(systems))
    row = rows[printed("baseline-8__eliminate=acc.2")]
    nats = float(row[2])
    assert float(row[4]) == pytest.approx(100 * (np.exp(nats) - 1), abs=0.06)
    assert row[5] == "2.00"
    assert float(row[6]) == pytest.approx(2**0.93, rel=0.06)
    # A tuned arm is held against the model before it was tuned.
    tuned_row = rows[printed("baseline-8__tuned=0.1__eliminate=acc.2")]
    tuned = float(tuned_row[2].replace("$-$", "-"))
    assert tuned == pytest.approx(0.02 - 0.015, abs=0.02)
    assert printed("baseline-8__tuned=0.1") in rows


def test_which_models_are_shown(systems: Results) -> None:
    table = methods.chosen(systems)
    shown, every = set(table["model"]), systems.methods
    assert len(shown) <= methods.ROWS < len(every)
    on_front = every[every["on_front_per_token"] | every["on_front_first_token"]]
    assert set(on_front["model"]) <= shown
    assert set(every.loc[every["system"] == "combined", "model"]) <= shown
    assert {f"baseline-{depth}" for depth in range(3, 9)} <= shown
    # Of the models that eliminate by ACC and nothing else, one.
    acc = [m for m in shown if m.startswith("baseline-8__eliminate=acc")]
    assert len(acc) == 1
    kinds = [methods.family(parse_name(m)) for m in every["model"]]
    assert methods.family(parse_name("baseline-8__skip=attention.random1.2")) in kinds
    assert methods.is_control("baseline-8__skip=attention.random1.2")
    assert not methods.is_control("baseline-8__skip=attention.latter.2")


def test_methods(systems: Results) -> None:
    text = methods.methods_table(systems)
    rows = [line.split(" & ") for line in text.splitlines() if line.count("&") == 11]
    by_model = {cells[1]: cells for cells in rows}
    due = systems.methods.set_index("model").loc[
        "baseline-8__tuned=0.1__eliminate=acc.2"
    ]
    row = by_model[printed("baseline-8__tuned=0.1__eliminate=acc.2")]
    assert row[2] == str(due["changes"]).replace("%", r"\%")
    assert row[3] == number(due["parameters"] / 1e6, 2)
    assert row[6] == number(due["per_token"], 0)
    assert row[7] == number(due["first_token"] / 1e3, 2)
    assert row[9] == interval(due["quality_ci_low"], due["quality_ci_high"], 3)
    assert row[11].startswith(due["verdict"])
    assert row[0] in ("S4", "")
    assert by_model["baseline~8"][11].startswith("{--}")


def test_choices_are_the_front(systems: Results) -> None:
    for axis in AXES:
        bands = methods.choices(systems, axis)
        rows = systems.pareto[systems.pareto["axis"] == axis]
        assert {row["model"] for *_, row in bands} == set(
            rows.loc[rows["on_front"], "model"]
        )
        assert all(high == low for (_, high, _), (low, _, _) in pairwise(bands))
        assert bands[-1][1] == np.inf
        nats = [row["quality"] for *_, row in bands]
        assert nats == sorted(nats, reverse=True)
        # Whoever waits until within a band finds no better model that is as fast.
        for low, high, row in bands:
            within = rows[rows["latency"] <= (low + min(high, 2 * low)) / 2]
            assert within["quality"].min() == row["quality"]


def test_open_ends_of_a_speed_up() -> None:
    row = {"speedup": 1.5, "speedup_low": 1.1, "speedup_high": np.inf}
    assert methods.faster_cells(pd.Series(row)) == ["1.50", r"[1.10, $\infty$]"]
    unknown = pd.Series(dict.fromkeys(row, np.nan))
    assert methods.faster_cells(unknown) == ["{--}", ""]


def test_additivity(systems: Results) -> None:
    text = methods.additivity_table(systems)
    for row in systems.additivity.to_dict("records"):
        cells = [printed(row[key]) for key in ("both", "a", "b")] + [
            str(row["n"]),
            number(row["effect"], 3),
        ]
        assert " & ".join(cells) in text
    words = methods.sum_words
    assert words(-0.2, -0.1, "not supported") == "better than the sum"
    assert words(0.1, 0.2, "not supported") == "worse than the sum"
    assert words(-0.1, 0.2, "inconclusive") == "not told from the sum"
    assert words(-0.01, 0.01, "supported") == "as the sum"
    assert words(np.nan, np.nan, "not tested") == "not tested"


def test_lists() -> None:
    assert methods.listed([]) == "none"
    assert methods.listed(["a"]) == "a"
    assert methods.listed(["a", "b", "c"]) == "a, b and c"
    assert methods.listed(["a, b", "c"], ";") == "a, b; and c"


def test_no_system_is_crowded_out(
    systems: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row each where there is room for one, and the best of its kinds."""
    table = systems.methods
    fronts = table[[f"on_front_{axis}" for axis in methods.AXES]].eq(True).any(axis=1)
    first = int((table["model"].map(plain) | fronts).sum())
    others = set(table.loc[~fronts & ~table["model"].map(plain), "system"])
    assert len(others) > 3
    monkeypatch.setattr(methods, "ROWS", first + len(others))
    kept = methods.chosen(systems)
    assert len(kept) == first + len(others)
    shown = kept[~kept["model"].isin(table.loc[fronts, "model"])]
    assert set(shown.loc[~shown["model"].map(plain), "system"]) == others
