"""The configuration: complete, strict, and clear about what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from shallower.config import load_study
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.models.llama import LlamaConfig
from shallower.models.registry import HEADS
from shallower.models.variants import HeadVariant


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
        section = section[key]
    section[last] = value
    return configuration


def test_default_study(configuration: dict) -> None:
    study = load_study(configuration)
    assert len(study.runs_of("depth")) == 24
    assert len(set(study.runs)) == len(study.runs) == 85
    assert list(study.models)[:2] == ["baseline-5", "baseline-6"]
    run = study.run("proposed-7", 2)
    config = LlamaConfig.parse(run["model"])  # the model takes every key, and no other
    assert (config.depth, run["seed"]) == (7, 2)
    assert config.head == HEADS["proposed"]


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")))
def test_overlays(configuration: dict, overlay: Path) -> None:
    # paper-seeds.yaml and the like go behind paper.yaml and add to its results.
    bases = [s for s in ("paper", "small-gpu") if overlay.stem.startswith(f"{s}-")]
    behind = overlay.with_stem(bases[0]) if bases else None
    for path in filter(None, (behind, overlay)):
        configuration = merge(configuration, yaml.safe_load(path.read_text()))
    assert load_study(configuration).study == (behind or overlay).stem


def test_overlays_at_the_papers_scale_share_runs(configuration: dict) -> None:
    def runs(*names: str) -> dict[tuple[str, int], dict]:
        merged = configuration
        for name in names:
            text = (ROOT / "config" / f"{name}.yaml").read_text()
            merged = merge(merged, yaml.safe_load(text))
        study = load_study(merged)
        return {(model, seed): study.run(model, seed) for model, seed in study.runs}

    paper, seeds = runs("paper"), runs("paper", "paper-seeds")
    whole = runs("paper", "paper-seeds", "paper-ablations")
    assert (len(paper), len(seeds)) == (8, 40)
    assert paper.items() <= seeds.items() <= whole.items()


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
        ("model.heads", 7, r"model: width 128 must be a multiple of 2 x heads"),
        ("corpus.text.source", "web", r"corpus\.text: .*web"),
        ("corpus.text.pakage", "x", r"corpus\.text\.package\.pakage: unknown key"),
        (
            "corpus.text.package.fiel",
            "x",
            r"corpus\.text\.package\.fiel: unknown key, did you mean 'file'",
        ),
        ("evaluation.new_tokens", 511, r"evaluation\.new_tokens: 511 leave no room"),
        ("latency.study.prompt_tokens", 490, r"latency\.study: 490 \+ 24"),
        ("paper_scale.depths", [8, 5], r"paper_scale\.depths: expected ascending"),
        (
            "experiments.depth",
            [{"variants": ["baseline", "proposed"], "depths": [5], "seeds": [0]}],
            r"at least two depths",
        ),
        (
            "experiments.depth",
            [{"variants": ["baseline", "silu"], "depths": [5, 6], "seeds": [0]}],
            r"baseline and proposed are needed",
        ),
        (
            "experiments.depth",
            [{"variants": ["baseline", "proposed"], "depths": [5, 6], "seeds": [0, 0]}],
            r"seeds: an entry stands twice",
        ),
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
            "experiments.depth",
            [{"variants": ["propsed"], "depths": [5], "seeds": [0]}],
            r"variants\.0: no such variant, did you mean 'proposed'",
        ),
        ("experiments.depth", [], r"depth: expected one grid"),
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


def test_an_override_changes_one_model(configuration: dict) -> None:
    plain = load_study(configuration)
    overrides = {"proposed-5": {"learning_rate": 1e-3}}
    changed = load_study(change(configuration, "training.overrides", overrides))
    models = plain.depth_models
    different = {m for m in models if plain.run(m, 0) != changed.run(m, 0)}
    assert different == {"proposed-5"}
    assert changed.run("proposed-5", 0)["training"]["learning_rate"] == 1e-3


def test_an_overlay_may_change_the_kind_of_a_source(configuration: dict) -> None:
    """And does not inherit the other kind's licence or limit."""
    overlay: dict = {"corpus": {"text": {"source": "files", "files": {"limit": 5}}}}
    with pytest.raises(UserError, match=r"corpus\.text\.files\.paths: missing"):
        load_study(merge(configuration, overlay))
    overlay["corpus"]["text"]["files"]["paths"] = ["x.jsonl.zst"]
    source = load_study(merge(configuration, overlay)).corpus.text
    assert (source.source, source.licence, source.limit) == ("files", "not stated", 5)


def test_what_a_rule_passes_on_is_read_back(configuration: dict) -> None:
    corpus = load_study(configuration).corpus
    assert Corpus.model_validate(corpus.model_dump(mode="json")) == corpus


def test_a_new_variant_changes_no_other_run(
    configuration: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_study(configuration).run("proposed-5", 0)
    monkeypatch.setitem(HEADS, "mine", HeadVariant(linear="per_head"))
    assert load_study(configuration).run("proposed-5", 0) == before
    grid = {"variants": ["baseline", "proposed", "mine"], "depths": [5, 6]}
    change(configuration, "experiments", {"depth": [grid | {"seeds": [0]}]})
    change(configuration, "contrasts", [])
    assert "mine-6" in load_study(configuration).models


def test_the_data_guides_example_is_a_study(configuration: dict) -> None:
    guide = (ROOT / "docs" / "data.md").read_text()
    example = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])
    study = load_study(merge(configuration, example))
    assert study.corpus.qa.data.source == "files"
    assert "Wikipedia" not in study.corpus.text.licence
