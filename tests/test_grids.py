"""What the grids of a configuration expand to: runs, controls, interventions."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from made_up import study_of
from shallower.errors import UserError
from shallower.models.config import HeadVariant, LlamaConfig
from shallower.models.registry import HEADS
from shallower.study.stages import evaluation_spec, latency_spec, sizes_spec
from shallower.study.study import Study, load_study

SKIPPED = "baseline-8__skip=attention.last.2"


def with_grid(configuration: dict, experiment: str, **settings: Any) -> Study:
    """The depth experiment and one grid more, by default of baselines with 5 blocks."""
    grid = {"variants": ["baseline"], "depths": [5], "seeds": [0]} | settings
    depth = configuration["experiments"]["depth"]
    experiments: dict[str, Any] = {"depth": depth}
    experiments[experiment] = [*experiments.get(experiment, []), grid]
    return load_study(configuration | {"experiments": experiments, "contrasts": []})


def test_an_option_that_changes_nothing_shares_the_run(configuration: dict) -> None:
    rates = {"lr": [1e-3, 3e-3]}
    study = with_grid(configuration, "learning_rate", options=rates, seeds=[9])
    assert study.runs_of("learning_rate") == [
        ("baseline-5__lr=1e-3", 9),
        ("baseline-5", 9),
    ]
    training = study.spec("baseline-5__lr=1e-3", 9).training
    assert training.learning_rate == 1e-3
    usual = study.spec("baseline-5", 0).training
    assert training.model_copy(update={"learning_rate": 3e-3}) == usual


def test_a_search_never_sees_the_test_split(configuration: dict) -> None:
    study = with_grid(configuration, "learning_rate", seeds=[9])
    assert study.scored_on("baseline-5", 9) == ["validation"]
    assert {"text", "qa"} <= set(study.scored_on("baseline-5", 0))
    assert "validation" not in study.scored_on("baseline-5", 0)


def test_a_search_of_t5_pretrains_and_no_more(configuration: dict) -> None:
    sizes = {"sizes": ["mini"]}
    asked = {"ffn": ["none"], "lr": [5e-3, 1e-2]}
    study = study_of(
        configuration, t5=[sizes], t5_learning_rate=[sizes | {"options": asked}]
    )
    assert study.models_of("t5") == ["t5_mini-2", "t5_mini-2__task=pairs"]
    # 1e-2 is the rate of pretraining as it is; what is searched alone is not compared.
    found = study.runs_of("t5_learning_rate")
    none = "t5_mini-2__ffn=none"
    assert found == [(f"{none}__lr=5e-3", 100), (none, 100)]
    for model, seed in found:
        assert study.scored_on(model, seed) == ["validation"]
    assert study.scored_on("t5_mini-2", 0) == ["spans"]
    assert study.scored_on("t5_mini-2__task=pairs", 0) == ["pairs"]
    assert study.seeds_of(none) == [100]
    with pytest.raises(UserError, match=r"t5\.sizes has no 'large'"):
        study_of(configuration, t5_learning_rate=[{"sizes": ["large"]}])


def test_a_label_of_t5_means_the_rate_that_was_asked_for(configuration: dict) -> None:
    """Also where the plain T5 has a rate of its own, which labels then leave out."""
    sizes = {"sizes": ["mini"]}
    asked = {"ffn": ["default", "none"], "lr": [4e-3, 1e-2], "steps": [50]}
    overrides = {"t5_mini-2": {"learning_rate": 4e-3}}
    training = configuration["training"] | {"overrides": overrides}
    study = study_of(
        configuration | {"training": training},
        t5=[sizes],
        t5_learning_rate=[sizes | {"options": asked}],
    )
    rates = {
        model: study.spec(model, 0).training.learning_rate
        for model in study.models_of("t5_learning_rate")
    }
    assert rates == {
        "t5_mini-2__steps=50": 4e-3,
        "t5_mini-2__lr=0.01__steps=50": 1e-2,
        "t5_mini-2__ffn=none__steps=50": 4e-3,
        "t5_mini-2__ffn=none__lr=0.01__steps=50": 1e-2,
    }
    tuned = study.spec("t5_mini-2__task=pairs", 0).training
    assert tuned.learning_rate == study.t5.finetuning.learning_rate


def test_a_narrower_model_keeps_its_proportions(configuration: dict) -> None:
    study = with_grid(configuration, "budget", options={"width": [64]})
    sizes = study.spec("baseline-5__width=64", 0).model
    assert (sizes.width, sizes.ffn_hidden, sizes.heads) == (64, 172, 8)


def test_an_override_changes_one_model(configuration: dict) -> None:
    plain = load_study(configuration)
    overrides = {"proposed-5": {"learning_rate": 1e-3}}
    configuration["training"]["overrides"] = overrides
    changed = load_study(configuration)
    models = plain.depth_models
    different = {m for m in models if plain.spec(m, 0) != changed.spec(m, 0)}
    assert different == {"proposed-5"}
    assert changed.spec("proposed-5", 0).training.learning_rate == 1e-3


def test_grids_take_the_experiments_seeds(configuration: dict) -> None:
    grid = {"variants": ["baseline", "proposed"], "depths": [5, 6], "seeds": None}
    configuration["experiments"] = {"seeds": [4, 5], "depth": [grid]}
    configuration["contrasts"] = []
    assert load_study(configuration).seeds == [4, 5]


def test_a_new_variant_changes_no_other_run(
    configuration: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_study(configuration).spec("proposed-5", 0)
    monkeypatch.setitem(HEADS, "mine", HeadVariant(linear="per_head"))
    study = with_grid(configuration, "head", variants=["mine"], depths=[6])
    assert study.spec("proposed-5", 0) == before
    assert "mine-6" in study.models


def test_a_student_has_two_controls(configuration: dict) -> None:
    study = with_grid(
        configuration, "distillation", options={"teacher": ["baseline-8"]}
    )
    student = "baseline-5__teacher=baseline-8"
    control = "baseline-5__equal_flops=baseline-8"
    assert study.pairs["equal_tokens"] == [(student, "baseline-5")]
    assert study.pairs["equal_flops"] == [(student, control)]
    spec = study.spec(student, 0)
    assert spec.distillation is not None
    assert spec.distillation.teacher == "baseline-8"
    # As many steps as usual; the run itself works out how many more it may take.
    spec = study.spec(control, 0)
    assert spec.training == study.spec("baseline-5", 0).training
    assert spec.equal_flops == study.spec("baseline-8", 0).model
    with pytest.raises(UserError, match="needs its teacher baseline-9"):
        with_grid(configuration, "distillation", options={"teacher": ["baseline-9"]})


# --- interventions --------------------------------------------------------------------


def test_an_intervention_trains_nothing(configuration: dict) -> None:
    options = {"skip": ["attention.last.2"]}
    study = with_grid(configuration, "skip", depths=[8], seeds=[0, 1], options=options)
    assert set(study.runs) == set(with_grid(configuration, "head").runs)
    assert study.interventions_of == {"baseline-8": [SKIPPED]}
    assert study.intervened == [(SKIPPED, 0), (SKIPPED, 1)]
    assert SKIPPED in study.front
    assert SKIPPED not in study.models
    [written] = evaluation_spec(study, "baseline-8", 1).interventions
    assert written.skip == "attention.last.2"
    assert evaluation_spec(study, "baseline-8", 2).interventions == []
    [timed] = [m for m in latency_spec(study).models if m.label == SKIPPED]
    assert (timed.run, timed.intervention) == ("baseline-8", "skip=attention.last.2")
    [counted] = [m for m in sizes_spec(study).models if m.label == SKIPPED]
    assert counted.config.skip.attention == (6, 7)


def test_runs_that_an_intervention_needs_are_trained(configuration: dict) -> None:
    options = {"teacher": ["baseline-8"], "skip": ["block.first.1"]}
    options |= {"tuned": [0.5], "eliminate": ["acc.2"]}  # type: ignore[dict-item]
    study = with_grid(
        configuration, "combined", variants=["proposed"], depths=[6], options=options
    )
    new = set(study.models) - set(with_grid(configuration, "head").models)
    student = "proposed-6__teacher=baseline-8"
    assert new == {student, f"{student}__tuned=0.5"}
    label = f"{student}__tuned=0.5__skip=block.first.1__eliminate=acc.2"
    assert list(study.interventions) == [label]
    assert study.spec(f"{student}__tuned=0.5", 0).parent == student
    # The parent had the teacher; the run that continues it has none.
    assert study.spec(student, 0).distillation is not None
    assert study.spec(f"{student}__tuned=0.5", 0).distillation is None


def test_healing_continues_without_a_part(configuration: dict) -> None:
    options = {"skip": ["attention.last.2"], "healed": [0.5], "by": ["data", "self"]}
    study = with_grid(configuration, "skip", depths=[8], options=options)
    healed, taught = f"{SKIPPED}__healed=0.5", f"{SKIPPED}__healed=0.5__by=self"
    spec, parent = study.spec(healed, 1), study.spec("baseline-8", 1)
    assert spec.parent == "baseline-8"
    assert isinstance(spec.model, LlamaConfig)
    assert spec.model.skip.attention == (6, 7)
    assert spec.training.steps == parent.training.steps // 2
    assert spec.first_step == parent.training.steps
    rate = configuration["healing"]["learning_rate"]
    assert spec.training.learning_rate == rate
    assert spec.distillation is None
    by_self = study.spec(taught, 1).distillation
    assert by_self is not None
    assert by_self.teacher == "baseline-8"


def test_tuning_eliminates_in_training(configuration: dict) -> None:
    options = {"tuned": [0.1], "eliminate": ["acc.3"]}
    study = with_grid(configuration, "elimination", depths=[8], options=options)
    spec = study.spec("baseline-8__tuned=0.1", 0)
    assert spec.elimination is not None
    assert spec.elimination.speedup == configuration["tuning"]["speedup"]
    assert spec.elimination.prompt_tokens == 384
    assert spec.parent == "baseline-8"
    assert study.interventions_of["baseline-8__tuned=0.1"] == [
        "baseline-8__tuned=0.1__eliminate=acc.3"
    ]


def test_other_runs_depend_on_none_of_it(configuration: dict) -> None:
    before = with_grid(configuration, "head")
    configuration["healing"] = {"learning_rate": 0.5}
    configuration["tuning"] = {"speedup": 3}
    after = with_grid(configuration, "head")
    assert all(before.spec(*run) == after.spec(*run) for run in before.runs)


def test_the_plot_has_one_budget_and_one_score(configuration: dict) -> None:
    study = load_study(copy.deepcopy(configuration))
    assert not [label for label in study.front if "steps=" in label or "lr=" in label]
    for label in set(study.front) & set(study.models):
        for seed in study.seeds_of(label):
            assert "continuation" in study.scored_on(label, seed)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"skip": ["attention.last.9"]}, "9 blocks to skip: expected 0 to 8"),
        ({"skip": ["attention.lst.2"]}, "a rule of last, last_but_one"),
        ({"skip": ["attention.random.2"]}, "a rule of last, last_but_one"),
        ({"eliminate": ["acc.0.5"]}, "a speed-up of 1 or more"),
        ({"healed": [0.1]}, "nothing to heal"),
        ({"by": ["self"]}, "`by` belongs to `healed`"),
        ({"skip": ["ffn.greedy.2"], "healed": [0.1]}, "cannot be healed"),
        ({"eliminate": ["akk.2"]}, "expected <rule>.<speed-up>"),
        ({"step": [5]}, "no such option, did you mean 'steps'"),
        ({"equal_flops": ["baseline-8"]}, "no such option"),
    ],
)
def test_bad_options_are_refused(
    configuration: dict, options: dict[str, list[Any]], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        with_grid(configuration, "skip", depths=[8], options=options)
