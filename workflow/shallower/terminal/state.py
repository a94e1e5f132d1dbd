"""What a run of Snakemake has done, does and has left, from its events."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from shallower.files import tail
from shallower.terminal.minutes import SHARED, Minutes

STAGES = {  # by rule, in their order; what is not here is `other`
    "data": ("download", "download_file", "download_checkpoint", "corpus", "pairs"),
    "tokens": ("tokenizer", "shard", "shards"),
    "training": ("train",),
    "evaluation": ("evaluate", "floors", "parameters"),
    "checkpoint": ("pretrained",),
    "latency": ("latency",),
    "analysis": ("summary", "estimates"),
    "paper": (
        *("figures", "tables", "typeset", "provenance", "paper"),
        *("notebook_training", "notebook_comparison", "notebook_claim", "page"),
    ),
}
OTHER = "other"
TARGETS = {"all", "notebooks"}  # rules that only name files
ALONE = {"latency"}  # rules that take every core
STEPS = re.compile(r"(\d+)/(\d+)")


def stage_of(rule: str) -> str:
    """The stage that a rule belongs to."""
    return next((name for name, rules in STAGES.items() if rule in rules), OTHER)


@dataclass
class Job:
    """A job that Snakemake has told of."""

    rule: str
    wildcards: Mapping[str, str]
    logs: Sequence[str]
    expected: float  # seconds
    started: float | None = None  # seconds on the monotonic clock
    message: str = ""  # of the executor, as a scheduler's status

    @property
    def label(self) -> str:
        """What a person calls it: `train proposed-5 seed 0`."""
        parts = [
            f"seed {value}" if name == "seed" else str(value)
            for name, value in self.wildcards.items()
        ]
        return " ".join([self.rule, *parts])

    def lines(self) -> list[str]:
        """The last lines of its log that have text."""
        return [line for log in self.logs for line in tail(log)]

    def last_line(self) -> str:
        """What its log says last; empty if it says nothing."""
        return (self.lines() or [""])[-1]

    def elapsed_share(self, now: float) -> float:
        """The share of it that is done: by its log's steps, else by the clock."""
        if self.started is None:
            return 0.0
        if self.rule == "train" and (steps := STEPS.search(self.last_line())):
            done, of = map(int, steps.groups())
            return min(1.0, done / of) if of else 0.0
        return min(0.95, (now - self.started) / max(self.expected, 1e-9))


@dataclass
class RunState:
    """Counts of jobs by rule, the jobs that run, and those that failed."""

    minutes: Minutes | None = None
    cores: int | None = 1  # None on a cluster, whose queue nobody knows
    clock: Callable[[], float] = time.monotonic
    todo: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    running: dict[int, Job] = field(default_factory=dict)
    known: dict[int, Job] = field(default_factory=dict)
    failures: dict[int, Job] = field(default_factory=dict)
    took: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)  # seconds of a rule's job

    def __post_init__(self) -> None:
        self.began = self.clock()

    # --- events -----------------------------------------------------------------------

    def plan(self, jobs: Mapping[str, int]) -> None:
        """Jobs that are to run, by rule."""
        self.todo = Counter({r: n for r, n in jobs.items() if r not in TARGETS})
        if self.minutes is not None:  # once: it looks at every run
            todo = self.todo.items()
            self.each = {r: self.minutes.jobs(r, n) / n for r, n in todo if n}

    def describe(
        self, number: int, rule: str, wildcards: Mapping[str, str], logs: Sequence[str]
    ) -> None:
        """A job is about to run."""
        expected = self.minutes.job(rule, wildcards) if self.minutes else 0.0
        self.known[number] = Job(rule, wildcards, logs, expected)
        self.start([number])

    def start(self, numbers: Sequence[int]) -> None:
        """Jobs run from now on."""
        for number in numbers:
            self.failures.pop(number, None)  # it is tried again
            job = self.known.get(number)
            if job and job.rule not in TARGETS and number not in self.running:
                job.started = self.clock()
                self.running[number] = job

    def finish(self, number: int) -> Job | None:
        """A job is done."""
        job = self.running.pop(number, None)
        if job is not None and job.started is not None:
            self.done[job.rule] += 1
            real = self.clock() - job.started
            self.took.setdefault(job.rule, []).append((real, job.expected))
        return job

    def fail(self, number: int, message: str = "") -> Job | None:
        """A job has failed; it may be tried again."""
        job = self.running.pop(number, None) or self.known.get(number)
        if job is not None:
            job.message = message
            self.failures[number] = job
        return job

    @property
    def failed(self) -> list[Job]:
        """Jobs that failed and were not tried again."""
        return list(self.failures.values())

    # --- what is left -----------------------------------------------------------------

    def stages(self) -> list[tuple[str, int, int]]:
        """Name, jobs done and jobs in all of every stage that has any."""
        done: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for rule, number in self.todo.items():
            total[stage_of(rule)] += number
            done[stage_of(rule)] += min(number, self.done[rule])
        return [(x, done[x], total[x]) for x in (*STAGES, OTHER) if total[x]]

    def speeds(self) -> dict[str, float]:
        """Real over expected seconds of every rule that ran, as in the sums."""
        return {
            rule: sum(real for real, _ in times) / expected
            for rule, times in self.took.items()
            if (expected := sum(each for _, each in times)) > 0
        }

    def expected_seconds(self) -> float | None:
        """Seconds until all is done, None where nobody can know.

        Jobs that take a core each share the cores, the others run one after another.
        What has run corrects what was expected of its rule.
        """
        if not self.each or self.cores is None:
            return None
        now, ratios = self.clock(), self.speeds()
        shared = alone = longest = 0.0
        for rule, number in self.todo.items():
            current = [job for job in self.running.values() if job.rule == rule]
            waiting = max(0, number - self.done[rule] - len(current))
            ratio = ratios.get(rule, 1.0)
            left = [j.expected * (1 - j.elapsed_share(now)) for j in current]
            seconds = ratio * (sum(left) + waiting * self.each[rule])
            if rule in SHARED:
                shared += seconds
                if number > self.done[rule]:
                    # A job cannot be shared out.
                    each = max(left) if left else self.each[rule]
                    longest = max(longest, ratio * each)
            else:
                alone += seconds
        return alone + max(shared / max(1, self.cores), longest)

    def share_done(self, left: float | None) -> float:
        """The share of all expected seconds that is behind us with so many left."""
        passed = self.clock() - self.began
        if left is None:
            total = sum(self.todo.values())
            return sum(self.done.values()) / total if total else 0.0
        return passed / (passed + left) if passed + left > 0 else 0.0
