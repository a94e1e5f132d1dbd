"""The pipeline itself: the smoke study, run once for real, and what makes it stale."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from conftest import ROOT
from shallower.files import read_json, sha256
from shallower.reporting import reference
from shallower.reporting.contents import FIGURES, TABLES

pytestmark = pytest.mark.smoke
RUNS = 12  # of the smoke study
ANOTHER_START = ("workflow/shallower/models/initial.py", "STD = 0.02", "STD = 0.03")
MODELS = ["baseline-1", "baseline-2", "proposed-1", "proposed-2"]


class Project:
    """A copy of the working tree in which the smoke study has been run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # The copy's own package, not the checkout that is installed.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}
        self.results = folder / "results" / "smoke"

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `snakemake --configfile config/smoke.yaml ARGUMENTS`."""
        command = ["snakemake", "--configfile", "config/smoke.yaml", *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def shallower_verify(self) -> subprocess.CompletedProcess[str]:
        """Run the check behind `snakemake verify`, without Snakemake."""
        configuration = read_json(self.results / "provenance.json")["configuration"]
        sets = sorted(p.stem for p in (self.results / "summaries").glob("*.csv"))
        command = [sys.executable, "-m", "shallower", "verify", "--settings"]
        command += [json.dumps(configuration), "--results", "results/smoke"]
        return subprocess.run(
            [*command, "--sets", *sets],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def stale(self, *more: str) -> dict[str, int]:
        """Jobs that a dry run would start, by rule."""
        run = subprocess.run(
            ["snakemake", "-n", "--configfile", "config/smoke.yaml", *more],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        counts = re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
        return {rule: int(n) for rule, n in counts if rule not in ("total", "all")}

    @contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """The project with one edit in one file, undone at the end."""
        path = self.folder / name
        text, times = path.read_text(), path.stat()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        try:
            yield
        finally:
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    start = time.monotonic()
    run = project.snakemake()
    assert run.returncode == 0, run.stderr[-5000:]
    seconds = time.monotonic() - start
    print(f"smoke study: {seconds:.0f} s")
    # 90 on two quiet cores; a busy machine may need more, but not this much more.
    assert seconds < 300
    return project


@pytest.fixture(scope="session")
def text(project: Project) -> str:
    """The PDF's text, white space collapsed, with plain signs and separators."""
    pdf = project.folder / "report" / "paper.pdf"
    out = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True)
    return " ".join(out.stdout.decode().replace("−", "-").split())


# --- what comes out -------------------------------------------------------------------


def test_the_pdf_holds_table_1(text: str) -> None:
    for number in (
        *("128,789,504", "141,440,000", "154,090,496", "166,740,992"),
        *("129,449,984", "142,232,576", "155,015,168", "167,797,760"),
        *("660,480", "792,576", "924,672", "1,056,768"),
    ):
        assert number in text


def test_the_pdf_holds_the_summaries_numbers(project: Project, text: str) -> None:
    summary = pd.read_csv(project.results / "summary.csv")
    units = pd.read_csv(project.results / "by_seed.csv")
    for model in MODELS:
        rows = summary[(summary["model"] == model) & (summary["form"] == "trained")]
        rows = rows[rows["mode"] == "eager"].set_index(["scale", "dataset", "metric"])
        nats = rows.loc[("study", "text", "cross_entropy"), "mean"]
        perplexity = rows.loc[("study", "text", "perplexity"), "mean"]
        loss = rows.loc[("study", "train", "training_loss"), "mean"]
        line = rf"{model} [\d.]+ {loss:.3f} 2 {nats:.3f} \[[^]]+\] {perplexity:.1f}"
        assert re.search(line, text), line
        times = units[(units["model"] == model) & (units["dataset"] == "fixed")]
        times = times[(times["scale"] == "study") & (times["form"] == "trained")]
        times = times[times["mode"] == "eager"].groupby("metric")["value"].mean()
        first, token = times["time_to_first_token"], times["time_per_output_token"]
        assert f"{model} {first:,.0f} {token:,.0f}" in text
    comparisons = pd.read_csv(project.results / "comparisons.csv")
    row = comparisons[
        (comparisons["left"] == "proposed-1")
        & (comparisons["right"] == "baseline-2")
        & (comparisons["metric"] == "cross_entropy")
    ].iloc[0]
    assert f"{row['effect']:.3f}" in text


def test_tables_and_text_agree_with_the_corpus(project: Project, text: str) -> None:
    manifest = read_json(project.results / "corpus" / "manifest.json")
    train = manifest["datasets"]["text"]["counts"]["train"]
    assert f"{train:,}" in text
    tokens = read_json(project.results / "tokens" / "text" / "train" / "manifest.json")
    assert f"{tokens['tokens']:,}" in text


def test_latex_had_nothing_to_complain_about(project: Project) -> None:
    log = (project.results / "typeset" / "paper.log").read_text(errors="replace")
    assert "undefined" not in log.lower()
    assert "Missing character" not in log
    overfull = [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert all(width <= 5 for width in overfull), overfull


CONTRACTS = {
    "summary.csv": "model system scale form mode depth variant dataset metric unit"
    " n_seeds n mean median p5 p95 std ci_low ci_high",
    "summaries/qa.csv": "model system scale form mode depth variant dataset metric"
    " unit n_seeds n mean median p5 p95 std ci_low ci_high",
    "comparisons.csv": "left right dataset metric unit seeds n effect ci_low ci_high"
    " p p_holm method",
    "claims.csv": "id source claim effect ci_low ci_high threshold verdict note",
    "runs/silu-1/seed0/diagnostics.csv": "iteration block quantity value",
    "parameters.csv": "model system scale depth variant parameters_trained"
    " parameters_deployed flops_per_token",
    "latency.parquet": "model seed form mode scale workload batch dtype device threads"
    " session repeat prompt_tokens generated_tokens token_index nanoseconds",
    "step_time.parquet": "model session repeat tokens nanoseconds",
    "evaluations/proposed-2/seed1.parquet": "dataset group sample metric value weight",
    "runs/baseline-1/seed0/losses.csv": "iteration tokens loss learning_rate"
    " tokens_per_second",
    "corpus/text/train.parquet": "id text domain",
    "corpus/chat/test.parquet": "id prompt reference group",
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract_files_have_their_columns(project: Project, name: str) -> None:
    path = project.results / name
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    assert set(CONTRACTS[name].split()) <= set(table.columns)
    assert len(table)


def test_other_outputs_are_there(project: Project) -> None:
    expected = [
        f"figures/{figure}.{kind}" for figure in FIGURES for kind in ("pdf", "svg")
    ]
    expected += [f"tables/{table}.tex" for table in TABLES]
    expected += [f"summaries/{name}.csv" for name in ("text", "completion", "chat")]
    expected += ["numbers.tex", "paper.pdf", "provenance.json", "by_seed.csv"]
    for name in ("training", "comparison"):
        expected += [f"notebooks/{name}.ipynb", f"notebooks/{name}.html"]
    run = "runs/proposed-2/seed1/"
    expected += [run + "model.safetensors", run + "model-half.safetensors"]
    expected += [run + "spec.yaml", run + "training.json"]
    missing = [name for name in expected if not (project.results / name).is_file()]
    assert missing == []
    run_spec = yaml.safe_load((project.results / run / "spec.yaml").read_text())
    assert (run_spec["name"], run_spec["seed"]) == ("proposed-2", 1)


# --- what makes it stale --------------------------------------------------------------


def test_a_second_run_does_nothing(project: Project) -> None:
    assert project.stale() == {}


def test_a_comment_makes_nothing_stale(project: Project) -> None:
    old = '"""A small Llama'
    with project.edited("workflow/shallower/models/llama.py", old, "# Hi.\n" + old):
        assert project.stale() == {}


def test_a_line_of_model_code_makes_training_stale(project: Project) -> None:
    with project.edited(*ANOTHER_START):
        stale = project.stale()
    assert stale["train"] == stale["evaluate"] == RUNS
    assert "shard" not in stale


def test_a_figures_style_touches_no_torch(project: Project) -> None:
    with project.edited("workflow/shallower/reporting/style.py", "#0072B2", "#0072B3"):
        stale = project.stale()
    assert stale == {"figures": 1, "typeset": 1, "provenance": 1, "paper": 1}


def test_the_papers_text_only_typesets(project: Project) -> None:
    with project.edited("report/sections/related.tex", "the", "the very"):
        assert project.stale() == {"typeset": 1, "paper": 1}


def overlay(project: Project, content: dict) -> str:
    path = project.folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(content))
    return path.name


def test_one_models_setting_retrains_that_model_only(project: Project) -> None:
    overrides = {"proposed-2": {"learning_rate": 1e-3}}
    more = overlay(project, {"training": {"overrides": overrides}})
    stale = project.stale(more)
    assert stale["train"] == stale["evaluate"] == 2
    assert "shard" not in stale
    run = project.snakemake(more, "-n")
    trained = re.findall(
        r"^rule train:.*?model=([\w-]+)",
        run.stdout + run.stderr,
        re.MULTILINE | re.DOTALL,
    )
    assert set(trained) == {"proposed-2"}


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        ({"evaluation": {"new_tokens": 7}}, {"train", "corpus", "shard"}),
        ({"latency": {"prompts": 2}}, {"train", "corpus", "evaluate"}),
        ({"training": {"steps": 13}}, {"corpus", "tokenizer", "shard", "parameters"}),
    ],
)
def test_a_setting_reruns_what_depends_on_it(
    project: Project, change: dict, fresh: set[str]
) -> None:
    stale = project.stale(overlay(project, change))
    assert stale
    assert not fresh & set(stale)


def test_a_new_variant_in_the_registry_makes_nothing_stale(project: Project) -> None:
    new = '    "mine": HeadVariant(linear="per_head"),\n    "baseline"'
    registry = "workflow/shallower/models/registry.py"
    with project.edited(registry, '    "baseline"', new):
        stale = project.stale()
    # Figures and tables check the whole configuration, which knows the registry.
    assert not {"train", "evaluate", "latency", "corpus"} & set(stale)


def test_a_bad_configuration_is_one_line(project: Project) -> None:
    run = project.snakemake("-n", "--config", "training={stpes: 3}")
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert "training.stpes: unknown key, did you mean 'steps'?" in said
    assert "Traceback" not in said


# --- provenance -----------------------------------------------------------------------


def test_provenance_names_what_was_used(project: Project) -> None:
    facts = read_json(project.results / "provenance.json")
    assert facts["study"] == facts["configuration"]["study"] == "smoke"
    assert facts["versions"]["torch"].startswith("2.13.0")
    assert len(facts["runs"]) == RUNS
    assert facts["sha256"]["summary.csv"] == sha256(project.results / "summary.csv")
    assert {"commit", "dirty", "device"} <= facts.keys()


def test_verify_is_content_with_what_was_made(project: Project) -> None:
    run = project.snakemake("--", "verify")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "results/smoke: verified" in run.stdout


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("numbers.tex", "{perplexity.proposed.deep}{", "{perplexity.proposed.deep}{9"),
        ("tables/quality.tex", "{-}2 & ", "{-}2 & 9"),
        ("summary.csv", "proposed-2", "proposed-9"),
        ("claims.csv", ",supported,", ",inconclusive,"),
        ("tables/claims.tex", "supported", "not supported"),
        ("figures/training_time.pdf", "%PDF-1.4", "%PDF-1.3"),
    ],
)
def test_verify_finds_what_was_edited(
    project: Project, name: str, old: str, new: str
) -> None:
    path = project.results / name
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    try:
        run = project.shallower_verify()
    finally:
        path.write_bytes(content)
    assert run.returncode == 2
    assert f"results/smoke/{name}: checksum differs" in run.stderr
    assert f"results/smoke/{name}: not what the current results give" in run.stderr


@pytest.mark.parametrize(
    "name",
    ["runs/baseline-1/seed0/losses.csv", "evaluations/proposed-1/seed0.samples.jsonl"],
)
def test_verify_finds_raw_results_that_were_touched(
    project: Project, name: str
) -> None:
    path = project.results / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        run = project.shallower_verify()
    finally:
        path.write_bytes(content)
    assert run.returncode == 2
    assert f"results/smoke/{name}: checksum differs" in run.stderr
    assert "Traceback" not in run.stderr


def test_verify_refuses_results_of_other_code(project: Project) -> None:
    with project.edited(*ANOTHER_START):
        run = project.shallower_verify()
    assert run.returncode == 2
    assert "runs/proposed-2/seed1: trained by code" in run.stderr


def test_verify_makes_nothing_that_is_missing(project: Project) -> None:
    """Typed as it is, for a study that was never run: one line, and no training."""
    start = time.monotonic()
    run = subprocess.run(
        ["snakemake", "verify"],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "results/default: nothing to verify here; run snakemake first" in run.stderr
    assert time.monotonic() - start < 60
    assert not (project.folder / "results" / "default" / "corpus").exists()


def test_publishing_quotes_the_study(project: Project) -> None:
    """Paper, tables and README as a reference run has them, from the smoke study."""
    readme = project.folder / "PUBLISHED.md"
    readme.write_text("before\n" + "\n".join(reference.MARKS) + "\nafter\n")
    kept = project.folder / "kept"
    reference.publish(project.results, kept, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    claims = pd.read_csv(kept / "claims.csv")
    for row in claims.itertuples():
        assert f"| {row.id} | {row.claim} |" in text
    counts = claims["verdict"].value_counts()
    for verdict, count in counts.items():
        assert text.count(f"**{verdict}** |") == count
    assert sha256(kept / "paper.pdf") == sha256(project.results / "paper.pdf")
    assert reference.with_block(text, reference.block(kept)) == text
    assert reference.block(kept) in (kept / "README.md").read_text()


# --- habits ---------------------------------------------------------------------------


def test_the_same_results_typeset_to_the_same_bytes(project: Project) -> None:
    before = sha256(project.results / "paper.pdf")
    shutil.rmtree(project.results / "typeset")
    run = project.snakemake("--forcerun", "typeset", "--", "results/smoke/paper.pdf")
    assert run.returncode == 0, run.stderr[-3000:]
    assert sha256(project.results / "paper.pdf") == before


@pytest.mark.parametrize(
    "target", ["figures", "notebooks", "latency", "parameters", "verify"]
)
def test_targets_work_as_typed(project: Project, target: str) -> None:
    run = subprocess.run(
        ["snakemake", "-n", target],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr


TIMES = ("us", "s", "tokens/s")  # units that may differ between two runs


def test_two_runs_give_the_same_summaries(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Everything is made again in another folder, from the data on."""
    other = Project(tmp_path_factory.mktemp("again"))
    run = other.snakemake("--", "results/smoke/claims.csv")
    assert run.returncode == 0, run.stderr[-3000:]
    for name in ("summary.csv", "by_seed.csv"):
        tables = [pd.read_csv(p.results / name) for p in (project, other)]
        first, again = (t[~t["unit"].isin(TIMES)] for t in tables)
        assert len(first) > 50
        pd.testing.assert_frame_equal(first, again, check_exact=True)
    for name in ("runs/proposed-2/seed1/model.safetensors", "corpus/manifest.json"):
        assert sha256(project.results / name) == sha256(other.results / name)


def test_html_report(project: Project) -> None:
    run = project.snakemake("--report", "report.zip")
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(project.folder / "report.zip") as archive:
        names = "\n".join(archive.namelist())
        page = archive.read(next(n for n in archive.namelist() if "report.html" in n))
    for figure in FIGURES:
        assert f"{figure}.svg" in names
    for table in ("summary.csv", "comparisons.csv", "parameters.csv", "claims.csv"):
        assert table in names
    for category in ("Figures", "Tables", "Notebooks", "Paper"):
        assert category.encode() in page


def test_lint(project: Project) -> None:
    run = project.snakemake("--lint")
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_snakefile_fits_on_a_screen() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 40
