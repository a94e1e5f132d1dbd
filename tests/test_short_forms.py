"""Overlays of few lines: short forms of grids, single settings, `shallower new`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_config

from project import ROOT
from shallower.cli import main
from shallower.errors import UserError
from shallower.study.configuration import apply, configured, merge, nested
from shallower.study.experiments import Experiments
from shallower.study.study import Study, load_study

BASE = ROOT / "config.yaml"
NONE: dict[str, list] = {
    name: [] for name in Experiments.model_fields if name not in ("seeds", "depth")
}


def study_of(configuration: dict, **experiments: object) -> Study:
    usual = {"depth": [{"depths": [5, 8], "variants": ["baseline", "proposed"]}]}
    more = {"contrasts": [], "experiments": NONE | usual | experiments}
    return load_study(configuration | more)


@pytest.mark.parametrize(
    ("experiment", "short", "written_out"),
    [
        ("depth", [5, 8], {"variants": ["baseline", "proposed"], "depths": [5, 8]}),
        ("head", ["silu"], {"variants": ["baseline", "silu"], "depths": [5]}),
        ("ffn", ["none"], {"variants": ["none"], "depths": [5]}),
        (
            "learning_rate",
            [1e-3, 4e-3],
            {
                "variants": ["baseline", "proposed"],
                "depths": [5],
                "seeds": [100],
                "options": {"lr": [1e-3, 4e-3]},
            },
        ),
        (
            "budget",
            [100, 200],
            {
                "variants": ["baseline"],
                "depths": [8],
                "options": {"steps": [100, 200]},
            },
        ),
        (
            "distillation",
            ["baseline-8"],
            {
                "variants": ["baseline"],
                "depths": [5],
                "options": {"teacher": ["baseline-8"]},
            },
        ),
        (
            "skip",
            ["attention.last.1"],
            {
                "variants": ["baseline"],
                "depths": [8],
                "options": {"skip": ["attention.last.1"]},
            },
        ),
        (
            "elimination",
            ["acc.2", "random.2"],
            {
                "variants": ["baseline"],
                "depths": [8],
                "options": {"eliminate": ["acc.2", "random.2"]},
            },
        ),
    ],
)
def test_a_list_of_words_is_one_grid(
    configuration: dict, experiment: str, short: list, written_out: dict
) -> None:
    found = study_of(configuration, **{experiment: short})
    assert found == study_of(configuration, **{experiment: [written_out]})
    assert found.runs


def test_a_grid_without_depths_gets_the_studys(configuration: dict) -> None:
    grids = [{"variants": ["silu"]}, {"variants": ["tanh"], "depths": [7]}]
    found = study_of(configuration, head=grids)
    assert set(found.models_of("head")) == {"silu-5", "tanh-7"}
    combined = study_of(configuration, combined=[{"variants": ["proposed"]}])
    assert combined.models_of("combined") == ["proposed-8"]


def test_what_is_written_out_is_left_alone(configuration: dict) -> None:
    study = load_study(configuration)
    assert load_study(study.model_dump(mode="json")) == study


def test_an_error_in_a_short_form_names_the_experiment(configuration: dict) -> None:
    with pytest.raises(UserError, match=r"experiments.head.*did you mean 'silu'"):
        study_of(configuration, head=["slu"])
    with pytest.raises(UserError, match=r"experiments.skip.*attention.lst.1"):
        study_of(configuration, skip=["attention.lst.1"])
    with pytest.raises(UserError, match=r"experiments.head.0.depths: missing"):
        study_of(configuration, depth=[], head=["silu"])


def test_null_takes_an_experiment_or_all_checkpoints_out() -> None:
    values = configured(BASE, [], ["pretrained=null", "experiments.ffn=null"])
    one_by_one = (
        "pretrained.models.smollm2-135m=null",
        *("pretrained.tasks=null", "pretrained.tasks_under=[]"),
        *("experiments.pretrained=[]", "latency.pretrained=null", "experiments.ffn=[]"),
    )
    by_hand = configured(BASE, [], one_by_one)
    found, due = load_study(values), load_study(by_hand)
    assert found.scored == due.scored == []
    assert found.names == due.names
    assert found.latency == due.latency
    assert "none-5" not in found.models


# --- single settings ------------------------------------------------------------------


def test_settings_are_nested_and_the_last_one_counts() -> None:
    given = ["training.steps=50", "model.width=32", "training.steps=60"]
    given += ["training.learning_rate=1e-3", "experiments.seeds=[0, 1]"]
    given += ["training.overrides.proposed-5.clip=.5", "study=x", "pretrained=null"]
    assert nested(given) == {
        "training": {
            "steps": 60,
            "learning_rate": 0.001,
            "overrides": {"proposed-5": {"clip": 0.5}},
        },
        "model": {"width": 32},
        "experiments": {"seeds": [0, 1]},
        "study": "x",
        "pretrained": None,
    }


@pytest.mark.parametrize("wrong", ["steps", "=5", "a..b=1", "a=[1"])
def test_a_setting_that_is_none(wrong: str) -> None:
    with pytest.raises(UserError, match=re.escape(wrong)):
        nested([wrong])


def test_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--config", str(BASE), "training.stps=50"])
    assert "training.stps: unknown key, did you mean 'steps'" in capsys.readouterr().err


def test_make_hands_settings_to_snakemake() -> None:
    """What `make paper` would run, parsed by Snakemake, gives the study asked for."""
    asked = ["study=short", "training.steps=50", "experiments.seeds=[0, 1]"]
    command = ["make", "-n", "paper", *asked, "training.learning_rate=1e-3"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    handed = re.search(r'--config (overrides=)"(.*?)"', said)
    assert handed, said
    values = merge(BASE, []) | parse_config([handed[1] + handed[2]])
    apply(values)
    study = load_study(values)
    assert (study.study, study.training.steps) == ("short", 50)
    assert study.training.learning_rate == 1e-3
    assert study.experiments.seeds == [0, 1]
    plain = subprocess.run(
        ["make", "-n", "paper", "CONFIG=config/smoke.yaml", "ARGS=-n"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    assert "overrides" not in plain


# --- shallower new --------------------------------------------------------------------


def test_new_writes_an_overlay_that_is_short_and_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["new", "my-study", "--folder", str(tmp_path)])
    path = tmp_path / "my-study.yaml"
    assert str(path) in capsys.readouterr().out
    study = load_study(merge(BASE, [path]))
    assert study.study == "my-study"
    assert study.scored == []
    assert study.models_of("head") == ["baseline-2", "silu-2"]
    # What gates need: a search with rates on both sides, and a model that is worse.
    assert len(study.models_of("learning_rate")) == 6
    assert study.models_of("combined") == ["baseline-1"]
    assert len(path.read_text().splitlines()) < 40


def test_every_example_of_the_overlay_is_valid(tmp_path: Path) -> None:
    main(["new", "my-study", "--folder", str(tmp_path)])
    path = tmp_path / "my-study.yaml"
    blocks = path.read_text().split("\n\n")
    examples = [block for block in blocks if block.startswith("#: ")]
    assert len(examples) >= 2
    for example in examples:
        text = re.sub(r"^#: ?", "", example, flags=re.M)
        assert yaml.safe_load(text)
        path.write_text("\n\n".join(blocks).replace(example, text))
        load_study(merge(BASE, [path]))


def test_new_writes_over_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    for name in ("mine", "My Study"):
        with pytest.raises(SystemExit):
            main(["new", name, "--folder", str(tmp_path)])
        assert name in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "study: mine\n"
    assert len(list(tmp_path.iterdir())) == 1
