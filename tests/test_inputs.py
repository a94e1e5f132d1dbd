"""Input files of stages: written when they say something new; why a run is stale."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from shallower.errors import UserError
from shallower.files import RECORDS
from shallower.study import inputs
from shallower.study.inputs import Inputs, changes, code_changes
from shallower.study.runs import EvaluationSpec, LatencySpec, RunSpec, read_spec
from shallower.study.study import Study, load_study, read_study
from shallower.trusted import check_code


@pytest.fixture
def study(configuration: dict) -> Study:
    experiments = {"depth": configuration["experiments"]["depth"]}
    return load_study(configuration | {"experiments": experiments, "contrasts": []})


def times(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_files_say_what_stages_are_told(study: Study, tmp_path: Path) -> None:
    files = Inputs(study, tmp_path)
    files.write()
    assert read_study(files.study_file) == study
    run = ("proposed-6", 2)
    assert RunSpec.read(files.spec_file(run)) == study.spec(*run)
    evaluation = read_spec(EvaluationSpec, files.evaluation_file(run))
    assert (evaluation.name, evaluation.seed) == run
    assert read_spec(LatencySpec, files.settings_file("latency")).models
    code = json.loads(files.code_file("train", "proposed-6").read_text())
    assert "models.llama" in code


def test_nothing_is_written_twice(study: Study, tmp_path: Path) -> None:
    Inputs(study, tmp_path).write()
    before = times(tmp_path)
    Inputs(study, tmp_path).write()
    assert times(tmp_path) == before


def test_what_would_change_is_said_of_contrasts_too(
    study: Study, tmp_path: Path
) -> None:
    files = Inputs(study, tmp_path)
    files.write()
    assert files.pending() == {}
    margin = study.margin.model_copy(update={"nats": 0.07})
    other = study.model_copy(update={"margin": margin})
    found = Inputs(other, tmp_path).pending()
    assert list(found) == [files.study_file]
    [words] = found[files.study_file]
    assert words.startswith("margin.nats")
    assert words.endswith("-> 0.07")


def test_code_of_modules_that_the_study_no_longer_has_stops_no_job(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a variant that was dropped, whose module is deleted."""
    files = Inputs(study, tmp_path)
    files.write()
    due = files.code_file("train", "proposed-6")
    due.with_stem("train-mine").write_text('{"models.layers.mine": "0"}')
    monkeypatch.setattr("shallower.running.started", lambda _: time.time_ns())
    check_code(files.directory, "train-run", due)
    code = json.loads(due.read_text())
    due.write_text(json.dumps(code | {"models.gone": "0"}))
    with pytest.raises(UserError, match=r"gone.py: edited while the study is made"):
        check_code(files.directory, "train-run", due)


def test_one_models_setting_changes_its_files_alone(
    configuration: dict, tmp_path: Path
) -> None:
    configuration |= {
        "experiments": {"depth": configuration["experiments"]["depth"]},
        "contrasts": [],
    }
    Inputs(load_study(configuration), tmp_path).write()
    before = times(tmp_path)
    rate = {"proposed-5": {"learning_rate": 1e-3}}
    configuration["training"]["overrides"] = rate
    Inputs(load_study(configuration), tmp_path).write()
    after = times(tmp_path)
    changed = {
        name.removeprefix("default/")
        for name in after
        if after[name] != before[name] and RECORDS not in name
    }
    assert changed == {
        "study.json",
        "settings/latency.json",
        *(f"runs/proposed-5/seed{seed}/spec.yaml" for seed in range(3)),
    }


def test_a_file_without_a_new_fields_default_stays(
    study: Study, tmp_path: Path
) -> None:
    """As written before the field was there: the same specification, so no new file."""
    files = Inputs(study, tmp_path)
    files.write()
    path = files.spec_file(("baseline-5", 0))
    content = yaml.safe_load(path.read_text())
    assert content["training"].pop("loss_chunk") == 0
    content["model"]["head"].pop("layer")
    text = yaml.safe_dump(content)
    path.write_text(text)
    Inputs(study, tmp_path).write()
    assert path.read_text() == text
    # A value that is not the default says something else.
    content["training"]["loss_chunk"] = 64
    path.write_text(yaml.safe_dump(content))
    Inputs(study, tmp_path).write()
    assert RunSpec.read(path) == study.spec("baseline-5", 0)


# --- why ------------------------------------------------------------------------------


def finished(files: Inputs, run: tuple[str, int]) -> None:
    """Pretend that a run was trained with what its files say now."""
    code = json.loads(files.code_file("train", run[0]).read_text())
    spec = files.study.spec(*run).model_dump(mode="json")
    facts = {"made_with": {"spec": spec, "code": code}}
    path = files.spec_file(run).with_name("training.json")
    path.write_text(json.dumps(facts))


def test_reasons_are_said_in_words(
    configuration: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration |= {
        "experiments": {"depth": configuration["experiments"]["depth"]},
        "contrasts": [],
    }
    files = Inputs(load_study(configuration), tmp_path)
    files.write()
    assert list(files.reasons()) == []
    for seed in range(3):
        finished(files, ("proposed-5", seed))
    finished(files, ("baseline-5", 0))
    assert list(files.reasons()) == []
    configuration["training"]["overrides"] = {"proposed-5": {"learning_rate": 1e-3}}
    changed = Inputs(load_study(configuration), tmp_path)
    changed.write()
    assert list(changed.reasons()) == ["proposed-5: learning_rate 0.003 -> 0.001"]

    def edited(stage: str, model: object) -> tuple[str, dict[str, str]]:
        name, digests = real(stage, model)
        return name, digests | {"models.llama": "another"}

    real = inputs.run_code
    monkeypatch.setattr(inputs, "run_code", edited)
    changed = Inputs(files.study, tmp_path)
    changed.write()
    assert list(changed.reasons()) == [
        "baseline-5, proposed-5: code: models/llama.py changed"
    ]


def test_differences_in_words() -> None:
    before = {"training": {"steps": 3}, "parent": None, "model": {"depth": 5}}
    after = {"training": {"steps": 4}, "parent": "x", "model": {"depth": 5}}
    assert list(changes(before, after)) == ["steps 3 -> 4", "parent nothing -> x"]
    assert list(code_changes({"a.b": "1", "c": "2"}, {"a.b": "3", "d": "4"})) == [
        "code: a/b.py changed",
        "code: c.py is gone",
        "code: d.py is new",
    ]
    assert list(code_changes({}, {"a": "1"})) == []  # made by hand, without digests
