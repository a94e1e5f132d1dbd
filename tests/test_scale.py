"""A study of 1,000 or 10,000 runs, and what every start of the pipeline waits for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pytest
import yaml
from benchmarks import overhead
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from project import ARM_RUNS, ARMS, ROOT, RUNS, Project
from shallower.config import Study, load_study
from shallower.files import read_json, sha256
from shallower.reporting import figures, second, style
from shallower.reporting.contents import FIGURES
from shallower.reporting.figures import draw_all

ONE_ARGUMENT = 128 * 1024  # bytes, Linux' MAX_ARG_STRLEN
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


def test_ten_thousand_runs_expand_in_seconds(configuration: dict) -> None:
    before = time.process_time()
    study = large(configuration, 50)
    assert len(study.runs) > 10_000
    for model, seed in study.runs:
        assert study.run(model, seed)["seed"] == seed
        assert study.scored_on(model, seed)
    # Two seconds; looking through all runs for each would take minutes.
    assert time.process_time() - before < 20


def test_seeds_have_specifications_of_their_own(configuration: dict) -> None:
    study = load_study(configuration)
    study.run("proposed-5", 0)["training"]["steps"] = 1
    assert study.run("proposed-5", 1)["training"]["steps"] > 1


def test_what_every_command_gets_does_not_grow_with_the_runs(
    configuration: dict,
) -> None:
    """The study itself: 1,000 values of an option take a few bytes each."""
    study = large(configuration, 1000)
    assert len(study.runs) > 200_000
    assert len(study.model_dump_json()) < ONE_ARGUMENT / 4


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every job of a study with more than 1,000 runs, with its command."""
    overlay = tmp_path_factory.mktemp("large") / "overlay.yaml"
    content = {"study": "large", "experiments": {"learning_rate": search(5)}}
    overlay.write_text(yaml.safe_dump(content))
    command = ["snakemake", "--dry-run", "--nolock", "--printshellcmds"]
    command += ["--quiet", "host", "--configfile", str(overlay)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout + run.stderr


def test_no_command_line_holds_every_run(dry_run: str) -> None:
    commands = re.findall(r"^.*python -m shallower (\w+).*$", dry_run, re.MULTILINE)
    assert commands.count("train") > 1000
    longest: dict[str, int] = {}
    for line in dry_run.splitlines():
        command = re.search(r"python -m shallower (\w+)", line)
        if command:
            longest[command[1]] = max(longest.get(command[1], 0), len(line))
    assert {"summary", "parameters", "latency", "claims"} < longest.keys()
    assert max(longest.values()) < ONE_ARGUMENT / 8, longest


def test_one_rule_alone_looks_at_every_run(dry_run: str) -> None:
    """An edge of the graph costs .1 ms: a run's files are the input of one rule."""
    inputs = re.findall(
        r"^(?:local)?rule (\w+):\n +input: (.*)$", dry_run, re.MULTILINE
    )
    many = {rule for rule, files in inputs if files.count(",") > 200}
    assert many == {"summary"}
    evaluate = [files.count(",") + 1 for rule, files in inputs if rule == "evaluate"]
    # Denoising is scored on tokens alone: of a split, with weights and tokenizer.
    assert min(evaluate) == 3


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
        ("shallower.reporting.figures", ["seaborn", "scipy.stats", "torch"]),
        ("shallower.training.loop", ["pandas", "scipy", "matplotlib"]),
    ],
)
def test_a_stage_loads_what_it_needs(module: str, without: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {without} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_the_theme_is_seaborns() -> None:
    sns = pytest.importorskip("seaborn")
    with mpl.rc_context():
        sns.set_theme(context="paper", style="ticks", font_scale=0.85)
        sns.set_palette([mpl.colors.to_hex(c) for c in sns.color_palette("deep")])
        style.use_style()
        due = dict(mpl.rcParams)
    with mpl.rc_context():
        mpl.rcdefaults()
        style.use_style()
        found = dict(mpl.rcParams)
    for settings in (due, found):
        # Colour maps and fonts that no figure uses; and lower case for colours.
        for unused in ("image.cmap", "font.sans-serif", "backend"):
            del settings[unused]
        cycle = settings.pop("axes.prop_cycle").by_key()["color"]
        settings["colours"] = [colour.upper() for colour in cycle]
    differ = {key for key in due if due[key] != found[key]}
    assert all(due[key] == pytest.approx(found[key]) for key in differ), differ


# --- the smoke study ------------------------------------------------------------------


@pytest.mark.smoke
def test_runs_json_lists_what_every_run_left(project: Project) -> None:
    listed = read_json(project.results / "runs.json")
    assert len(listed) == 6 * RUNS + 2 * ARMS + ARM_RUNS
    for name in list(listed)[::7]:
        assert listed[name] == sha256(project.results / name)


@pytest.mark.smoke
def test_a_runs_file_that_changed_reaches_the_paper(project: Project) -> None:
    """Through runs.json, though no later rule has the file itself as input."""
    name = "results/smoke/runs/silu-1/seed0/diagnostics.csv"
    with project.edited(name, "", "1,0,made_up,1\n"):
        stale = project.stale()
    later = {"front", "claims", "figures", "tables", "typeset", "provenance", "paper"}
    assert set(stale) - {"notebook_comparison"} == {"summary", *later}


@pytest.mark.smoke
def test_a_model_the_study_lacks_is_named(project: Project) -> None:
    path = "results/smoke/runs/proposed-9/seed0/model.safetensors"
    run = project.snakemake("-n", "--", path)
    assert run.returncode != 0
    assert "no such model in study smoke: proposed-9" in run.stdout + run.stderr


@pytest.mark.smoke
def test_the_overhead_is_made_of_every_job(project: Project) -> None:
    found = overhead.jobs(project.results)
    rules = [job.rule for job in found]
    assert rules.count("train") == rules.count("evaluate") == RUNS
    assert {"corpus", "shard", "latency", "summary", "figures", "paper"} < set(rules)
    assert all(job.end > job.start for job in found)
    commands = overhead.imports()
    for job in found:
        command = re.search(r"-m shallower ([\w-]+)", job.command)
        assert command is None or commands[command[1]]
    assert json.dumps(commands["evaluate"]) == '["shallower.evaluation.evaluate"]'
    assert overhead.run_seconds(Path(project.folder), found) > 0


@pytest.mark.smoke
def test_figures_are_the_same_whoever_draws_them(
    project: Project, tmp_path: Path
) -> None:
    """By two processes, and without the SVG, as `verify` has them drawn."""
    settings = read_json(project.results / "provenance.json")["configuration"]
    draw_all(project.results, settings, tmp_path / "both", processes=2)
    draw_all(project.results, settings, tmp_path / "pdf", ["pdf"])
    for figure in FIGURES:
        due = project.results / "figures" / figure
        both = tmp_path / "both" / "figures" / figure
        for kind in (".pdf", ".svg"):
            assert sha256(due.with_suffix(kind)) == sha256(both.with_suffix(kind))
        alone = tmp_path / "pdf" / "figures" / f"{figure}.pdf"
        assert sha256(alone) == sha256(due.with_suffix(".pdf"))
    assert not list((tmp_path / "pdf" / "figures").glob("*.svg"))


@pytest.mark.smoke
def test_no_figure_spills_over_its_edge(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where labels leave too little room, the layout gives up and cuts text off."""
    outside = {}

    def measure(
        figure: Figure, _folder: Path, name: str, _kinds: Sequence[str]
    ) -> None:
        FigureCanvasAgg(figure).draw()
        box, size = figure.get_tightbbox(), figure.get_size_inches()
        ends = [-box.x0, -box.y0, box.x1 - size[0], box.y1 - size[1]]
        outside[name] = max(ends)

    monkeypatch.setattr(style, "save", measure)
    # As long as a larger study's: of a student, and of half an FFN.
    for name, words in (
        ("student_label", "baseline-5 from baseline-8, alpha 0.1"),
        ("label", "no FFN, second half, 8 blocks"),
    ):
        monkeypatch.setattr(second, name, lambda _, words=words: words)
    settings = read_json(project.results / "provenance.json")["configuration"]
    with mpl.rc_context():
        figures._draw(project.results, settings, project.results, [], list(FIGURES))
    assert set(outside) == set(FIGURES)
    assert {name: by for name, by in outside.items() if by > 0.02} == {}  # inches
