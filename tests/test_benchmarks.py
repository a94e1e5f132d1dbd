"""The benchmarks' harness and table; what they measure is run by `make bench`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest
from benchmarks import __main__, goals, harness, models, table

from shallower.reporting.numbers import study


def test_implementations_take_turns_and_every_repeat_is_kept() -> None:
    calls: list[str] = []

    def call(name: str, value: float) -> harness.Implementation:
        return lambda: calls.append(name) or value

    both = {"a": call("a", 1), "b": call("b", 2)}
    rows = harness.alternate("w", "c", both, 8, "s", 1)
    assert sorted(calls[:2]) == ["a", "b"]  # the warm-up
    turns = [tuple(calls[i : i + 2]) for i in range(2, 18, 2)]
    assert set(turns) == {("a", "b"), ("b", "a")}
    assert len(rows) == 16
    assert {(r["implementation"], r["value"]) for r in rows} == {("a", 1), ("b", 2)}


@pytest.mark.parametrize(
    ("up", "expected"), [(True, "2 (1.5 to 3)"), (False, "0.5 (0.333 to 0.667)")]
)
def test_a_ratio_is_of_one_repeat(up: bool, expected: str) -> None:
    """Of 2/1, 3/2 and 6/2 the median is 2; of the medians it would be 1.5."""
    rows = [
        {"case": "c", "implementation": name, "repeat": i, "value": value, "unit": "s"}
        for name, values in (("ours", (2, 3, 6)), ("theirs", (1, 2, 2)))
        for i, value in enumerate(values)
    ]
    goal = goals.Goal("w", "c", "ours", "theirs", 1.9, up)
    shown = table.line(goal, pd.DataFrame(rows))
    assert expected in shown
    assert ("yes" in shown) == up


def test_a_figure_is_held_against_its_bound() -> None:
    row = {"case": "c", "implementation": "a", "repeat": 0, "value": 4.0, "unit": "s"}
    for bound, reached in ((3, "**no**"), (5, "yes")):
        goal = goals.Goal("w", "c", "a", None, bound, False)
        assert table.line(goal, pd.DataFrame([row])).endswith(f"| {reached} |")


def test_every_goal_has_a_work_that_can_be_run() -> None:
    assert {goal.work for goal in goals.ROWS} <= set(__main__.WORKS)
    for work in __main__.WORKS:
        assert callable(importlib.import_module(f"benchmarks.{work}").run)


def test_the_kept_table_is_what_the_kept_results_give() -> None:
    assert table.table() in table.README.read_text()


def test_all_three_models_are_the_same_model() -> None:
    import torch

    model = models.ours(2, 16, **models.STUDY).eval()
    ids = torch.randint(2048, (2, 16), generator=torch.Generator().manual_seed(0))
    for other in (models.Plain(model), models.hugging_face(model)):
        logits = other(ids)
        found = getattr(logits, "logits", logits)
        assert (found - model(ids)).abs().max() < 1e-5


def test_the_paper_quotes_ratios_of_one_repeat(tmp_path: Path) -> None:
    frame = [
        {
            "case": f"{s} size, {b} blocks, float32",
            "implementation": name,
            "repeat": i,
            "value": v,
        }
        for s in ("study", "paper")
        for b in (5, 8)
        for name, values in (
            (study.OURS, (1, 2, 2)),
            (study.THEIRS, (2, 3, 6)),
        )
        for i, v in enumerate(values)
    ]
    pd.DataFrame(frame).to_csv(tmp_path / "decode.csv", index=False)
    (tmp_path / "about.json").write_text(
        '{"device": "A & B", "commit": "abc", "versions": {"transformers": "5"}}'
    )
    found = dict(study.benchmarks(tmp_path))
    assert found["benchmark.device"] == r"A \& B"
    keys = [f"benchmark.original.8{end}" for end in ("", ".low", ".high")]
    assert [found[key] for key in keys] == ["2.0", "1.5", "3.0"]
