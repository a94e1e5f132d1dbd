"""Two at once, and jobs whose Snakemake is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from counting import Tried
from project import SMOKE, Project
from shallower import running

HOLD = """
import sys, time
from pathlib import Path
from shallower.running import StudyLock
lock = StudyLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
time.sleep(100)
"""
# Stands for Snakemake: its job starts a process of its own, which writes for ever.
PARENT = """
import subprocess, time
from shallower.running import jobs_end_with_this_process
jobs_end_with_this_process()
loop = "while true; do echo x >> written; sleep 0.05; done"
subprocess.Popen(["bash", "-c", f"bash -c '{loop}' & wait"])
print("started", flush=True)
time.sleep(100)
"""


def held(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_study_is_made_by_one(tmp_path: Path) -> None:
    owner, lock = held(tmp_path), running.StudyLock(tmp_path)
    try:
        assert not lock.take()
        assert f"process {owner.pid} on" in lock.refusal()
        assert "wait for it, or stop it" in lock.refusal()
        assert running.started(tmp_path) is not None
        assert running.StudyLock(tmp_path.parent / "other").take()
    finally:
        owner.kill()
    owner.wait()
    assert running.started(tmp_path) is None
    assert lock.take(), "the lock of a killed owner is free"


def test_what_another_run_wrote_is_noticed(tmp_path: Path) -> None:
    """A graph that was built before knows nothing of it."""
    study = tmp_path / "study"
    assert running.StudyLock(study).take()
    (study / "runs").mkdir()
    result = study / "runs" / "losses.csv"
    result.write_text("")
    os.utime(result, (100.0, 100.0))
    os.utime(study / "runs", (100.0, 100.0))
    assert not running.written_since(study, 200.0), "the lock itself does not count"
    os.utime(result, (300.0, 300.0))
    assert running.written_since(study, 200.0)


def test_jobs_end_with_a_killed_snakemake(tmp_path: Path, tried: Tried) -> None:
    times = 5
    for _ in range(times):
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        written = tmp_path / "written"
        until = time.monotonic() + 10
        while not written.exists() and time.monotonic() < until:
            time.sleep(0.01)
        parent.kill()
        parent.wait()
        size = -1
        while size != written.stat().st_size and time.monotonic() < until:
            size = written.stat().st_size
            time.sleep(0.3)
        assert size == written.stat().st_size, "an orphan still writes"
        written.unlink()
    tried("kill -9 of a parent whose jobs have jobs", times, "no orphan wrote after it")


@pytest.mark.smoke
def test_a_second_snakemake_is_told_who_works(project: Project) -> None:
    owner = held(project.results)
    try:
        said = project.snakemake("--forcerun", "floors")
        assert said.returncode != 0
        assert f"process {owner.pid} on" in said.stderr
        assert "makes this study now; wait for it, or stop it" in said.stderr
        assert "unlock" not in said.stderr
        assert "Traceback" not in said.stderr
        # A dry run may look, unless its settings would change those of running jobs.
        assert project.snakemake("-n").returncode == 0
        spec = project.results / "runs" / "proposed-2" / "seed0" / "spec.yaml"
        before = spec.read_bytes()
        other = project.snakemake("-n", "--config", "overrides=training.steps=13")
        assert other.returncode != 0
        assert f"process {owner.pid} on" in other.stdout + other.stderr
        assert spec.read_bytes() == before
        # Code that is edited meanwhile would be run, and noted as that of before.
        name = "workflow/shallower/reporting/style.py"
        with project.edited(name, "#0072B2", "#0072B3"):
            os.utime(project.folder / name)
            check = f"{sys.executable} -m shallower {{}} --results results/smoke".format
            run = project.run(*check("figures").split())
            other = project.run(*check("summary").split(), "--no-such-option")
        assert run.returncode == 2
        assert "reporting/style.py: edited while the study is made" in run.stderr
        assert "edited" not in other.stderr  # a summary has nothing of it
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()


@pytest.mark.smoke
def test_snakemakes_own_lock_that_a_kill_left_stops_nobody(project: Project) -> None:
    locks = project.folder / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("results/smoke/claims.csv\n")
    try:
        said = project.run("snakemake", *SMOKE, "--", "results/smoke/claims.csv")
        assert said.returncode == 0, said.stderr
    finally:
        (locks / "0.output.lock").unlink(missing_ok=True)
