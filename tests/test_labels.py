"""Models in words."""

from __future__ import annotations

import pytest

from made_up import all_systems
from shallower.reporting.labels import applied, label, printed
from shallower.study.names import ModelName

HEALED = {"skip": "attention.last.2", "healed": 0.05, "by": "self"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (ModelName("baseline", 8), "baseline 8"),
        (ModelName("silu_even", 5), "silu even 5"),
        (ModelName("three_matrices", 8, {"ratio": 1.2}), "3W 8, ratio 1.2"),
        (ModelName("proposed", 8, {"ffn": "three_matrices"}), "proposed 3W 8"),
        (
            ModelName("proposed", 5, {"teacher": "baseline-8", "alpha": 0.5}),
            "proposed 5, from baseline 8, alpha 0.5",
        ),
        (ModelName("t5_small", 6), "T5 small"),
        (
            ModelName(
                "t5_mini",
                2,
                {"ffn": "three_matrices", "where": "encoder", "task": "pairs"},
            ),
            "T5 mini 3W, encoder only",
        ),
        (
            ModelName("baseline", 8, {"skip": "block.random2.3"}),
            "baseline 8, skip blocks: 3 at random (2)",
        ),
        (
            ModelName("baseline", 8, HEALED),
            "baseline 8, skip attention of the last 2, healed 5 % by itself",
        ),
        (
            ModelName("baseline", 8, {"tuned": 0.1, "eliminate": "acc.1.5"}),
            "baseline 8, tuned 10 %, eliminate ×1.5 by attention received",
        ),
    ],
)
def test_labels(name: ModelName, words: str) -> None:
    assert label(name) == words


def test_every_model_of_the_front_has_a_label_of_its_own() -> None:
    study = all_systems()
    names = [study.names[model] for model in study.front]
    assert len({label(name) for name in names}) == len(names)


def test_printed_is_the_label_for_latex() -> None:
    name = ModelName("baseline", 8, {"tuned": 0.1, "eliminate": "window.2"})
    text = printed(name)
    assert text.count(", ") == label(name).count(", ") == 2
    assert r"10 \%" in text
    assert "×" not in text


def test_a_checkpoint_goes_by_its_name() -> None:
    name = ModelName("smollm2-135m", 30, {"skip": "attention.last.4"}, pretrained=True)
    assert label(name) == "smollm2-135m, skip attention of the last 4"
    assert label(name.run) == "smollm2-135m"
    assert applied(name) == "skip attention of the last 4"
    assert applied(name.run) == ""
