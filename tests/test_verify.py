"""What a study was made with, and the check that its results still say the same."""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
import pytest

from project import ANOTHER_START, RUNS, Project
from shallower.files import read_json, sha256
from shallower.reporting import history, published
from shallower.reporting.markdown import with_block

pytestmark = pytest.mark.smoke


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
    assert "results/smoke: verified" in run.stderr


@pytest.mark.parametrize(
    "edits",
    [
        [
            (
                "numbers.tex",
                "{perplexity.proposed.deep}{",
                "{perplexity.proposed.deep}{9",
            ),
            ("tables/quality.tex", "{-}2 & ", "{-}2 & 9"),
            ("tables/claims.tex", "supported", "not supported"),
            ("figures/training_time.pdf", "%PDF-1.4", "%PDF-1.3"),
        ],
        [("summary.csv", "proposed-2", "proposed-9")],
        [("claims.csv", ",supported,", ",inconclusive,")],
    ],
    ids=["what the paper includes", "summary", "claims"],
)
def test_verify_finds_what_was_edited(
    project: Project, edits: list[tuple[str, str, str]]
) -> None:
    with ExitStack() as stack:
        for name, old, new in edits:
            stack.enter_context(project.edited(f"results/smoke/{name}", old, new))
        run = project.shallower_verify()
    assert run.returncode == 2
    for name, _, _ in edits:
        assert f"results/smoke/{name}: checksum differs" in run.stderr
        assert f"results/smoke/{name}: not what the current results give" in run.stderr


@pytest.mark.parametrize(
    "name",
    ["runs/baseline-1/seed0/losses.csv", "evaluations/proposed-1/seed0.samples.jsonl"],
)
def test_verify_finds_raw_results_that_were_touched(
    project: Project, name: str
) -> None:
    with project.edited(f"results/smoke/{name}", "", "\n"):
        run = project.shallower_verify()
    assert run.returncode == 2
    assert f"results/smoke/{name}: checksum differs" in run.stderr
    assert "Traceback" not in run.stderr


def test_verify_refuses_results_of_other_code(project: Project) -> None:
    with project.edited(*ANOTHER_START):
        run = project.shallower_verify()
    assert run.returncode == 2
    assert "runs/proposed-2/seed1: trained at commit" in run.stderr
    assert "since then code: models/initial.py changed" in run.stderr


def test_verify_makes_nothing_that_is_missing(project: Project) -> None:
    """Typed as it is, for a study that was never run: one line, and no training."""
    run = project.run("snakemake", "verify")
    assert run.returncode != 0
    assert "results/default: nothing to verify here; run snakemake first" in run.stderr
    assert not (project.folder / "results" / "default" / "corpus").exists()


def test_publishing_quotes_the_study(project: Project) -> None:
    """Paper, tables and README as a reference run has them, from the smoke study."""
    readme = project.folder / "PUBLISHED.md"
    readme.write_text("before\n" + "\n".join(published.MARKERS) + "\nafter\n")
    protocol = project.folder / "PROTOCOL.md"
    protocol.write_text("\n".join(history.MARKERS))
    kept = project.folder / "kept"
    published.publish(project.results, kept, readme, protocol)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    page, claims = (kept / "README.md").read_text(), pd.read_csv(kept / "claims.csv")
    judged, absent = published.divided(claims)
    for row in judged.itertuples():
        assert f"| {row.id} | {row.claim} |" in page
    assert f"Without models in this study: {', '.join(absent['id'])}." in page
    counts = judged["verdict"].value_counts()
    for verdict, count in counts.items():
        assert page.count(f"**{verdict}** |") == count
    assert sha256(kept / "paper.pdf") == sha256(project.results / "paper.pdf")
    said = published.sentence(kept, readme)
    assert "(kept/README.md)" in said
    assert with_block(text, said, published.MARKERS) == text
    assert published.block(kept) in page
