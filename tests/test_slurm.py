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

import pandas as pd
import pytest
import yaml
from snakemake.utils import update_config

from project import ROOT, SMOKE, SUBMITTED_RUNS, THROUGH_SLURM, Project
from shallower.files import note, read_json, sha256
from shallower.study.runs import RunSpec
from shallower.study.study import load_study

pytestmark = [pytest.mark.smoke, pytest.mark.slurm]

RUN = "runs/baseline-1/seed0"
# Steps a second are not known beforehand; an attempt has about 40 s for them.
SECONDS = 110  # of training, more than fit into one attempt


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
    paper = submitted.folder / "report" / "paper.pdf"
    assert paper.read_bytes().startswith(b"%PDF")
    again = submitted.run(*THROUGH_SLURM, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


TIMES = ("us", "s", "tokens/s")  # units that may differ between two runs


def test_a_local_run_gives_the_same_summaries(
    project: Project, submitted: Project
) -> None:
    """Everything was made in another folder, from the data on."""
    for name in ("summary.csv", "by_seed.csv"):
        here, there = (pd.read_csv(p.results / name) for p in (project, submitted))
        there = there[~there["unit"].isin(TIMES)].reset_index(drop=True)
        assert len(there) > 50
        # The local study has more models.
        said = list(there.select_dtypes(exclude="number"))
        keys = [*said, *({"unit_id", "depth"} & set(there))]
        here = there[keys].merge(here, on=keys, how="left")[list(there)]
        pd.testing.assert_frame_equal(here, there, check_exact=True)
    for name in ("runs/proposed-2/seed1/model.safetensors", "corpus/manifest.json"):
        assert sha256(project.results / name) == sha256(submitted.results / name)


def test_jobs_have_what_their_rules_declare(submitted: Project) -> None:
    given = [tres for (tres,) in sacct("AllocTRES") if "gres/gpu=" in tres]
    single = "billing=1,cpu=1,gres/gpu=1,mem=8000M,node=1"
    assert given.count(single) == 2 * SUBMITTED_RUNS  # training and evaluation
    # The latency job has the node to itself: all of its CPUs and GPUs.
    assert [tres for tres in given if tres != single] == [
        "billing=8,cpu=8,gres/gpu=2,mem=16000M,node=1"
    ]


def test_the_recipe_without_gpus_covers_every_rule(
    submitted: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As docs/cluster.md has it: no job of the study asks for a GPU."""
    guide = (ROOT / "docs" / "cluster.md").read_text()
    [recipe] = re.findall(r"Without GPUs: `(--set-resources [^`]*)`", guide)
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(submitted.folder, folder, dirs_exist_ok=True)
    project = Project(folder)
    (project.results / RUN / "model.safetensors").unlink()
    jobs = len(sacct("JobID"))
    scores = f"results/smoke/{RUN.replace('runs', 'evaluations')}.parquet"
    targets = (scores, "results/smoke/latency.parquet")
    command = (*THROUGH_SLURM, *recipe.split(), "--forcerun", "latency", "--", *targets)
    run = project.run(*command)
    assert run.returncode == 0, run.stderr[-3000:]
    # What was asked for: a job with the node to itself is given its GPUs all the same.
    asked = [tres for (tres,) in sacct("ReqTRES")[jobs:]]
    assert len(asked) == 3  # training, evaluation, latency
    assert not [tres for tres in asked if "gres/gpu" in tres]


def test_a_snakemake_within_an_allocation_submits_too(submitted: Project) -> None:
    """What SLURM sets for the job around it does not reach the jobs that it submits."""
    scores = Path("results/smoke") / RUN.replace("runs", "evaluations")
    table = submitted.folder / scores.with_suffix(".parquet")
    content, jobs = table.read_bytes(), len(sacct("JobID"))
    table.unlink()
    around = ("srun", "--ntasks=1", "--cpus-per-task=2", "--mem=1500", *THROUGH_SLURM)
    run = submitted.run(*around, "--", str(scores.with_suffix(".parquet")))
    assert run.returncode == 0, run.stderr[-3000:]
    assert table.read_bytes() == content
    assert "SLURM job context" in run.stdout + run.stderr
    # The allocation itself, and the evaluation with what its rule declares.
    given = [tres for (tres,) in sacct("AllocTRES")[jobs:]]
    assert [tres for tres in given if "gres/gpu=1,mem=8000M" in tres] == given[1:]
    assert len(given) == 2


# --- what goes wrong ------------------------------------------------------------------


class Long:
    """A training of a minute or more, in a copy of the study; driven from outside."""

    def __init__(self, folder: Path, study: Project) -> None:
        shutil.copytree(study.folder, folder, dirs_exist_ok=True)
        self.project = Project(folder)
        self.log = folder / "snakemake.log"
        self.steps = int(SECONDS * self._steps_per_second())
        self.spec = self._spec(self.steps)
        (folder / "long.yaml").write_text(yaml.safe_dump(self._settings(self.steps)))

    def _settings(self, steps: int) -> dict:
        return {"training": {"steps": steps, "checkpoint_every": 200}}

    def _spec(self, steps: int) -> RunSpec:
        configuration = yaml.safe_load((ROOT / "config.yaml").read_text())
        for name in ("config/smoke.yaml", "tests/slurm.yaml"):
            update_config(configuration, yaml.safe_load((ROOT / name).read_text()))
        update_config(configuration, self._settings(steps))
        return load_study(configuration).spec("baseline-1", 0)

    def _steps_per_second(self) -> float:
        with self.by_hand(self._spec(400), "measured") as training:
            assert training.wait() == 0
        return 400 / read_json(self.folder / "measured" / "training.json")["seconds"]

    @property
    def folder(self) -> Path:
        return self.project.folder

    @property
    def run(self) -> Path:
        return self.project.results / RUN

    def by_hand(self, spec: RunSpec, output: str) -> subprocess.Popen[bytes]:
        """The rule's command without SLURM."""
        (self.folder / output).mkdir()
        text = yaml.safe_dump(spec.model_dump(mode="json"))
        (self.folder / output / "spec.yaml").write_text(text)
        command = ["python", "-m", "shallower", "train-run", "--run", output]
        command += ["--tokens", "results/smoke/tokens/text/train"]
        command += ["--checkpoints", f"{output}-checkpoints"]
        return self._popen(command, self.folder / f"{output}.log")

    def submit(self, *options: str, **variables: str) -> subprocess.Popen[bytes]:
        """Snakemake through SLURM, as typed; what it says goes into `log`."""
        target = str(self.run.relative_to(self.folder) / "model.safetensors")
        command = [*THROUGH_SLURM, "long.yaml", "--retries", "5", *options]
        return self._popen([*command, "--", target], self.log, **variables)

    def _popen(
        self, command: list[str], log: Path, **variables: str
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.project.environment | variables,
                stdout=out,
                stderr=subprocess.STDOUT,
                # A shell's background job, as these tests may be, does not hear it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def run_id(self) -> str | None:
        """The name that this Snakemake's jobs share, once it has said it."""
        said = re.search(r"SLURM run ID: (\S+)", self.log.read_text())
        return said and said[1]

    def steps_kept(self) -> int:
        """The newest checkpoint's step; 0 if there is none."""
        folder = self.project.results / "checkpoints" / "baseline-1" / "seed0"
        steps = [int(path.stem.split("-")[1]) for path in folder.glob("*/step-*.pt")]
        return max(steps, default=0)


@pytest.fixture(scope="module")
def long(submitted: Project, tmp_path_factory: pytest.TempPathFactory) -> Long:
    return Long(tmp_path_factory.mktemp("long"), submitted)


@pytest.fixture
def slow_states(long: Long, tmp_path: Path) -> dict[str, str]:
    """Variables with which SLURM takes ten seconds to say in which state jobs are.

    The file `asked` is there while Snakemake waits for that.
    """
    for name in ("sacct", "squeue"):
        program, real = tmp_path / name, shutil.which(name)
        program.write_text(
            f"#!/bin/sh\ntouch {tmp_path}/asked\nsleep 10\n"
            f'rm -f {tmp_path}/asked\nexec {real} "$@"\n'
        )
        program.chmod(0o755)
    return {"PATH": f"{tmp_path}:{long.project.environment['PATH']}"}


@pytest.mark.parametrize("while_it_asks", [False, True])
def test_ctrl_c_cancels_the_jobs(
    long: Long, slow_states: dict[str, str], tmp_path: Path, while_it_asks: bool
) -> None:
    """Also while Snakemake asks for their states, when it has no list of them."""
    before = long.steps_kept()
    snakemake = long.submit(**(slow_states if while_it_asks else {}))
    wait_for(lambda: long.steps_kept() > before)
    if while_it_asks:
        wait_for((tmp_path / "asked").exists)
    snakemake.send_signal(signal.SIGINT)
    assert snakemake.wait(60) != 0
    wait_for(lambda: not queued(), 60)
    assert sacct("State")[-1][0].startswith("CANCELLED")
    # No lock is left: the next command starts at once.
    assert "LockException" not in long.project.run("snakemake", "-n", *SMOKE).stderr


def test_a_killed_snakemake_loses_nothing(long: Long) -> None:
    """The recovery of docs/cluster.md, step by step."""
    before = long.steps_kept()
    snakemake = long.submit()
    wait_for(lambda: long.steps_kept() > before)
    snakemake.kill()
    snakemake.wait()
    run_id = long.run_id()
    assert run_id
    assert queued(run_id), "the job should have outlived its Snakemake"
    subprocess.run(["scancel", "--name", run_id], check=True)
    wait_for(lambda: not queued(), 60)
    assert long.steps_kept() > before
    unlock = long.project.run(*THROUGH_SLURM, "--unlock")
    assert unlock.returncode == 0, unlock.stderr


def test_a_job_of_a_failed_node_is_started_once_again(long: Long) -> None:
    """SLURM would requeue it, and Snakemake submit it, were that left to both."""
    before = long.steps_kept()
    snakemake = long.submit("--retries", "0")
    wait_for(lambda: long.steps_kept() > before)
    [job] = queued()
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True)
    assert "Requeue=0" in told.stdout.decode()
    [node] = subprocess.run(
        ["sinfo", "--noheader", "--format", "%n"], capture_output=True, text=True
    ).stdout.split()
    change = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*change, "state=down", "reason=test"], check=True)
    try:
        assert snakemake.wait(120) == 1
    finally:
        # It may have come back by itself, as one that answers does.
        subprocess.run([*change, "state=resume"])
    assert sacct("State")[-1] == ["NODE_FAIL"]
    assert "node failure" in long.log.read_text()
    wait_for(lambda: not queued(), 60)
    assert long.steps_kept() > before


def test_a_job_past_its_time_limit_is_resumed(long: Long) -> None:
    """And what it trains in the end is what one uninterrupted process trains."""
    kept, jobs = long.steps_kept(), len(sacct("JobID"))
    assert kept > 0
    reference = long.by_hand(long.spec, "uninterrupted")
    snakemake = long.submit("--set-resources", "train:runtime=1")
    assert snakemake.wait(500) == 0, long.log.read_text()[-5000:]
    assert reference.wait(300) == 0
    states = [state for (state,) in sacct("State")[jobs:]]
    assert states[-1] == "COMPLETED"
    assert len(states) >= 2, "one attempt was enough: nothing was shown"
    assert set(states[:-1]) <= {"FAILED", "TIMEOUT"}
    facts = read_json(long.run / "training.json")
    # Cancelled twice, orphaned and cancelled, its node lost, and out of time.
    assert facts["restarts"] >= 5
    weights = [
        p / "model.safetensors" for p in (long.run, long.folder / "uninterrupted")
    ]
    assert sha256(weights[0]) == sha256(weights[1])
    losses = [pd.read_csv(path.parent / "losses.csv")["loss"] for path in weights]
    pd.testing.assert_series_equal(*losses, check_exact=True)


def test_a_failing_jobs_reason_reaches_the_terminal(long: Long) -> None:
    """By tokens that nothing mends: as noted, but not as the manifest has them."""
    shard = long.project.results / "tokens" / "text" / "train" / "shard-0.bin"
    times = shard.stat()
    content = shard.read_bytes()
    shard.write_bytes(content[::-1])
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    note(shard, sha256(shard))
    (long.run / "model.safetensors").unlink()
    snakemake = long.submit("--retries", "0")
    assert snakemake.wait(200) == 1
    said = long.log.read_text()
    assert "shard-0.bin: checksum differs from the manifest's" in said
    assert "status is: 'FAILED'" in said
