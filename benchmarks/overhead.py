"""`python -m benchmarks.overhead results/<study> [--cores N]`: what a run was spent on.

For a study that `snakemake` made from start to end, from the times Snakemake noted for
each job, in core-seconds:

- own: what the jobs computed, each one's duration less its start-up, times the cores it
  holds: all for the latency job, as no other may run beside it, two for the figures.
- start-up: of an interpreter with the imports of the rule's command: processor time,
  measured now, as many at a time as there are cores. LaTeX and the notebooks have none
  here: what they take to start counts as their own.
- idle: cores without a job, between two jobs or at the end of a stage, and Snakemake's
  own start and end.

The overhead is start-up and idle, as a share of all.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MANY = 10**6
HOLDS = {"latency": MANY, "figures": 2, "paper": 2}  # cores, at most; others hold one
REPEATS = 3


class Job(NamedTuple):
    """A finished job, in seconds since the epoch."""

    rule: str
    command: str
    start: float
    end: float


class Overhead(NamedTuple):
    """Core-seconds of a run; `by_rule`: jobs, all their seconds, start-up of one."""

    wall: float
    cores: int
    own: float
    start_up: float
    by_rule: dict[str, tuple[int, float, float]]

    @property
    def idle(self) -> float:
        return self.cores * self.wall - self.own - self.start_up

    @property
    def share(self) -> float:
        """Of the wall time: 0 to 1."""
        return 1 - self.own / (self.cores * self.wall)


def jobs(results: Path) -> list[Job]:
    """Every job behind a study's files; `results` is `PROJECT/results/STUDY`."""
    project = results.parents[1]
    found: dict[tuple[str, str], Job] = {}
    for path in (project / ".snakemake" / "metadata").rglob("*"):
        if not path.is_file():
            continue
        # A long name is cut into folders, all but the last of them marked by an @.
        name = str(path.relative_to(project / ".snakemake" / "metadata"))
        output = base64.b64decode(name.replace("/@", "").removeprefix("@").encode())
        record = json.loads(path.read_text())
        # report/paper.pdf is of the study that was made last.
        mine = output.decode().startswith(f"results/{results.name}/")
        mine |= f" results/{results.name}/" in (record["shellcmd"] or "")
        if mine and record["starttime"]:
            # One record for each output; a job is known by its log.
            rule, start, end = (record[k] for k in ("rule", "starttime", "endtime"))
            key = (rule, "".join(record["log"]))
            other = found.get(key, Job(rule, record["shellcmd"] or "", start, end))
            start, end = min(start, other.start), max(end, other.end)
            found[key] = other._replace(start=start, end=end)
    return sorted(found.values(), key=lambda job: job.start)


def imports() -> dict[str, list[str]]:
    """The modules that each command of a rule imports."""
    folder = ROOT / "workflow" / "shallower" / "commands"
    texts = [(folder / name).read_text() for name in ("people.py", "stages.py")]
    return {
        node.name.replace("_", "-"): [
            inner.module
            for inner in ast.walk(node)
            if isinstance(inner, ast.ImportFrom) and inner.module
        ]
        for text in texts
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }


def start_up(modules: list[str], cores: int) -> float:
    """Seconds of a core to start an interpreter with these modules, on every core."""
    # As `cli.main` begins.
    lines = ["import gc; gc.set_threshold(100_000, 20, 20)", "import shallower.cli"]
    code = "; ".join(lines + [f"import {module}" for module in modules])
    command = [sys.executable, "-c", code]
    # The first round only fills the page cache.
    return median([_together(command, cores) for _ in range(1 + REPEATS)][1:])


def _together(command: list[str], copies: int) -> float:
    """Mean processor time of copies of a command that run side by side."""
    path = os.pathsep.join([str(ROOT / "workflow"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [subprocess.Popen(command, env=environment) for _ in range(copies)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"{' '.join(command)} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent / copies


def measure(results: Path, cores: int, wall: float | None = None) -> Overhead:
    """What a finished study was spent on; `wall` is Snakemake's own, if known."""
    done, modules = jobs(results), imports()
    if not done:
        raise SystemExit(f"{results}: no times of jobs beside it in .snakemake")
    wall = wall or run_seconds(results.parents[1], done)
    if wall is None:
        raise SystemExit(f"{results}: not made by one run from start to end")
    own = started = 0.0
    by_rule: dict[str, tuple[int, float, float]] = {}
    for rule, number in Counter(job.rule for job in done).items():
        mine = [job for job in done if job.rule == rule]
        command = re.search(r"-m shallower ([\w-]+)", mine[0].command)
        start = start_up(modules[command[1]], cores) if command else 0.0
        takes = min(cores, HOLDS.get(rule, 1))
        spent = sum(job.end - job.start for job in mine)
        # Starting keeps one core busy; the others that a job holds wait with it.
        own += takes * sum(max(0.0, job.end - job.start - start) for job in mine)
        started += takes * sum(min(start, job.end - job.start) for job in mine)
        by_rule[rule] = (number, spent, start)
    return Overhead(wall, cores, own, started, by_rule)


def run_seconds(project: Path, done: list[Job]) -> float | None:
    """From Snakemake's start to its end, as its log has them, if one run did it all."""
    for path in (project / ".snakemake" / "log").glob("*.snakemake.log"):
        stamp = path.name.removesuffix(".snakemake.log")
        began = datetime.strptime(stamp, "%Y-%m-%dT%H%M%S.%f").timestamp()
        ended = path.stat().st_mtime
        if began <= done[0].start and max(job.end for job in done) <= ended:
            return ended - began
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results/<study>, finished")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--wall", type=float, help="seconds of the run, if measured")
    a = parser.parse_args()
    found = measure(a.results.resolve(), a.cores, a.wall)
    print(f"{'rule':<20} {'jobs':>4} {'seconds':>9} {'start-up of one':>16}")
    for rule, (number, spent, start) in found.by_rule.items():
        print(f"{rule:<20} {number:>4} {spent:>9.1f} {start:>16.2f}")
    parts = {"own": found.own, "start-up": found.start_up, "idle": found.idle}
    print(f"{found.wall:.0f} s on {found.cores} cores, in core-seconds:")
    for name, value in parts.items():
        print(f"  {name:<9} {value:8.0f}  {value / found.cores / found.wall:6.1%}")
    print(f"overhead: {found.share:.1%} of wall time")


if __name__ == "__main__":
    main()
