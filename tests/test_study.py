"""The configuration is complete, strict and clear; what its grids expand to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.models.config import HeadVariant, LlamaConfig
from shallower.models.registry import HEADS
from shallower.study.names import ModelName, short
from shallower.study.runs import LatencySpec, RunSpec, SizesSpec
from shallower.study.stages import evaluation_spec, latency_spec, sizes_spec
from shallower.study.study import Study, load_study

SKIPPED = "baseline-8__skip=attention.last.2"


def merge(base: dict, over: dict) -> dict:
    """As Snakemake merges configuration files: deeply, lists replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = merge(old, value) if both else value
    return merged


def change(configuration: dict, path: str, value: Any) -> dict:
    *parents, last = path.split(".")
    section = configuration
    for key in parents:
        section = section[int(key) if isinstance(section, list) else key]
    section[last] = value
    return configuration


# --- the files ------------------------------------------------------------------------


def test_default_study(configuration: dict) -> None:
    study = load_study(configuration)
    assert len(study.runs_of("depth")) == 24
    assert len(set(study.runs)) == len(study.runs)
    assert list(study.models)[:2] == ["baseline-5", "baseline-6"]
    spec = study.spec("proposed-7", 2)
    assert isinstance(spec.model, LlamaConfig)
    assert (spec.model.depth, spec.seed) == (7, 2)
    assert spec.model.head == HEADS["proposed"]
    assert study.spec("proposed-7", 1).seed == 1


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")))
def test_overlays(configuration: dict, overlay: Path) -> None:
    # paper-seeds.yaml and the like come after paper.yaml and add to its results.
    bases = [s for s in ("paper", "small-gpu") if overlay.stem.startswith(f"{s}-")]
    first = overlay.with_stem(bases[0]) if bases else None
    for path in filter(None, (first, overlay)):
        configuration = merge(configuration, yaml.safe_load(path.read_text()))
    assert load_study(configuration).study == (first or overlay).stem


def test_overlays_at_the_originals_scale_share_runs(configuration: dict) -> None:
    def specs(*names: str) -> dict[tuple[str, int], RunSpec]:
        merged = configuration
        for name in names:
            text = (ROOT / "config" / f"{name}.yaml").read_text()
            merged = merge(merged, yaml.safe_load(text))
        study = load_study(merged)
        return {run: study.spec(*run) for run in study.runs}

    paper, seeds = specs("paper"), specs("paper", "paper-seeds")
    everything = specs("paper", "paper-seeds", "paper-ablations")
    assert (len(paper), len(seeds)) == (8, 40)
    assert paper.items() <= seeds.items() <= everything.items()


def test_the_data_guides_example_is_a_study(configuration: dict) -> None:
    guide = (ROOT / "docs" / "data.md").read_text()
    example = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])
    study = load_study(merge(configuration, example))
    assert study.corpus.qa.data.source == "files"
    assert [source.licence for source in study.corpus.text] == [
        "see the data set's card"
    ]


def test_files_are_read_back_to_equal_objects(
    configuration: dict, tmp_path: Path
) -> None:
    study = load_study(configuration)
    for written, kind in (
        (study, Study),
        (study.corpus, Corpus),
        (latency_spec(study), LatencySpec),
        (sizes_spec(study), SizesSpec),
    ):
        assert kind.model_validate(json.loads(written.model_dump_json())) == written
    for model in study.models:
        spec = study.spec(model, 3)
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
        assert RunSpec.read(path) == spec
    path.write_text("name: baseline-5\nstep: 3\n")
    with pytest.raises(UserError, match=r"spec.yaml: .*step: unknown key") as caught:
        RunSpec.read(path)
    assert "\n" not in str(caught.value)


# --- errors ---------------------------------------------------------------------------

DEPTH = {"variants": ["baseline", "proposed"], "depths": [5, 6], "seeds": [0]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.stpes", 5, r"training\.stpes: unknown key, did you mean 'steps'"),
        ("trainig", {}, r"trainig: unknown key, did you mean 'training'"),
        ("training.steps", "many", r"training\.steps: .*'many'"),
        ("training.learning_rate", -1, r"training\.learning_rate: .*greater than 0"),
        ("training.batch_size", 0, r"training\.batch_size"),
        ("training.accumulation", 3, r"batch_size 2 must be a multiple"),
        ("training.precision", "float8", r"training\.precision: .*float8"),
        ("t5.pretraining.steps", "x", r"t5\.pretraining\.steps"),
        ("tuning.training.learning_rate", -1, r"tuning\.training\.learning_rate"),
        ("healing.stpes", 1, r"healing\.stpes: unknown key, did you mean 'steps'"),
        ("model.heads", 7, r"model: width 128 must be a multiple of 2 x heads"),
        ("corpus.text.source", "web", r"corpus\.text: .*web"),
        ("corpus.text.pakage", "x", r"corpus\.text\.package\.0\.pakage: unknown key"),
        (
            "corpus.text.package.1.fiel",
            "x",
            r"corpus\.text\.package\.1\.fiel: unknown key, did you mean 'file'",
        ),
        ("corpus.text.package.1.domain", None, r"corpus\.text: 1\.domain: missing"),
        ("corpus.text.package.0.domain", "speeches", r"text: 1\.domain: speeches is"),
        ("corpus.text.package", [], r"corpus\.text: .*at least 1"),
        (
            "corpus.chat.data.package.fiel",
            "x",
            r"corpus\.chat\.data\.package\.fiel: unknown key, did you mean 'file'",
        ),
        ("evaluation.new_tokens", 511, r"evaluation\.new_tokens: 511 leave no room"),
        ("latency.study.prompt_tokens", 490, r"latency\.study: 490 \+ 24"),
        (
            "latency.interventions.original.lengths",
            [600],
            r"latency\.interventions\.original\.lengths: 600 exceed",
        ),
        (
            "latency.interventions.skips",
            ["attention.greedy.2"],
            r"untrained models have nothing to choose by",
        ),
        ("original.depths", [8, 5], r"original\.depths: expected ascending"),
        ("experiments.depth", [DEPTH | {"depths": [5]}], r"at least two depths"),
        (
            "experiments.depth",
            [DEPTH | {"variants": ["baseline", "silu"]}],
            r"baseline and proposed are needed",
        ),
        ("experiments.depth", [DEPTH | {"seeds": [0, 0]}], r"seeds: found an entry"),
        (
            "experiments.depth",
            [DEPTH | {"variants": ["propsed"]}],
            r"variants\.0: no such variant, did you mean 'proposed'",
        ),
        ("experiments.depth", [], r"depth: expected one grid"),
        ("corpus.chat.items", 0, r"corpus\.chat\.items"),
        ("study", "My Study", r"study: "),
        ("tokenizer.vocabulary", 10, r"tokenizer\.vocabulary"),
        ("latency.sessions", 1, r"latency\.sessions"),
        (
            "training.overrides",
            {"proposed-55": {}},
            r"training\.overrides\.proposed-55: no such model, did you mean",
        ),
        ("training.overrides", {"proposed-5": {"lr": 1}}, r"overrides.*proposed-5.*lr"),
        (
            "contrasts",
            [
                {
                    "id": "x",
                    "left": "silu-4",
                    "right": "baseline-5",
                    "test": "superiority",
                }
            ],
            r"no such model 'silu-4', did",
        ),
    ],
)
def test_errors_name_the_key(
    configuration: dict, path: str, value: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_study(change(configuration, path, value))
    assert "\n" not in str(caught.value)


def test_missing_key(configuration: dict) -> None:
    del configuration["training"]["steps"]
    with pytest.raises(UserError, match=r"training\.steps: missing"):
        load_study(configuration)


def test_an_overlay_may_change_the_kind_of_a_source(configuration: dict) -> None:
    """And does not inherit the other kind's licence or limit."""
    overlay: dict = {"corpus": {"text": {"source": "files", "files": {"limit": 5}}}}
    with pytest.raises(UserError, match=r"corpus\.text\.files\.paths: missing"):
        load_study(merge(configuration, overlay))
    overlay["corpus"]["text"]["files"]["paths"] = ["x.jsonl.zst"]
    [source] = load_study(merge(configuration, overlay)).corpus.text
    assert (source.source, source.licence, source.limit) == ("files", "not stated", 5)


# --- labels ---------------------------------------------------------------------------


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


def test_labels() -> None:
    assert str(ModelName("silu", 5, {"init_std": 0.05, "lr": 1e-3})) == (
        "silu-5__lr=1e-3__init_std=0.05"  # always in the same order
    )
    options = {"teacher": "baseline-8", "skip": "ffn.cosine.2", "eliminate": "acc.1.5"}
    name = ModelName("proposed", 6, options)
    assert str(name) == (
        "proposed-6__teacher=baseline-8__skip=ffn.cosine.2__eliminate=acc.1.5"
    )
    assert name.is_intervened
    assert str(name.run) == "proposed-6__teacher=baseline-8"
    assert f"{name.run}__{name.intervention}" == str(name)
    assert (name.head, name.ffn, name.system) == ("proposed", "default", "combined")
    healed = ModelName("baseline", 8, {"skip": "ffn.first.1", "healed": 0.1})
    assert not healed.is_intervened
    assert (healed.run, str(healed.parent), healed.system) == (
        healed,
        "baseline-8",
        "S3",
    )
    assert (ModelName("none", 8).ffn, ModelName("none", 8).system) == ("none", "S2")
    assert ModelName("t5_mini", 2).system == "S2"


# --- grids ----------------------------------------------------------------------------


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


def test_a_narrower_model_keeps_its_proportions(configuration: dict) -> None:
    study = with_grid(configuration, "budget", options={"width": [64]})
    sizes = study.spec("baseline-5__width=64", 0).model
    assert (sizes.width, sizes.ffn_hidden, sizes.heads) == (64, 172, 8)


def test_an_override_changes_one_model(configuration: dict) -> None:
    plain = load_study(configuration)
    overrides = {"proposed-5": {"learning_rate": 1e-3}}
    changed = load_study(change(configuration, "training.overrides", overrides))
    models = plain.depth_models
    different = {m for m in models if plain.spec(m, 0) != changed.spec(m, 0)}
    assert different == {"proposed-5"}
    assert changed.spec("proposed-5", 0).training.learning_rate == 1e-3


def test_grids_take_the_experiments_seeds(configuration: dict) -> None:
    configuration["experiments"] = {"seeds": [4, 5], "depth": [DEPTH | {"seeds": None}]}
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
