"""kill -9 at random moments over a whole study, and studies beside each other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from counting import Tried
from project import SMOKE, Project
from shallower.files import sha256
from shallower.reporting.outputs import damaged, made_files, raw_files
from shallower.study.study import read_study

pytestmark = [pytest.mark.smoke, pytest.mark.faults]
TIMES = ("us", "s", "tokens/s")  # units that may differ between two runs
KILLS = 50
LONGEST = 16.0  # seconds that a run has before something in it is killed
PLAIN = ("snakemake", *SMOKE)


def processes_in(folder: Path) -> list[int]:
    """Processes that work in a folder, and are not of the test itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                inside = (entry / "cwd").readlink() == folder
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if inside and command and b"running.py" not in command:
                found.append(int(entry.name))
    return found


def start(project: Project) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        PLAIN,
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def left(project: Project, seconds: float = 5.0) -> list[int]:
    """Processes that are still there after a moment."""
    until = time.monotonic() + seconds
    while (found := processes_in(project.folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def killed(project: Project, draw: random.Random) -> str:
    """Start the study, kill something in it; what it was."""
    snakemake = start(project)
    until = time.monotonic() + draw.uniform(1, LONGEST)
    while snakemake.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if snakemake.poll() is not None:
        return ""  # the study is complete
    workers = [p for p in processes_in(project.folder) if p != snakemake.pid]
    if workers and draw.random() < 0.5:
        victim, what = draw.choice(workers), "a job"
    else:
        victim, what = snakemake.pid, "Snakemake"
    os.kill(victim, signal.SIGKILL)
    if what == "a job":  # then the rest may go on for a while
        time.sleep(draw.uniform(0, 2))
        snakemake.kill()
    snakemake.wait()
    return what


def test_killed_anywhere(project: Project, tmp_path: Path, tried: Tried) -> None:
    """At least 50 kills over a study from its beginning; then the same command."""
    copy, draw = Project(tmp_path / "killed"), random.Random(17)
    counts = {"Snakemake": 0, "a job": 0}
    while sum(counts.values()) < KILLS:
        what = killed(copy, draw)
        assert left(copy) == [], "an orphan lives on"
        if what:
            counts[what] += 1
        else:  # complete before all kills were made: once more from somewhere
            for name in draw.sample(
                [*raw_files(read_study(copy.results / "study.json"))], 5
            ):
                (copy.results / name).unlink(missing_ok=True)
    run = copy.run(*PLAIN)
    assert run.returncode == 0, run.stderr[-3000:]
    study = read_study(copy.results / "study.json")
    files = [*raw_files(study), *made_files(study)]
    assert [name for name in files if not (copy.results / name).is_file()] == []
    assert damaged(study, copy.results) == {}
    same(project, copy)
    assert copy.shallower_verify().returncode == 0
    for what, times in counts.items():
        tried(f"kill -9 of {what} at a random moment", times, "the same results")


def same(one: Project, other: Project) -> None:
    """Weights to the last bit, and all summaries but for times."""
    for weights in one.results.glob("runs/*/*/model.safetensors"):
        assert sha256(weights) == sha256(
            other.results / weights.relative_to(one.results)
        )
    for name in ("summary.csv", "by_seed.csv"):
        tables = [pd.read_csv(p.results / name) for p in (one, other)]
        first, second = (t[~t["unit"].isin(TIMES)] for t in tables)
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_two_studies_beside_each_other(tmp_path: Path, tried: Tried) -> None:
    """In one checkout, at once: as far as weights."""
    copy = Project(tmp_path / "beside")
    runs, names = [], ("smoke", "beside")
    for name in names:
        target = f"results/{name}/runs/baseline-1/seed0/model.safetensors"
        words = (*PLAIN, "--cores", "1", "--config", f"study={name}", "--", target)
        runs.append(
            subprocess.Popen(
                words, cwd=copy.folder, env=copy.environment, stderr=subprocess.PIPE
            )
        )
    said = [run.communicate()[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    weights = "runs/baseline-1/seed0/model.safetensors"
    assert len({sha256(copy.folder / "results" / n / weights) for n in names}) == 1
    tried("two studies at once in one checkout", 1, "both were made")
