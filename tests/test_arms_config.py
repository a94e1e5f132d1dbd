"""Skipping, elimination and what combines, from the configuration to specifications."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from project import ROOT
from shallower.config import Study, load_study
from shallower.errors import UserError
from shallower.models.choices import parse_elimination, parse_skip
from shallower.names import ModelName, parse_name

LATTER = "baseline-8__skip=attention.latter.2"


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The default configuration without the three experiments."""
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["experiments"] |= {"skip": [], "elimination": [], "combined": []}
    return content


def with_grids(plain: dict[str, Any], **experiments: list[dict[str, Any]]) -> Study:
    content = copy.deepcopy(plain)
    content["experiments"] |= experiments
    return load_study(content)


def grid(variant: str, depth: int, **options: list[Any]) -> list[dict[str, Any]]:
    return [
        {"variants": [variant], "depths": [depth], "seeds": [0, 1], "options": options}
    ]


def test_arm_stands_over_its_run_and_is_not_trained(plain: dict[str, Any]) -> None:
    study = with_grids(plain, skip=grid("baseline", 8, skip=["attention.latter.2"]))
    before = with_grids(plain)
    assert set(study.runs) == set(before.runs)
    assert study.arms_of == {"baseline-8": [LATTER]}
    assert study.arm_cells == [(LATTER, 0), (LATTER, 1)]
    assert LATTER in study.front
    assert LATTER not in study.models
    assert ("baseline-8", 0) in study.timed_runs


def test_runs_that_arms_need_come_with_them(plain: dict[str, Any]) -> None:
    options = {"teacher": ["baseline-8"], "skip": ["block.early.1"]}
    options |= {"tuned": [0.5], "eliminate": ["acc.2"]}
    study = with_grids(plain, combined=grid("proposed", 6, **options))
    new = [m for m in study.models if m not in with_grids(plain).models]
    student = "proposed-6__teacher=baseline-8"
    assert sorted(new) == [student, f"{student}__tuned=0.5"]
    arm = f"{student}__tuned=0.5__skip=block.early.1__eliminate=acc.2"
    assert list(study.arms) == [arm]
    assert study.parent_of(f"{student}__tuned=0.5") == student
    # The parent had the teacher; going on has none.
    assert study.teacher_of(student) == "baseline-8"
    assert study.teacher_of(f"{student}__tuned=0.5") is None


def test_healing_goes_on_without_a_part(plain: dict[str, Any]) -> None:
    options = {"skip": ["attention.latter.2"], "healed": [0.5], "by": ["data", "self"]}
    study = with_grids(plain, skip=grid("baseline", 8, **options))
    healed, taught = f"{LATTER}__healed=0.5", f"{LATTER}__healed=0.5__by=self"
    assert {healed, taught} <= set(study.models)
    spec, whole = study.run(healed, 1), study.run("baseline-8", 1)
    steps = whole["training"]["steps"]
    assert spec["parent"] == "baseline-8"
    assert spec["model"] == whole["model"] | {"skip": {"attention": [6, 7]}}
    assert spec["training"]["steps"] == steps // 2
    assert spec["first_step"] == steps
    assert spec["training"]["learning_rate"] == plain["healing"]["learning_rate"]
    assert "distillation" not in spec
    assert study.run(taught, 1)["distillation"]["teacher"] == "baseline-8"
    assert study.teacher_of(taught) == "baseline-8"


def test_tuning_eliminates_in_training(plain: dict[str, Any]) -> None:
    options = {"tuned": [0.1], "eliminate": ["acc.3"]}
    study = with_grids(plain, elimination=grid("baseline", 8, **options))
    spec = study.run("baseline-8__tuned=0.1", 0)
    assert spec["elimination"]["speedup"] == plain["tuning"]["speedup"]
    assert spec["elimination"]["prompt_tokens"] == 384
    assert spec["parent"] == "baseline-8"
    assert "skip" not in spec["model"]
    assert study.arms_of["baseline-8__tuned=0.1"] == [
        "baseline-8__tuned=0.1__eliminate=acc.3"
    ]


def test_other_runs_depend_on_none_of_it(plain: dict[str, Any]) -> None:
    changed = copy.deepcopy(plain)
    changed |= {"healing": {"learning_rate": 0.5}, "tuning": {"speedup": 3}}
    before, after = load_study(plain), load_study(changed)
    assert [before.run(*cell) for cell in before.runs] == [
        after.run(*cell) for cell in after.runs
    ]


def test_front_has_one_budget(plain: dict[str, Any]) -> None:
    study = with_grids(plain)
    assert "baseline-5__teacher=baseline-8" in study.front
    assert not [model for model in study.front if "steps=" in model or "lr=" in model]


def test_every_run_of_the_front_is_scored_on_the_same_windows(
    plain: dict[str, Any],
) -> None:
    study = load_study(yaml.safe_load((ROOT / "config.yaml").read_text()))
    runs = [model for model in study.front if model in study.models]
    for model in runs:
        for seed in study.seeds_of(model):
            assert "continuation" in study.scored_on(model, seed)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"skip": ["attention.latter.9"]}, "9 blocks to skip: expected 0 to 8"),
        ({"skip": ["attention.later.2"]}, "a rule of latter, latter_keep_last"),
        ({"eliminate": ["acc.0.5"]}, "a speed-up of 1 or more"),
        ({"healed": [0.1]}, "nothing to heal"),
        ({"by": ["self"]}, "`by` belongs to `healed`"),
        ({"skip": ["ffn.greedy.2"], "healed": [0.1]}, "cannot be healed"),
        ({"eliminate": ["akk.2"]}, "expected <rule>.<speed-up>"),
    ],
)
def test_bad_arms_are_refused(
    plain: dict[str, Any], options: dict[str, list[Any]], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        _ = with_grids(plain, skip=grid("baseline", 8, **options)).models


def test_names_are_taken_apart_and_put_together() -> None:
    text = "proposed-6__teacher=baseline-8__skip=ffn.cosine.2__eliminate=acc.1.5"
    name = parse_name(text)
    assert str(name) == text
    assert name.is_arm
    assert str(name.run) == "proposed-6__teacher=baseline-8"
    healed = ModelName("baseline", 8, {"skip": "ffn.early.1", "healed": 0.1})
    assert not healed.is_arm
    assert healed.run == healed


def test_choices() -> None:
    assert parse_skip("attention.latter.2").blocks(8) == (6, 7)
    assert parse_skip("ffn.cosine.2").blocks(4, [0.3, 0.1, 0.2, 0.4]) == (1, 2)
    assert parse_skip("ffn.greedy.2").blocks(4, path=[3, 1, 0, 2]) == (1, 3)
    both = parse_skip("block.latter_keep_last.1")
    assert both.skip(both.blocks(3)).attention == both.skip((1,)).ffn == (1,)
    draws = {parse_skip(f"attention.random{i}.3").blocks(8) for i in range(3)}
    assert len(draws) == 3
    acc = (1.0, 0.5)
    assert parse_elimination("window.2").elimination(acc, 2).first is False
    assert parse_elimination("random.2").elimination(acc, 2).profile == acc
    assert parse_elimination("linear.2").elimination(acc, 2).profile != acc
    assert parse_elimination("acc.1.25").speedup == 1.25
