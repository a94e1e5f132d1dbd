"""The state of a run as text: lines for a log, and a live view for a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shallower.terminal.state import STEPS, Job, RunState, stage_of

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal
SHOWN_JOBS = 4  # running jobs that are shown, of more there is a number
BAR = re.compile(r"\s*\[[#.]*\]")  # a training log draws its own


def duration(seconds: float | None) -> str:
    """`25 s`, `14 min` or `2 h 05 min`; seconds by fives."""
    if seconds is None:
        return "unknown"
    if seconds < 55:
        return f"{5 * max(1, round(seconds / 5))} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours else f"{minutes} min"


def detail(job: Job) -> str:
    """What a running job's log says of how far it is; empty if it says it not."""
    line = BAR.sub(" ", job.last_line())
    if not STEPS.search(line):
        return ""
    line = re.sub(r"\s\s+", "  ", re.sub(r"\d+ s left$", "", line)).strip()
    # A run's log begins with its name, which the label has.
    name = job.wildcards.get("model")
    if name and line.startswith(name):
        line = re.sub(r"^\S+ seed \d+\s*", "", line)
    return line


def plan_lines(state: RunState, in_all: int | None, width: int = 88) -> list[str]:
    """What is to be done: jobs by stage and expected minutes, before the first job."""
    jobs = sum(state.todo.values())
    left = state.expected_seconds()
    head = f"{jobs} jobs to do"
    if in_all and in_all > jobs:  # others are done, or were not asked for
        head += f" of the study's {in_all}"
    about = f"; about {duration(left)} on this machine" if left is not None else ""
    parts = ", ".join(f"{name} {total}" for name, _, total in state.stages())
    indent = "  "
    wrapped = textwrap.wrap(
        parts, width, initial_indent=indent, subsequent_indent=indent
    )
    return [head + about, *wrapped]


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it is, whatever its length."""
    console.print(Text(text, style=style), soft_wrap=True)


class PlainScreen:
    """Lines now and then: no terminal, a log, continuous integration."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said = time.monotonic()

    def start(self) -> None:
        """Nothing to prepare."""

    def show(self, state: RunState, force: bool = False) -> None:
        """A line, unless there was one a moment ago."""
        now = time.monotonic()
        if not force and now - self.said < PLAIN_EVERY:
            return
        self.said = now
        counts = [f"{name} {d}/{n}" for name, d, n in state.stages() if 0 < n != d]
        jobs = [
            f"{job.label}: {detail(job)}".rstrip(": ")
            for job in list(state.running.values())[:2]
        ]
        left = state.expected_seconds()
        ending = [f"{duration(left)} left"] if left is not None else []
        line = " | ".join([", ".join(counts), *jobs, *ending])
        self.write(f"[{time.strftime('%H:%M:%S')}] {line}")

    def write(self, text: str, style: str = "") -> None:
        """Text as it is."""
        say(self.console, text, style)

    def stop(self) -> None:
        """Nothing to take down."""


class LiveScreen(PlainScreen):
    """One line for each stage with a bar, and the jobs that run."""

    def start(self) -> None:
        """Draw from now on, where the terminal's cursor is."""
        self.live = Live(
            console=self.console, auto_refresh=False, transient=True, screen=False
        )
        self.live.start()

    def show(self, state: RunState, force: bool = False) -> None:
        """Draw the state."""
        self.live.update(self.picture(state), refresh=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self.live.stop()

    def picture(self, state: RunState) -> RenderableType:
        """Stages with bars, jobs with what their logs say, and the whole."""
        width = self.console.width
        table = Table.grid(padding=(0, 1), expand=False)
        for name, done, total in state.stages():
            finished = done == total
            style = "dim" if finished or (done == 0 and not _runs(state, name)) else ""
            bar = ProgressBar(total, done, width=24, finished_style="green")
            table.add_row(Text(name, style=style), bar, Text(f"{done}/{total}", style))
        lines: list[RenderableType] = [table]
        jobs = list(state.running.values())
        for job in jobs[:SHOWN_JOBS]:
            text = Text(f"  {job.label}  ", no_wrap=True, overflow="ellipsis")
            text.append(detail(job), style="cyan")
            text.truncate(width - 1, overflow="ellipsis")
            lines.append(text)
        if len(jobs) > SHOWN_JOBS:
            lines.append(Text(f"  and {len(jobs) - SHOWN_JOBS} more"))
        passed = duration(state.clock() - state.began)
        left = state.expected_seconds()
        about = f", about {duration(left)} left" if left is not None else ""
        whole = Text(
            f"  {state.share_done(left):4.0%} of the study, {passed} so far{about}"
        )
        return Group(*lines, whole)


def _runs(state: RunState, stage: str) -> bool:
    return any(stage_of(job.rule) == stage for job in state.running.values())


def make_screen(no_color: bool) -> PlainScreen:
    """A live view on a terminal that can show one, else lines."""
    console = Console(
        stderr=True, no_color=no_color or None, soft_wrap=False, highlight=False
    )
    live = console.is_terminal and not console.is_dumb_terminal
    if live and not os.environ.get("CI"):
        return LiveScreen(console)
    # A log has no width: its lines are as long as they are.
    columns = max(200, shutil.get_terminal_size().columns)
    return PlainScreen(Console(file=sys.stderr, width=columns, no_color=True))
