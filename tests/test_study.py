"""The configuration is complete, strict and clear; labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from project import ROOT
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.models.config import LlamaConfig
from shallower.models.registry import HEADS
from shallower.study.names import ModelName, short
from shallower.study.runs import LatencySpec, RunSpec, SizesSpec
from shallower.study.stages import latency_spec, sizes_spec
from shallower.study.study import Study, load_study


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


def test_seeds_of_a_search_are_its_own(configuration: dict) -> None:
    """Also where one of its rates is that of all other runs."""
    rate = configuration["training"]["learning_rate"]
    grid = {"variants": ["baseline"], "depths": [5, 9], "seeds": [100]}
    grid["options"] = {"lr": [rate / 4, rate, rate * 4]}
    configuration["experiments"]["learning_rate"] = [grid]
    study = load_study(configuration)
    assert ("baseline-5", 100) in study.runs
    assert 100 not in study.seeds_of("baseline-5")
    assert study.seeds_of("baseline-9") == [100], "nothing else trains it"
    timed = {model.label: model.seeds for model in latency_spec(study).models}
    assert timed["baseline-5"] == study.seeds_of("baseline-5")


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")))
def test_overlays(overlay: Path) -> None:
    configuration = yaml.safe_load((ROOT / "config.yaml").read_text())
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
        ("experiments.depth", [DEPTH | {"seeds": [0, 0]}], r"seeds: found 0 twice"),
        (
            "experiments.depth",
            [DEPTH | {"variants": ["propsed"]}],
            r"variants\.0: no such variant, did you mean 'proposed'",
        ),
        ("experiments.depth", [], r"depth: expected one grid"),
        ("corpus.chat.items", 0, r"corpus\.chat\.items"),
        ("study", "My Study", r"study: "),
        ("tokenizer.vocabulary", 10, r"tokenizer\.vocabulary"),
        ("latency.sessions", 0, r"latency\.sessions"),
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
