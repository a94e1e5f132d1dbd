"""A study of 1,000 or 10,000 runs, and what every start of the pipeline waits for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from project import ROOT, RUNS, Project
from shallower.files import read_json, sha256
from shallower.study.study import Study, load_study

VARIANTS = ["baseline", "proposed", "silu", "linear", "silu_even"]


def search(rates: int) -> list[dict]:
    """A search with 200 runs for each learning rate."""
    grid = {"variants": VARIANTS, "depths": [5, 6, 7, 8], "seeds": [*range(100, 110)]}
    return [
        grid | {"options": {"lr": [round(1e-4 + 1e-5 * i, 6) for i in range(rates)]}}
    ]


def large(configuration: dict, rates: int) -> Study:
    configuration["experiments"]["learning_rate"] = search(rates)
    return load_study(configuration)


@pytest.mark.slow
def test_ten_thousand_runs_expand(configuration: dict) -> None:
    study = large(configuration, 50)
    assert len(study.runs) > 10_000
    for model, seed in study.runs:
        assert study.spec(model, seed).seed == seed
        assert study.scored_on(model, seed)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every job of a study with more than 1,000 runs, with its command."""
    project = Project(tmp_path_factory.mktemp("large"))
    content = {"study": "large", "experiments": {"learning_rate": search(5)}}
    (project.folder / "overlay.yaml").write_text(yaml.safe_dump(content))
    command = ["snakemake", "--dry-run", "--printshellcmds", "--quiet", "host"]
    run = project.run(*command, "--configfile", "overlay.yaml")
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout + run.stderr


@pytest.mark.slow
def test_commands_are_short_and_can_be_read(dry_run: str) -> None:
    """They name files; none holds the study, and none grows with the runs."""
    commands = re.findall(r"shallower ([\w-]+) (--.*)$", dry_run, re.M)
    rules = [rule for rule, _ in commands]
    assert rules.count("train-run") > 1000
    assert {"summary", "parameters", "latency", "estimates", "tables"} < set(rules)
    assert max(len(text) for _, text in commands) < 1000
    assert not [text for _, text in commands if "{" in text]


@pytest.mark.slow
def test_one_rule_alone_depends_on_every_run(dry_run: str) -> None:
    """An edge of the graph costs .1 ms: a run's files are the input of one rule."""
    inputs = re.findall(
        r"^(?:local)?rule (\w+):\n +input: (.*)$", dry_run, re.MULTILINE
    )
    many = {rule for rule, files in inputs if files.count(",") > 200}
    assert many == {"summary"}


def test_the_rules_import_neither_torch_nor_pandas() -> None:
    lines = [
        line
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        for line in path.read_text().splitlines()
        if line.startswith("from shallower")
    ]
    assert len(lines) > 4
    slow = "{'torch', 'pandas', 'numpy', 'matplotlib', 'scipy', 'pyarrow'}"
    code = "\n".join(["import sys", *lines, f"print({slow} & set(sys.modules))"])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("shallower.cli", ["torch", "pandas", "numpy", "matplotlib"]),
        ("shallower.reporting.tables", ["matplotlib", "seaborn", "torch"]),
        ("shallower.training.loop", ["pandas", "scipy", "matplotlib"]),
    ],
)
def test_a_stage_loads_what_it_needs(module: str, without: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {without} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# --- the smoke study ------------------------------------------------------------------


@pytest.mark.smoke
def test_runs_json_lists_what_every_run_left(project: Project) -> None:
    listed = read_json(project.results / "runs.json")
    assert len(listed) == 7 * RUNS
    for name in list(listed)[::7]:
        assert listed[name] == sha256(project.results / name)


@pytest.mark.smoke
def test_a_runs_file_that_was_edited_is_made_again(project: Project) -> None:
    """That run, and all that comes after it."""
    name = "results/smoke/runs/silu-1/seed0/diagnostics.csv"
    with project.edited(name, "", "1,0,made_up,1\n"):
        stale = project.stale()
    later = {"estimates", "figures", "tables", "typeset", "provenance", "paper"}
    shown = {"notebook_comparison", "notebook_claim"}
    again = {"train", "evaluate", "latency", "summary", "page", *later}
    assert set(stale) - shown == again
    assert stale["train"] == stale["evaluate"] == 1


@pytest.mark.smoke
def test_a_model_the_study_lacks_is_named(project: Project) -> None:
    path = "results/smoke/runs/proposed-9/seed0/model.safetensors"
    run = project.snakemake("-n", "--", path)
    assert run.returncode != 0
    assert "no such model in study smoke: proposed-9" in run.stdout + run.stderr
