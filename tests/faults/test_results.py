"""Results that were edited, damaged or deleted: told, refused, and made again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from counting import Tried
from project import SMOKE, Project
from shallower.errors import UserError
from shallower.files import RECORDS, noted, record_of, sha256
from shallower.reporting.outputs import damaged, made_files, raw_files
from shallower.reporting.provenance import write_provenance
from shallower.study.study import read_study
from shallower.trusted import check_stage

pytestmark = pytest.mark.smoke
RUN = "runs/proposed-2/seed1"
SCORES = "evaluations/baseline-2/seed0"
# Told to a stage by Snakemake's start, or no result.
NOT_LISTED = {"logs", "typeset", "checkpoints", "code", "settings", RECORDS}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


@contextmanager
def harmed(path: Path, how: str) -> Iterator[None]:
    """A file with one bit flipped, cut in half or deleted; intact again at the end."""
    content, times = path.read_bytes(), path.stat()
    record = record_of(path).read_bytes()
    if how == "flip":
        flip(path, len(content) // 2)
    elif how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        record_of(path).write_bytes(record)


def test_every_result_is_listed_and_noted(project: Project) -> None:
    study = read_study(project.results / "study.json")
    listed = {*raw_files(study), *made_files(study)}
    there = set()
    for path in project.results.rglob("*"):
        name = path.relative_to(project.results)
        if path.is_file() and not NOT_LISTED & set(name.parts):
            there.add(str(name))
    told = {n for n in there if n.endswith(("spec.yaml", ".spec.json", "study.json"))}
    summaries = {n for n in there if n.startswith("summaries/")}
    # What is written while a run goes on, for whoever looks.
    there = {n for n in there if not n.endswith((".running", "live.jsonl"))}
    assert there - told - summaries == listed
    missing = [n for n in there if not noted(project.results / n)]
    assert missing == []
    assert damaged(study, project.results) == {}


def test_what_was_harmed_is_named_and_would_be_made_again(project: Project) -> None:
    """The plain command: everything below is found in one dry run."""
    harm = {
        "claims.csv": "flip",
        "figures/training_loss.svg": "truncate",
        "summaries/qa.csv": "delete",
        "notebooks/training.html": "delete",
        f"{RUN}/model.safetensors": "flip",
        "tokens/text/test/shard-0.bin": "truncate",
    }
    with ExitStack() as stack:
        for name, how in harm.items():
            stack.enter_context(harmed(project.results / name, how))
        stale = project.stale()
        for name, how in harm.items():
            what = "missing" if how == "delete" else "changed since it was made"
            assert f"made again: results/smoke/{name}: {what}" in project.said
        due = {"estimates", "figures", "summary", "notebook_training", "train", "shard"}
        assert due <= set(stale)
        # Asked for by name, `verify` makes nothing.
        asked = project.snakemake("-n", "--", "verify")
        assert "made again" not in asked.stdout + asked.stderr
    assert project.stale() == {}


# What a stage reads, of every kind of file: the command's options, and the file.
def stages(results: Path) -> dict[str, tuple[list[str], list[str]]]:
    of = {name: str(results / name) for name in ("corpus", "runs", "evaluations")}
    tokens = str(results / "tokens" / "text")
    run = ["--run", str(results / RUN)]
    tokenizer = ["--tokenizer", str(results / "tokens" / "tokenizer.model")]
    corpus = ["--corpus", of["corpus"]]
    shard = str(results / "tokens" / "text" / "train" / "shard-0.bin")
    everything = ["--results", str(results)]
    return {
        "train": (
            [
                *("train-run", *run, "--tokens", f"{tokens}/train"),
                *("--checkpoints", str(results / "no"), "--teacher"),
                str(results / "runs" / "baseline-2" / "seed0"),
            ],
            [
                *(f"{RUN}/spec.yaml", "tokens/text/train/manifest.json"),
                "runs/baseline-2/seed0/model.safetensors",
            ],
        ),
        "evaluate": (
            ["evaluate", *run, *corpus, *tokenizer],
            [
                *(f"{RUN}/model.safetensors", f"{RUN}/training.json"),
                *("corpus/text/test.parquet", "corpus/qa/test.parquet"),
                "tokens/tokenizer.model",
            ],
        ),
        "latency": (
            [
                *("latency", "--settings", str(results / "settings" / "latency.json")),
                *("--runs", of["runs"], "--evaluations", of["evaluations"]),
            ],
            [
                *("settings/latency.json", f"{RUN}/model.safetensors"),
                f"{SCORES}.interventions.json",
            ],
        ),
        "manifest": (
            ["manifest", *tokenizer, "--shards", shard],
            [
                f"tokens/text/train/shard-0.{end}"
                for end in ("bin", "offsets.npy", "check.json")
            ],
        ),
        "summary": (
            ["summary", *everything],
            [
                *(f"{SCORES}.parquet", f"{SCORES}.samples.jsonl", "latency.parquet"),
                *(f"{RUN}/losses.csv", f"{RUN}/diagnostics.csv", "study.json"),
            ],
        ),
        "estimates": (
            ["estimates", *everything],
            ["by_seed.csv", "floors.csv", "parameters.csv", "bandwidth.parquet"],
        ),
        "tables": (["tables", *everything], ["claims.csv", "facts.csv", "runs.json"]),
    }


@pytest.mark.parametrize("command", list(stages(Path())))
def test_no_stage_reads_what_was_harmed(
    project: Project, command: str, tried: Tried
) -> None:
    arguments, names = stages(project.results.absolute())[command]
    check_stage(arguments)
    for name in names:
        path = project.results.absolute() / name
        for how in ("flip", "truncate"):
            with (
                harmed(path, how),
                pytest.raises(UserError, match=f"{path}: changed since it was made"),
            ):
                check_stage(arguments)
    check_stage(arguments)
    tried(
        f"one bit flipped in, or half cut off, what `{command}` reads",
        2 * len(names),
        "refused, with the file's name",
    )


def test_no_provenance_of_what_is_not_verified(project: Project) -> None:
    """As in a study that was made before checksums were noted."""
    path, kept = project.results / "summary.csv", project.results / "provenance.json"
    before = kept.read_bytes()
    with harmed(path, "flip"):
        record_of(path).unlink()
        with pytest.raises(UserError, match="not what the current results give"):
            write_provenance(project.results)
        assert kept.read_bytes() == before
        # From now on the plain command knows.
        study = read_study(project.results / "study.json")
        assert list(damaged(study, project.results)) == [str(path)]


# --- long: made again for real --------------------------------------------------------


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Project:
    """A copy of the finished study, to be harmed."""
    copy = Project(tmp_path / "copy")
    for name in ("results", ".snakemake", "report/paper.pdf"):
        source, target = project.folder / name, copy.folder / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    return copy


QUICK = [  # made again within seconds
    "claims.csv",
    "summaries/chat.csv",
    "figures/training_loss.pdf",
    "numbers.tex",
    "paper.pdf",
    "notebooks/comparison.html",
    "floors.csv",
    "predictions.csv",
    "evaluations/baseline-2/seed1.samples.jsonl",
    "runs/silu-1/seed0/losses.csv",
]


@pytest.mark.faults
def test_harmed_results_are_made_again(copied: Project, tried: Tried) -> None:
    """By the plain command, to what they were; times aside."""
    draw, results = random.Random(0), copied.results
    before = {name: sha256(results / name) for name in QUICK}
    for name in QUICK:
        if draw.random() < 0.5:
            flip(results / name, draw.randrange(10**6))
        else:
            (results / name).unlink()
    run = copied.run("snakemake", *SMOKE)
    assert run.returncode == 0, run.stderr[-3000:]
    for name in QUICK:
        assert f"made again: results/smoke/{name}" in run.stderr
    same = (
        "floors.csv",
        "predictions.csv",
        "evaluations/baseline-2/seed1.samples.jsonl",
    )
    assert all(sha256(results / name) == before[name] for name in same)
    assert copied.shallower_verify().returncode == 0
    assert copied.stale() == {}
    tried("a result edited or deleted", len(QUICK), "named; made again at once")


@pytest.mark.faults
def test_the_last_good_paper_stays(copied: Project, tried: Tried) -> None:
    """An edit that no checksum tells of: found by making everything again."""
    paper, claims = copied.folder / "report/paper.pdf", copied.results / "claims.csv"
    before = sha256(paper)
    claims.write_text(claims.read_text().replace(",not tested,", ",supported,"))
    record_of(claims).unlink()
    run = copied.run("snakemake", *SMOKE)
    assert run.returncode != 0
    assert "claims.csv: not what the current results give" in run.stderr
    assert "the same command makes again what is wrong" in run.stderr
    assert sha256(paper) == before
    assert not (copied.results / "provenance.json").exists()
    run = copied.run("snakemake", *SMOKE)
    assert run.returncode == 0, run.stderr[-3000:]
    assert copied.shallower_verify().returncode == 0
    tried("an edit that no checksum tells of", 1, "found; the paper of before stayed")
