"""What models change, by their names: systems, changes taken away, and phrases."""

from __future__ import annotations

import pytest

from shallower.analysis.changes import (
    PLACES,
    RANKED,
    changes_of,
    is_plain,
    phrase,
    without,
)
from shallower.models.choices import ELIMINATIONS, SEARCHED
from shallower.models.selection import RULES
from shallower.names import parse_name
from shallower.systems import system_of


@pytest.mark.parametrize(
    ("model", "system"),
    [
        ("baseline-5", "S1"),  # depth
        ("proposed-5", "S1"),
        ("matched-5__steps=30", "S1"),
        ("none-8", "S2"),
        ("three_matrices-8__ratio=1.2", "S2"),
        ("baseline-5__teacher=baseline-8", "S2"),
        ("baseline-8__heads=12", "S2"),
        ("baseline-8__head_size=32", "S2"),
        ("t5_mini-2__ffn=none__task=pairs", "S2"),
        ("bag_of_words", "S2"),
        ("baseline-8__skip=attention.latter.2", "S3"),
        ("baseline-8__skip=attention.latter.2__healed=0.1__by=self", "S3"),
        ("baseline-8__tuned=0.1", "S4"),
        ("baseline-8__eliminate=acc.2", "S4"),
        ("proposed-8__ffn=one_matrix", "combined"),
        ("proposed-5__teacher=baseline-8", "combined"),
        ("none-8__skip=attention.latter.2", "combined"),
        ("proposed-8__tuned=0.1", "combined"),
        ("baseline-8__skip=attention.latter.2__eliminate=acc.2", "combined"),
    ],
)
def test_systems(model: str, system: str) -> None:
    assert system_of(model) == system


ALL = (
    "proposed-6__ffn=three_matrices__ratio=2__teacher=baseline-8__alpha=0.1"
    "__tuned=0.1__skip=attention.latter.2__healed=0.05__by=self__eliminate=acc.2"
)


@pytest.mark.parametrize(
    ("model", "change", "left"),
    [
        ("proposed-8", "head", "baseline-8"),
        ("proposed-8__ffn=three_matrices", "head", "three_matrices-8"),
        ("proposed-8__ffn=three_matrices__ratio=2", "ffn", "proposed-8"),
        ("three_matrices-8__ratio=2", "ffn", "baseline-8"),
        (ALL, "ffn", ALL.replace("__ffn=three_matrices__ratio=2", "")),
        (ALL, "teacher", ALL.replace("__teacher=baseline-8__alpha=0.1", "")),
        (
            ALL,
            "skip",
            ALL.replace("__skip=attention.latter.2__healed=0.05__by=self", ""),
        ),
        (
            ALL,
            "eliminate",
            ALL.replace("__tuned=0.1", "").replace("__eliminate=acc.2", ""),
        ),
    ],
)
def test_a_change_is_taken_away(model: str, change: str, left: str) -> None:
    assert change in changes_of(parse_name(model))
    assert str(without(parse_name(model), change)) == left


def test_every_change_can_go_in_any_order() -> None:
    name = parse_name(ALL)
    assert changes_of(name) == ["head", "ffn", "teacher", "skip", "eliminate"]
    for order in (changes_of(name), changes_of(name)[::-1]):
        left = name
        for change in order:
            assert not is_plain(left)
            left = without(left, change)
        assert str(left) == "baseline-6"
        assert is_plain(left)
        assert changes_of(left) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("baseline-8", "none"),
        ("baseline-1", "1 block"),
        ("proposed-5", "5 blocks, proposed heads"),
        ("none-8", "no FFN"),
        (
            "one_matrix_relu-8__where=first_half",
            "one matrix relu as FFN in the first half",
        ),
        ("baseline-8__heads=12__head_size=32", "12 heads, heads of 32"),
        (
            "baseline-5__teacher=baseline-8__alpha=0.1",
            "5 blocks, taught by baseline-8 (alpha 0.1)",
        ),
        ("baseline-8__skip=block.latter.1", "all of the last block skipped"),
        (
            "baseline-8__skip=attention.latter.2__healed=0.1",
            "attention of the last 2 blocks skipped, healed on 10 % of the steps",
        ),
        ("baseline-8__skip=ffn.random0.2", "FFN of 2 blocks by chance skipped"),
        (
            "baseline-8__tuned=0.05__eliminate=random.1.5",
            "tuned on 5 % of the steps, tokens dropped by chance, prefill 1.5 times",
        ),
    ],
)
def test_phrases(model: str, words: str) -> None:
    assert phrase(parse_name(model), 8) == words


def test_every_rule_has_words() -> None:
    assert set(PLACES) == {*RULES, *SEARCHED}
    assert set(RANKED) == set(ELIMINATIONS)
