"""The pipeline itself: the smoke study, run once for real, and what makes it stale."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack

import pandas as pd
import pytest
import yaml

from project import ANOTHER_START, RUNS, Project
from shallower.files import read_json, sha256
from shallower.reporting.contents import FIGURES, TABLES

pytestmark = pytest.mark.smoke
MODELS = ["baseline-1", "baseline-2", "proposed-1", "proposed-2"]


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
    estimates = pd.read_csv(project.results / "estimates.csv", index_col="id")
    effect = estimates.loc[
        "difference proposed-1 - baseline-2 | text cross_entropy", "effect"
    ]
    assert f"{effect:.3f}" in text


def test_tables_and_text_agree_with_the_corpus(project: Project, text: str) -> None:
    manifest = read_json(project.results / "corpus" / "manifest.json")
    train = manifest["datasets"]["text"]["counts"]["train"]
    assert f"{train:,}" in text
    tokens = read_json(project.results / "tokens" / "text" / "train" / "manifest.json")
    assert f"{tokens['tokens']:,}" in text


def test_the_story_has_ten_pages_at_most(project: Project) -> None:
    """Up to the references, by the label at its end."""
    marks = (project.results / "typeset" / "paper.aux").read_text(errors="replace")
    page = re.search(r"\\newlabel\{story\}\{\{[^}]*\}\{(\d+)\}", marks)
    assert page
    assert 4 < int(page[1]) <= 10


def test_latex_had_nothing_to_complain_about(project: Project) -> None:
    log = (project.results / "typeset" / "paper.log").read_text(errors="replace")
    assert "undefined" not in log.lower()
    assert "Missing character" not in log
    overfull = [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert all(width <= 5 for width in overfull), overfull


CONTRACTS = {
    "summary.csv": "model intervention system scale form mode depth variant dataset"
    " metric unit n_seeds n mean median p5 p95 std ci_low ci_high",
    "summaries/qa.csv": "model intervention system scale form mode depth variant"
    " dataset metric unit n_seeds n mean median p5 p95 std ci_low ci_high",
    "estimates.csv": "id kind left right scale form mode dataset metric unit replicates"
    " n effect ci_low ci_high level p p_holm method",
    "claims.csv": "id source claim kind scale weights effect unit ci_low ci_high level"
    " threshold verdict note replicates n",
    "floors.csv": "tokens counted_tokens floor dataset domain scored_tokens"
    " cross_entropy perplexity discount strength vocabulary tokenizer",
    "gates.csv": "model gate value low high threshold passed note",
    "pareto.csv": "model intervention system axis scale quality quality_ci_low"
    " quality_ci_high latency latency_ci_low latency_ci_high on_front_probability",
    "runs/silu-1/seed0/diagnostics.csv": "iteration block quantity value",
    "parameters.csv": "model intervention system scale depth variant"
    " parameters_trained parameters_deployed flops_per_token",
    "latency.parquet": "model intervention seed form mode scale workload batch dtype"
    " device threads session repeat prompt_tokens generated_tokens token_index"
    " nanoseconds",
    "step_time.parquet": "model session repeat tokens nanoseconds",
    "evaluations/proposed-2/seed1.parquet": "intervention form dataset group sample"
    " metric value weight",
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
    for name in ("training", "comparison", "claim"):
        expected += [f"notebooks/{name}.ipynb", f"notebooks/{name}.html"]
    run = "runs/proposed-2/seed1/"
    expected += [run + name for name in ("model.safetensors", "training.json")]
    expected += [run + "spec.yaml", "study.json", "code/train.json"]
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
        stale, said = project.stale(), project.said
    assert stale["train"] == stale["evaluate"] == RUNS
    assert "shard" not in stale
    changed = ANOTHER_START[0].removeprefix("workflow/shallower/")
    assert f"code: {changed} changed" in said


ADDITIONS = [  # a device, a variant, a field with a default
    ("training/peaks.py", '    r"A10":', '    r"A11": (1.0, 1.0, 1.0),\n    r"A10":'),
    (
        "models/registry.py",
        '    "baseline":',
        '    "mine": HeadVariant(activation="relu"),\n    "baseline":',
    ),
    (
        "study/schema.py",
        "    loss_chunk: Int",
        "    more: int = 3\n    loss_chunk: Int",
    ),
]


def test_additions_retrain_nothing(project: Project) -> None:
    with ExitStack() as stack:
        for name, old, new in ADDITIONS:
            edit = project.edited(f"workflow/shallower/{name}", old, new)
            stack.enter_context(edit)
        stale = project.stale()
    expensive = {"train", "evaluate", "latency", "corpus", "shard", "tokenizer"}
    assert not expensive & set(stale)


def test_a_figures_style_touches_no_torch(project: Project) -> None:
    with project.edited("workflow/shallower/reporting/style.py", "#0072B2", "#0072B3"):
        stale = project.stale()
    assert stale == {
        **{"figures": 1, "typeset": 1, "provenance": 1, "paper": 1},
        "page": 1,
    }


def test_the_papers_text_only_typesets(project: Project) -> None:
    with project.edited("report/sections/related.tex", "the", "the very"):
        assert project.stale() == {"typeset": 1, "paper": 1}


def overlay(project: Project, content: dict) -> str:
    path = project.folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(content))
    return path.name


def test_one_models_setting_retrains_that_model_only(project: Project) -> None:
    overrides = {"silu-1": {"learning_rate": 1e-3}}
    more = overlay(project, {"training": {"overrides": overrides}})
    stale = project.stale(more)
    assert stale["train"] == stale["evaluate"] == 2
    assert "shard" not in stale
    trained = re.findall(
        r"^rule train:.*?model=([\w-]+)", project.said, re.MULTILINE | re.DOTALL
    )
    assert set(trained) == {"silu-1"}
    assert "rerun: silu-1: learning_rate 0.004 -> 0.001" in project.said


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


def test_a_bad_configuration_is_one_line(project: Project) -> None:
    run = project.snakemake("-n", "--config", "training={stpes: 3}")
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert "training.stpes: unknown key, did you mean 'steps'?" in said
    assert "Traceback" not in said


# --- habits ---------------------------------------------------------------------------


def test_the_same_results_typeset_to_the_same_bytes(project: Project) -> None:
    before = sha256(project.results / "paper.pdf")
    shutil.rmtree(project.results / "typeset")
    run = project.snakemake("--forcerun", "typeset", "--", "results/smoke/paper.pdf")
    assert run.returncode == 0, run.stderr[-3000:]
    assert sha256(project.results / "paper.pdf") == before


def test_targets_work_as_typed(project: Project) -> None:
    targets = ("figures", "notebooks", "latency", "parameters", "verify")
    run = project.run("snakemake", "-n", *targets)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "model",
    ["baseline-1__teacher=baseline-2", "t5_mini-1__ffn=three_matrices__task=pairs"],
)
def test_a_clusters_job_trains_no_run_that_its_own_depends_on(
    project: Project, model: str
) -> None:
    """Within a job Snakemake looks at all runs of the rule, a teacher's among them."""
    run = project.snakemake(
        *("-n", "--force", "--nolock", "--cores", "1", "--mode", "remote"),
        *("--allowed-rules", "train", "--target-jobs"),
        f"train:model={model},seed=0",
    )
    assert run.returncode == 0, run.stderr
    counts = re.findall(r"^(train|total) +(\d+)$", run.stdout + run.stderr, re.M)
    assert dict(counts) == {"train": "1", "total": "1"}
