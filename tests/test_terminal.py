"""What a person sees of a run: through Snakemake itself on a study of three jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from project import ROOT
from shallower.cli import app
from shallower.cores import usable_cores
from shallower.files import tail
from shallower.study.configuration import merge
from shallower.study.jobs import jobs_of
from shallower.study.study import Study, load_study
from shallower.terminal import ending, minutes
from shallower.terminal.minutes import Minutes
from shallower.terminal.screen import (
    LiveScreen,
    PlainScreen,
    detail,
    duration,
    plan_lines,
)
from shallower.terminal.state import STAGES, Job, RunState, stage_of

RULES = """
    rule all:
        input: "last"
    rule first:
        output: "first"
        log: "logs/first.log"
        shell: "(echo reading; {first}) > {{log}} 2>&1"
    rule last:
        input: "first"
        output: "last"
        shell: "touch {{output}}"
"""


def command(folder: Path, first: str, *more: str) -> list[str]:
    """Snakemake with our handler, on a study whose first job runs `first`."""
    (folder / "Snakefile").write_text(textwrap.dedent(RULES).format(first=first))
    return [
        *(sys.executable, "-m", "snakemake", "--logger", "shallower"),
        *("--cores", "1", "--directory", str(folder), *more),
        *("--snakefile", str(folder / "Snakefile")),
    ]


def run(folder: Path, first: str, *more: str) -> tuple[int, list[str]]:
    """Exit status, and the lines on standard error."""
    done = subprocess.run(
        command(folder, first, *more), capture_output=True, text=True, cwd=folder
    )
    return done.returncode, done.stderr.splitlines()


# --- through Snakemake ----------------------------------------------------------------


def test_plan_comes_first_and_the_time_last(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "touch first")
    assert status == 0
    assert lines[0].startswith("2 jobs to do")
    assert lines[-1].startswith("done in ")
    assert not any("\x1b" in line for line in lines)  # no terminal: no colours
    status, lines = run(tmp_path, "touch first")
    assert status == 0
    assert "Nothing to be done" in lines[-1]


def test_reason_of_a_failure_is_the_last_line(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "echo data.csv: no column text; exit 3")
    assert status != 0
    assert lines[-1] == "first failed: data.csv: no column text (logs/first.log)"
    assert "CalledProcessError" not in "\n".join(lines)


def test_an_error_of_the_configuration_is_one_line(tmp_path: Path) -> None:
    broken = command(tmp_path, "touch first")
    (tmp_path / "Snakefile").write_text(
        "from snakemake.exceptions import WorkflowError\n"
        "raise WorkflowError('model.width: 0, expected more')\n"
    )
    done = subprocess.run(broken, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.splitlines() == ["model.width: 0, expected more"]


def test_interrupt_says_that_the_same_command_resumes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "sleep 60"),
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,  # as a terminal: the signal goes to the jobs as well
        # A shell's background job, as these tests may be, does not hear it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "logs" / "first.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    lines = errors.splitlines()
    assert lines[-1] == "stopped after 0 of 2 jobs; the same command resumes"
    assert "SIGINT" not in errors


def test_dry_run_has_the_words_of_snakemake(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "touch first", "-n"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "rule first:" in done.stdout
    assert "This was a dry-run" in done.stdout


# --- counts and times -----------------------------------------------------------------


def study_of(name: str) -> Study:
    """One of the project's studies."""
    config = merge(ROOT / "config.yaml", [ROOT / "config" / f"{name}.yaml"])
    return load_study(config)


class Given(Minutes):
    """Jobs of known length: 10 seconds to train, 4 for anything else."""

    def __init__(self) -> None:
        pass

    def job(self, rule: str, wildcards: Mapping[str, str]) -> float:
        return 10.0 if rule == "train" else 4.0

    def jobs(self, rule: str, count: int) -> float:
        return count * self.job(rule, {})


def test_time_left_by_hand() -> None:
    now = [0.0]
    state = RunState(Given(), cores=2, clock=lambda: now[0])
    state.plan({"train": 4, "latency": 1, "all": 1})
    # Four runs of 10 s on two cores, then one job alone.
    assert state.expected_seconds() == pytest.approx(4 * 10 / 2 + 4)
    state.describe(1, "train", {"model": "a"}, [])
    now[0] = 5.0
    assert state.expected_seconds() == pytest.approx((5 + 30) / 2 + 4)
    now[0] = 20.0
    state.finish(1)
    # Twice as slow as expected: so are the other three. Latency is not.
    assert state.speeds() == {"train": 2.0}
    assert state.expected_seconds() == pytest.approx(2 * 30 / 2 + 4)
    assert state.stages() == [("training", 1, 4), ("latency", 0, 1)]
    assert state.share_done(34.0) == pytest.approx(20 / 54)


def test_a_job_that_is_tried_again_has_not_failed() -> None:
    state = RunState(Given(), cores=1)
    state.plan({"train": 1})
    state.describe(1, "train", {"model": "a"}, [])
    state.fail(1, "SLURM status is: 'TIMEOUT'")
    assert [job.message for job in state.failed] == ["SLURM status is: 'TIMEOUT'"]
    state.describe(1, "train", {"model": "a"}, [])
    assert state.failed == []
    state.finish(1)
    assert state.done["train"] == 1


def test_the_longest_job_bounds_the_time_left() -> None:
    state = RunState(Given(), cores=64)
    state.plan({"train": 3})
    assert state.expected_seconds() == pytest.approx(10.0)


def test_nobody_knows_the_queue_of_a_cluster() -> None:
    state = RunState(Given(), cores=None)
    state.plan({"train": 3})
    assert state.expected_seconds() is None


def test_training_is_as_far_as_its_log_says(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("a seed 0 [##..] 50/200  loss 4.1  9 tokens/s  3 s left\n")
    job = Job("train", {"model": "a", "seed": "0"}, [str(log)], 10.0, started=0.0)
    assert job.elapsed_share(now=9.0) == 0.25
    assert detail(job) == "50/200  loss 4.1  9 tokens/s"
    assert job.label == "train a seed 0"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"one\ntwo\n\n", ["one", "two"]),
        (b"1/3\r2/3\r3/3", ["1/3", "2/3", "3/3"]),
        (b"\xff\xfe bad \n", ["\ufffd\ufffd bad"]),
    ],
)
def test_last_lines_of_a_log(tmp_path: Path, content: bytes, found: list[str]) -> None:
    (tmp_path / "log").write_bytes(content)
    assert tail(tmp_path / "log") == found
    (tmp_path / "log").write_bytes(b"x" * 10**6 + b"\n" + content)
    assert tail(tmp_path / "log")[1:] == found
    assert tail(tmp_path / "missing") == []


def test_every_rule_has_a_stage_and_every_stage_its_rules() -> None:
    for name in ("smoke", "reference"):
        rules = [rule for rule in jobs_of(study_of(name)) if rule != "all"]
        assert {stage_of(rule) for rule in rules} <= set(STAGES)


def test_expected_times_follow_the_study() -> None:
    smoke, reference = study_of("smoke"), study_of("reference")
    assert Minutes(reference, {}).jobs("train", 1) > 20 * Minutes(smoke, {}).jobs(
        "train", 1
    )
    model, seed = reference.runs[0]
    wildcards = {"model": model, "seed": str(seed)}
    plain = Minutes(reference, {}).job("train", wildcards)
    assert Minutes(reference, {"train": 3.0}).job("train", wildcards) == 3 * plain


def test_the_plan_says_how_long_it_takes_here() -> None:
    study = study_of("smoke")
    made, jobs = Minutes(study, {}), jobs_of(study)
    serial = sum(made.jobs(rule, number) for rule, number in jobs.items())
    assert made.all(jobs, 1) == pytest.approx(serial)
    shared = sum(made.jobs(rule, jobs[rule]) for rule in ("train", "evaluate", "shard"))
    assert made.all(jobs, 2) == pytest.approx(serial - shared / 2)
    config = ("--configfile", str(ROOT / "config" / "smoke.yaml"))
    said = CliRunner().invoke(app, ["plan", *config]).stdout
    due = duration(Minutes(study, minutes.read_speeds()).all(jobs, usable_cores()))
    assert f"Here     about {due} for all of it" in said


def test_a_checkpoints_time_is_of_its_own_interventions() -> None:
    one = yaml.safe_load((ROOT / "config.yaml").read_text())
    model = one["pretrained"]["models"]["smollm2-135m"]
    two = deepcopy(one)
    two["pretrained"]["models"]["another"] = model
    whole = Minutes(load_study(one), {}).jobs("pretrained", 1)
    both = Minutes(load_study(two), {})
    assert both.job("pretrained", {"checkpoint": "another"}) == whole
    assert both.jobs("pretrained", 2) == 2 * whole


def test_speeds_are_kept_and_damage_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "speeds.json"
    minutes.write_speeds({"train": 2.0}, path)
    minutes.write_speeds({"latency": 0.5}, path)
    assert minutes.read_speeds(path) == {"train": 2.0, "latency": 0.5}
    for damage in ("{", "[1]", '{"train": "x"}', '{"train": null}'):
        path.write_text(damage)
        assert minutes.read_speeds(path) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "5 s"), (42, "40 s"), (58, "1 min"), (7500, "2 h 05 min"), (None, "unknown")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


# --- the picture ----------------------------------------------------------------------


def test_live_view_fits_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("step 1/9 " + "x" * 500)
    state = RunState(Given(), cores=2)
    state.plan({"train": 30, "latency": 1})
    for number in range(9):
        wildcards = {"model": f"m{number}", "seed": "0"}
        state.describe(number, "train", wildcards, [str(log)])
    console = Console(width=60, record=True, file=(tmp_path / "out").open("w"))
    console.print(LiveScreen(console).picture(state))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("training") and "0/30" in line for line in lines)
    assert any("and 5 more" in line for line in lines)


def test_lines_of_a_log_name_stage_job_and_time_left(tmp_path: Path) -> None:
    state = RunState(Given(), cores=1)
    state.plan({"train": 2})
    state.describe(1, "train", {"model": "proposed-5", "seed": "1"}, [])
    with (tmp_path / "out").open("w") as file:
        PlainScreen(Console(file=file, width=200)).show(state, force=True)
    line = (tmp_path / "out").read_text()
    assert "training 0/2 | train proposed-5 seed 1 | 20 s left" in line


def test_jobs_that_were_not_asked_for_are_not_called_done() -> None:
    """Of the whole study's number, whether others are done or were not asked for."""
    state = RunState(Given(), cores=1)
    state.plan({"train": 2})
    assert plan_lines(state, 30)[0].startswith("2 jobs to do of the study's 30; about")
    for all_of_them in (2, None):
        assert plan_lines(state, all_of_them)[0].startswith("2 jobs to do; about")


def test_verdicts_are_counted_and_headlines_shown(tmp_path: Path) -> None:
    row = {"claim": "faster", "effect": "1.5", "ci_low": "-1.25", "ci_high": "1.75"}
    rows = [
        {"id": "C7", "verdict": "supported", "unit": "", **row},
        {"id": "S3-9", "verdict": "inconclusive", "unit": "nats", **row},
    ]
    with (tmp_path / "out").open("w") as file:
        ending.verdicts(rows, Console(file=file, width=100))
    text = (tmp_path / "out").read_text()
    assert "2 claims: 1 supported, 1 inconclusive" in text
    assert "1.500 [\N{MINUS SIGN}1.250, 1.750]" in text
    assert "S3-9" not in text
