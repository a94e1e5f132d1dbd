"""Snakemake's events as a plan, a line for each stage, and an end.

A dry run, and whatever asks for Snakemake's own words (`--verbose`,
`--printshellcmds`), gets them.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from shallower import terminal
from shallower.study.jobs import jobs_of
from shallower.terminal import ending
from shallower.terminal.minutes import Minutes, read_speeds, write_speeds
from shallower.terminal.screen import make_screen, plan_lines
from shallower.terminal.state import RunState

TICK = 1.0  # seconds between two looks at the logs
NOTHING = "Nothing to be done"
NEEDED = "SLURM run ID"  # by it a run's jobs are found and cancelled (docs/cluster.md)
ON_REQUEST = ("Terminating processes on user request", "Cancelling snakemake")
# What Snakemake says of its own when a job failed: the reason is in the job's log.
OF_FAILED_JOBS = re.compile(
    r"Exiting because a job execution failed|CalledProcessError|"
    r"At least one job did not complete|Error in rule|Removing output files"
)
PLACE = re.compile(r"WorkflowError in file|\s*File \".*\", line")


class LogHandler(LogHandlerBase):
    """Turns log records into what a person reads. Snakemake makes one for a run."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.plain = bool(
            settings.dryrun
            or settings.verbose
            or settings.debug_dag
            or settings.printshellcmds
        )
        self.own = self._snakemakes_own()
        self.state = RunState()
        self.errors: list[str] = []
        self.by_request = self.begun = self.closed = False
        self.screen = make_screen(settings.nocolor)
        self.guard = threading.RLock()
        self.over = threading.Event()
        self.handles = self._handlers()

    def _snakemakes_own(self) -> logging.Handler:
        """The handler that Snakemake would have, for what it says by itself."""
        from snakemake.logging import (
            ColorizingTextHandler,
            DefaultFilter,
            DefaultFormatter,
        )

        settings: Any = self.common_settings
        stream = sys.stdout if settings.stdout else sys.stderr
        own: logging.Handler = ColorizingTextHandler(
            nocolor=settings.nocolor, stream=stream
        )
        quiet = settings.quiet
        own.addFilter(
            DefaultFilter(
                quiet,
                settings.debug_dag,
                settings.verbose,
                settings.dryrun,
                settings.printshellcmds,
            )
        )
        own.setFormatter(DefaultFormatter(quiet, settings.show_failed_logs))
        return own

    # --- what Snakemake asks ----------------------------------------------------------

    @property
    def writes_to_stream(self) -> bool:
        """Yes: Snakemake's own lines are left out."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """No: Snakemake's own log file has everything."""
        return False

    @property
    def has_filter(self) -> bool:
        """Every record is looked at here."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Records are not formatted one by one."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False

    # --- records ----------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record into account."""
        if self.plain:
            self.own.handle(record)
            return
        event = getattr(record, "event", None)
        handle = self.handles.get(event)
        with self.guard:
            if handle is not None:
                handle(record)
            elif event is None:
                self._message(record)

    def _handlers(self) -> dict[LogEvent | None, Callable[[Any], None]]:
        return {
            LogEvent.WORKFLOW_STARTED: self._workflow_started,
            LogEvent.RESOURCES_INFO: self._resources,
            LogEvent.RUN_INFO: self._planned,
            LogEvent.JOB_INFO: self._job,
            LogEvent.JOB_STARTED: lambda record: self.state.start(record.jobs),
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
            LogEvent.GROUP_ERROR: self._group_failed,
            LogEvent.ERROR: self._error,
        }

    def _workflow_started(self, record: Any) -> None:
        study = terminal.described()
        if study is not None:
            self.state.minutes = Minutes(study, read_speeds())

    def _resources(self, record: Any) -> None:
        if getattr(record, "nodes", None) is not None:
            self.state.cores = None
        elif cores := getattr(record, "cores", None):
            self.state.cores = cores

    def _planned(self, record: Any) -> None:
        counts = {r: n for r, n in record.stats.items() if r != "total"}
        self.state.plan(counts)
        study = terminal.described()
        in_all = sum(jobs_of(study).values()) - 1 if study else None  # without `all`
        for line in plan_lines(self.state, in_all, self.screen.console.width):
            self.screen.write(line)
        self.begun = True
        self.screen.start()
        threading.Thread(target=self._tick, daemon=True).start()

    def _job(self, record: Any) -> None:
        wildcards = dict(record.wildcards or {})
        self.state.describe(record.jobid, record.rule_name, wildcards, record.log or [])

    def _finished(self, record: Any) -> None:
        job = self.state.finish(record.job_id)
        if job is not None and job.rule == "verify":  # what it says is what it is for
            self.screen.write("\n".join(job.lines()))

    def _failed(self, record: Any) -> None:
        self.state.fail(record.jobid, str(record.rule_msg or ""))

    def _group_failed(self, record: Any) -> None:
        for each in record.job_error_info:
            self.state.fail(each["jobid"])

    def _error(self, record: Any) -> None:
        text = str(record.msg)
        if any(words in text for words in ON_REQUEST):
            self.by_request = True
        elif not OF_FAILED_JOBS.search(text) and not self.by_request:
            lines = text.strip().splitlines()
            if record.exception == "WorkflowError":
                # Where it was raised does not help with a mistake in a configuration.
                lines = [line for line in lines if not PLACE.match(line)]
            self.errors.append("\n".join(lines))

    def _message(self, record: logging.LogRecord) -> None:
        text = str(record.getMessage())
        if any(words in text for words in ON_REQUEST):
            self.by_request = True
        elif NEEDED in text:
            self.screen.write(text.strip())
        elif NOTHING in text:
            study = terminal.described()
            results = f", results/{study.study}" if study else ""
            self.screen.write(f"Nothing to be done: {ending.PAPER}{results}")
        elif (
            record.levelno >= logging.WARNING
            and not OF_FAILED_JOBS.search(text)
            and not self.by_request
        ):
            self.screen.write(text.strip(), "yellow")

    # --- a second's work, and the end -------------------------------------------------

    def _tick(self) -> None:
        while not self.over.wait(TICK):
            with self.guard:
                if not self.closed:
                    self.screen.show(self.state)

    def close(self) -> None:
        """Say how it ended. Snakemake closes its handlers last."""
        super().close()
        with self.guard:
            if self.closed or self.plain:
                return
            self.closed = True
            self.over.set()
            if self.begun:
                self.screen.stop()
                write_speeds(self._learned())
            self._end()

    def _learned(self) -> dict[str, float]:
        """Ratios to the constants, of what was expected with the ratios so far."""
        known = self.state.minutes.measured if self.state.minutes else {}
        return {r: x * known.get(r, 1.0) for r, x in self.state.speeds().items()}

    def _end(self) -> None:
        console = self.screen.console
        if self.by_request:
            ending.stopped(self.state, console)
        elif self.state.failed or self.errors:
            ending.failure(self.state.failed, self.errors, console)
        elif self.begun:
            ending.success(terminal.described(), self.state, console)
