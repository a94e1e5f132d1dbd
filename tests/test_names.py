"""Names of models, and what a grid's options make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shallower.config import load_study
from shallower.errors import UserError
from shallower.names import ModelName, short, split_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-3, "1e-3"),
        (4.5e-3, "4.5e-3"),
        (0.2, "0.2"),
        (2000, "2000"),
        (0.0566, "0.0566"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


@given(st.floats(1e-6, 1e5))
def test_short_numbers_are_right(value: float) -> None:
    assert float(short(value)) == pytest.approx(value, rel=1e-5)


def test_options_stand_in_one_order() -> None:
    name = ModelName("silu", 5, {"init_std": 0.05, "lr": 1e-3})
    assert str(name) == "silu-5__lr=1e-3__init_std=0.05"
    assert split_name(str(name)) == ("silu", 5, {"lr": "1e-3", "init_std": "0.05"})


def grid(configuration: dict, experiment: str, **settings: object) -> dict:
    usual = {"variants": ["baseline"], "depths": [5], "seeds": [0]}
    configuration["experiments"] |= {"head": [], "learning_rate": [], "budget": []}
    configuration["experiments"][experiment] = [usual | settings]
    configuration["contrasts"] = []
    return configuration


def test_an_option_that_changes_nothing_shares_the_run(configuration: dict) -> None:
    rates = {"lr": [1e-3, 3e-3]}
    study = load_study(grid(configuration, "learning_rate", options=rates, seeds=[9]))
    assert study.runs_of("learning_rate") == [
        ("baseline-5__lr=1e-3", 9),
        ("baseline-5", 9),
    ]
    run = study.run("baseline-5__lr=1e-3", 9)
    assert run["training"]["learning_rate"] == 1e-3
    assert (
        run["training"] | {"learning_rate": 3e-3}
        == study.run("baseline-5", 0)["training"]
    )


def test_a_search_never_sees_the_test_split(configuration: dict) -> None:
    study = load_study(grid(configuration, "learning_rate", seeds=[9]))
    assert study.scored_on("baseline-5", 9) == ["validation"]
    assert "text" in study.scored_on("baseline-5", 0)
    assert "validation" not in study.scored_on("baseline-5", 0)
    assert "qa" in study.scored_on("baseline-5", 0)


def test_a_narrower_model_keeps_its_proportions(configuration: dict) -> None:
    study = load_study(grid(configuration, "budget", options={"width": [64]}))
    sizes = study.run("baseline-5__width=64", 0)["model"]
    assert (sizes["width"], sizes["ffn_hidden"], sizes["heads"]) == (64, 172, 8)


def test_unknown_options_are_refused(configuration: dict) -> None:
    with pytest.raises(UserError, match="no such option, did you mean 'steps'"):
        load_study(grid(configuration, "budget", options={"step": [5]}))


def test_contrasts_name_models(configuration: dict) -> None:
    wrong = {"id": "x", "left": "silu-4", "right": "baseline-5", "test": "superiority"}
    configuration["contrasts"] = [wrong]
    with pytest.raises(UserError, match="no such model 'silu-4', did"):
        load_study(configuration)
