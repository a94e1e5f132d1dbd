"""Names of models for people."""

from __future__ import annotations

import pytest

from made_up_systems import four_systems, overlaid
from shallower.reporting.labels import RULES, label, printed
from shallower.reporting.results import Results


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("baseline-8", "baseline 8"),
        ("silu_even-5", "silu even 5"),
        ("three_matrices-8__ratio=1.2", "3W 8, ratio 1.2"),
        ("proposed-8__ffn=three_matrices", "proposed 3W 8"),
        (
            "proposed-5__teacher=baseline-8__alpha=0.5",
            "proposed 5, from baseline 8, alpha 0.5",
        ),
        ("baseline-8__skip=attention.latter.2", "baseline 8, skip attention 2"),
        ("baseline-8__skip=ffn.early.1", "baseline 8, skip FFN 1 early"),
        ("baseline-8__skip=block.random2.3", "baseline 8, skip block 3 at random (2)"),
        (
            "baseline-8__skip=attention.latter.2__healed=0.05__by=self",
            "baseline 8, skip attention 2, healed 5 % by itself",
        ),
        (
            "baseline-8__tuned=0.1__skip=attention.latter.2__eliminate=acc.1.25",
            "baseline 8, tuned 10 %, skip attention 2, ACC ×1.25",
        ),
        ("baseline-8__eliminate=mean_visible.2", "baseline 8, ACC (mean) ×2"),
    ],
)
def test_labels(model: str, words: str) -> None:
    assert label(model) == words


@pytest.mark.parametrize("overlay", ["smoke", "small-gpu", "overnight"])
def test_every_model_has_a_label_of_its_own(configuration: dict, overlay: str) -> None:
    study = overlaid(configuration, overlay)
    names = [n for n in (study.models | study.arms).values() if not n.t5_size]
    labels = [label(name) for name in names]
    assert len(set(labels)) == len(labels) > 10


def test_labels_in_latex(systems: Results) -> None:
    assert printed("baseline-8__eliminate=acc.2") == r"baseline~8, ACC~\texttimes{}2"
    assert printed("baseline-8__tuned=0.1") == r"baseline~8, tuned~10~\%"
    assert set(RULES) == {"latter", "latter_keep_last", "early", "cosine", "greedy"}


def test_the_study_made_up_has_every_system(configuration: dict) -> None:
    study = four_systems(configuration)
    assert 45 < len(study.front) < 75
