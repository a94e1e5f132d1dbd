"""The last lines of a run: where everything is, the verdicts; or why it failed."""

from __future__ import annotations

import csv
import resource
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shallower.cores import peak_bytes
from shallower.reporting.contents import HEADLINES, VERDICTS
from shallower.study.study import Study
from shallower.terminal.numbers import STYLES, effect
from shallower.terminal.screen import duration, say
from shallower.terminal.state import Job, RunState

PAPER = Path("report/paper.pdf")
SHOWN_FAILURES = 5
CHECKS = ("verify", "provenance")  # rules that find several things at once


def success(study: Study | None, state: RunState, console: Console) -> None:
    """After a whole study: the files, the verdicts, time and memory."""
    took = (
        f"done in {duration(state.clock() - state.began)}, largest process {memory()}"
    )
    if study is None or not state.done["paper"]:
        say(console, took)
        return
    results = Path("results", study.study)
    say(console, f"{PAPER}: the paper of study {study.study!r}", "bold")
    say(console, f"{results / 'report.html'}: verdicts, figures and tables, to browse")
    say(console, f"{results}: claims.csv, summary.csv, figures/, notebooks/ ...")
    claims = results / "claims.csv"
    if claims.exists():
        with claims.open(encoding="utf-8", newline="") as file:
            verdicts(list(csv.DictReader(file)), console)
    say(console, took)


def verdicts(claims: list[dict[str, str]], console: Console) -> None:
    """Verdicts by count, and the headline claims as a table."""
    counts = Counter(row["verdict"] for row in claims)
    shown = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    say(console, f"\n{len(claims)} claims: {shown}")
    table = Table.grid(padding=(0, 2))
    for row in claims:
        if row["id"] in HEADLINES:
            style = STYLES.get(row["verdict"], "dim")
            table.add_row(
                row["id"], row["claim"], effect(row), Text(row["verdict"], style)
            )
    console.print(table)
    say(console, "")


def failure(failed: list[Job], errors: list[str], console: Console) -> None:
    """Why it failed; the reason, with its log, is the last line."""
    for error in errors:
        say(console, error, "red")
    if len(failed) > SHOWN_FAILURES:
        say(console, f"{len(failed)} jobs failed; the last of them:")
    for job in failed[-SHOWN_FAILURES:]:
        if job.rule in CHECKS:
            say(console, "\n".join(job.lines()[:-1]))
        if "SLURM" in job.message:
            say(console, job.message, "red")
        reason = job.last_line() or "no message in its log"
        logs = f" ({', '.join(job.logs)})" if job.logs else ""
        say(console, f"{job.label} failed: {reason}{logs}", "red")


def stopped(state: RunState, console: Console) -> None:
    """After Ctrl-C, or a signal to end."""
    done, total = sum(state.done.values()), sum(state.todo.values())
    of = f" after {done} of {total} jobs" if total else ""
    say(console, f"stopped{of}; the same command resumes", "yellow")


def memory() -> str:
    """The most memory that one of the jobs' processes took."""
    peak = peak_bytes(resource.RUSAGE_CHILDREN)
    return f"{peak / 2**30:.1f} GiB" if peak >= 2**29 else f"{peak / 2**20:.0f} MiB"
