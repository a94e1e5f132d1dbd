"""The pipeline on a real SLURM of one node: the profile as it is, the literal command.

The node's GPUs are pretended; what a job computes is computed on the CPU.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from project import RUNS, THROUGH_SLURM, Project
from shallower.files import read_json, sha256

pytestmark = [pytest.mark.smoke, pytest.mark.slurm]

RUN = "runs/baseline-1/seed0"
# Steps a second are not known beforehand; an attempt has about 40 s for them.
SECONDS = 75  # of training, more than fit into one attempt


def sacct(*fields: str) -> list[list[str]]:
    """Those fields of every job so far, steps left out."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2"]
    out = subprocess.run(
        [*command, "--format", ",".join(fields)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line.split("|") for line in out.splitlines()]


def queued(name: str = "") -> list[str]:
    """Ids of the jobs that are waiting or running, of one Snakemake run or of all."""
    command = ["squeue", "--noheader", "--format", "%i"]
    command += ["--name", name] if name else []
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return out.split()


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


# --- the smoke study ------------------------------------------------------------------


def test_the_literal_command_makes_the_paper(submitted: Project) -> None:
    """Its numbers are compared with a local run's in test_workflow.py."""
    paper = submitted.folder / "report" / "paper.pdf"
    assert paper.read_bytes().startswith(b"%PDF")
    again = submitted.run(*THROUGH_SLURM, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_jobs_have_what_their_rules_declare(submitted: Project) -> None:
    jobs = [(comment, tres) for comment, tres in sacct("Comment", "AllocTRES")]
    with_gpu = [tres for _, tres in jobs if "gres/gpu=1" in tres]
    assert len(with_gpu) >= 2 * RUNS + 1
    # The latency job has all of the node's CPUs, the others one.
    whole = [tres for tres in with_gpu if "cpu=8" in tres]
    assert len(whole) == 1
    assert "cpu=1" in with_gpu[0]


# --- what goes wrong ------------------------------------------------------------------


class Story:
    """One training that is cancelled, orphaned, out of time, and then finishes."""

    def __init__(self, project: Project, steps: int) -> None:
        self.project = project
        settings = {"training": {"steps": steps, "checkpoint_every": 100}}
        more = project.folder / "long.yaml"
        more.write_text(yaml.safe_dump(settings))
        self.target = f"results/smoke/{RUN}/model.safetensors"
        self.command = [*THROUGH_SLURM, more.name]
        kept = project.results / "checkpoints" / "baseline-1" / "seed0"
        self.checkpoint = lambda: list(kept.glob("*/step-*.pt"))

    def start(self, log: Path, *options: str) -> subprocess.Popen[bytes]:
        """Snakemake in a process group of its own, as in a terminal."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [*self.command, *options, "--", self.target],
                cwd=self.project.folder,
                env=self.project.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def newest(self) -> str:
        return max((path.name for path in self.checkpoint()), default="")


@pytest.fixture(scope="module")
def story(submitted: Project, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A copy of the study in which one run is to be trained for longer."""
    folder = tmp_path_factory.mktemp("story")
    shutil.copytree(submitted.folder, folder, dirs_exist_ok=True)
    speed = read_json(submitted.results / RUN / "training.json")["tokens_per_second"]
    step_tokens = 4 * 64
    return Story(Project(folder), steps=int(SECONDS * speed / step_tokens))
