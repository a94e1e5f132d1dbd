"""Fewer cores than are seen: a quota, and a neighbour that uses them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from conftest import run_spec
from counting import Tried
from models_for_tests import tiny
from project import SMOKE, Project
from runs_for_tests import write_corpus, write_run
from shallower import cores
from shallower.analysis.summaries import BUSY, STOPPED, judged_sessions
from shallower.evaluation.latency.cases import Job
from shallower.evaluation.latency.job import run_session
from shallower.models.config import LlamaConfig
from shallower.models.registry import FFNS, HEADS
from shallower.study.runs import LatencySpec, OriginalSpec, TimedModel
from shallower.study.schema import Bandwidth, Latency, Workload

# --- quotas as control groups state them ----------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up file system of control groups, on a machine of eight cores."""
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(cores, "visible_cores", lambda: 8)
    return tmp_path / "mounts"


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_without_control_groups_all_visible_cores_are_used(groups: Path) -> None:
    assert cores.usable_cores() == 8
    assert cores.Throttling().share() == 0.0


@pytest.mark.parametrize(
    ("inner", "outer", "usable"),
    [
        ("max 100000", "max 100000", 8),
        ("300000 100000", "max 100000", 3),
        ("max 100000", "250000 100000", 2),  # of the group around; rounded down
        ("50000 100000", "400000 100000", 1),
        ("1600000 100000", "max 100000", 8),
    ],
)
def test_the_quota_of_version_2(
    inner: str, outer: str, usable: int, groups: Path
) -> None:
    written(groups / "a" / "b", cpu__max=inner)
    written(groups / "a", cpu__max=outer)
    (groups.parent / "cgroup").write_text("0::/a/b\n")
    assert cores.usable_cores() == usable
    # A container that sees the path of its host has its own group at the root.
    written(groups, cpu__max=inner)
    for path in ("/host/b", "/../b"):
        (groups.parent / "cgroup").write_text(f"0::{path}\n")
        assert cores.usable_cores() == (8 if inner.startswith("max") else usable)


def test_the_quota_of_version_1(groups: Path) -> None:
    mine = written(groups / "cpu" / "a", cpu__cfs_period_us="100000")
    (groups.parent / "cgroup").write_text("5:memory:/m\n2:cpu,cpuacct:/a\n0::/\n")
    for quota, usable in (("-1", 8), ("200000", 2), ("20000", 1)):
        written(mine, cpu__cfs_quota_us=quota)
        assert cores.usable_cores() == usable


def test_periods_in_which_a_quota_stopped_it(groups: Path) -> None:
    (groups.parent / "cgroup").write_text("0::/a\n")
    stat = "nr_periods {}\nnr_throttled {}\nthrottled_usec 5".format
    written(groups / "a", cpu__stat=stat(100, 50))
    written(groups, cpu__stat="usage_usec 7")  # the root has no quota
    throttling = cores.Throttling()
    assert throttling.share() == 0.0
    written(groups / "a", cpu__stat=stat(300, 60))
    assert throttling.share() == pytest.approx(0.05)


def test_libraries_start_as_many_threads_as_the_quota_has_cores(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ  # without a quota they go on as before
    written(groups, cpu__max="300000 100000")
    (groups.parent / "cgroup").write_text("0::/\n")
    cores.limit_threads()
    assert os.environ.pop("OMP_NUM_THREADS") == "3"


# --- a quota that the kernel enforces -------------------------------------------------


@contextmanager
def quota(share: float) -> Iterator[Callable[[], None]]:
    """What a process calls to have so many cores and no more; skips without the right.

    The group is made below the one of the tests, and removed.
    """
    around = cores._groups()
    if not around:
        pytest.skip("no control groups here")
    group = around[0] / f"shallower-tests-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs the right to make a control group")
    try:
        try:
            microseconds = round(share * 100_000)
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_quota_us").write_text(str(microseconds))
            else:
                (group / "cpu.max").write_text(f"{microseconds} 100000")
        except OSError:
            pytest.skip("this control group cannot have a quota")
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        group.rmdir()


AT_WORK = """
import json, time
from shallower.cores import Throttling, usable_cores
throttling, until = Throttling(), time.monotonic() + 1
while time.monotonic() < until:
    pass
print(json.dumps([usable_cores(), throttling.share()]))
"""


def test_a_quota_is_seen_and_its_stops_are_counted(tried: Tried) -> None:
    with quota(0.3) as join:
        run = subprocess.run(
            [sys.executable, "-c", AT_WORK], preexec_fn=join, capture_output=True
        )
    usable, share = json.loads(run.stdout)
    assert usable == 1
    assert share > STOPPED
    tried("a CPU quota below the visible cores", 1, "threads follow it, stops counted")


@pytest.mark.slow
@pytest.mark.skipif(cores.visible_cores() < 2, reason="needs two cores")
def test_snakemake_starts_no_more_jobs_than_the_quota_has_cores(
    tmp_path: Path, tried: Tried
) -> None:
    project = Project(tmp_path)
    command = ["snakemake", "-n", "-p", *SMOKE, "--cores", "2", "--"]
    command.append("results/smoke/latency.parquet")

    def threads(join: Callable[[], None] | None) -> str:
        """Of the job that takes all cores; one is not stated."""
        run = subprocess.run(
            command,
            cwd=project.folder,
            env=project.environment,
            preexec_fn=join,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        said = run.stdout + run.stderr
        [job] = re.findall(r"rule latency:\n((?: .*\n)+)", said)
        found = re.search(r"threads: (\d+)", job)
        return found[1] if found else "1"

    assert threads(None) == "2"
    with quota(1.5) as join:
        assert threads(join) == "1"
    tried("a CPU quota below the visible cores", 1, "threads follow it, stops counted")


# --- a neighbour ----------------------------------------------------------------------


def short_job(folder: Path, tokenizer: Path) -> Job:
    """The least that a session times: an untrained model, and one of another size."""
    write_corpus(folder, tokenizer)
    spec = run_spec("baseline", 4, 4, model=tiny())
    write_run(folder / "runs" / "baseline-2" / "seed0", spec)
    lengths = Workload(prompt_tokens=8, new_tokens=3, repeats=4, warmups=1)
    settings = Latency(
        sessions=1,
        study=lengths,
        original=lengths,
        uncached_repeats=1,
        prompts=1,
        step_repeats=1,
        bandwidth=Bandwidth(megabytes=[1], repeats=2),
    )
    timed = TimedModel(
        label="baseline-2", run="baseline-2", seeds=[0], workloads=["all"]
    )
    original = OriginalSpec(
        model=LlamaConfig(400, 32, 3, 4, 64, 32),
        depths=[1, 3],
        heads={name: HEADS[name] for name in ("baseline", "proposed")},
        ffns={name: FFNS[name] for name in ("none", "three_matrices")},
        skips=[],
        speedups=[],
        lengths=[],
    )
    told = LatencySpec(
        settings=settings,
        models=[timed],
        specs={"baseline-2": spec},
        new_tokens=3,
        prompt_tokens=8,
        original=original,
    )
    folders = folder / "runs", folder / "evaluations", folder / "corpus"
    return Job(told, *folders, tokenizer, 1, "cpu")


def test_times_beside_a_busy_neighbour_are_those_of_a_disturbed_session(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    """And so are those of one that a quota stopped, which is made up here."""
    monkeypatch.setattr(cores.Throttling, "share", lambda _: 2 * STOPPED)
    job = short_job(tmp_path, corpus / "tokenizer.model")
    threads = torch.get_num_threads()
    command = [sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"]
    neighbour = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline()  # it has begun
        latency, *_ = run_session(job, 0)
    finally:
        neighbour.kill()
        neighbour.wait()
        torch.set_num_threads(threads)
    assert latency["background_load"].min() > BUSY
    # Equal times of the twins, so that nothing but neighbour and quota disturb.
    latency = latency.assign(nanoseconds=1000)
    alone, free = {"background_load": 0.0}, {"throttled": 0.0}
    assert judged_sessions(latency.assign(**free))["disturbed"].all()
    assert judged_sessions(latency.assign(**alone))["disturbed"].all()
    assert not judged_sessions(latency.assign(**alone, **free))["disturbed"].any()
    tried("a busy neighbour of a latency session", 1, "the session counts as disturbed")
