"""One run of Snakemake at a time for a study, and jobs that end with it.

Snakemake's own lock outlives a kill, names no owner, and is deleted by any other
Snakemake that ends in the checkout. Here the kernel holds the lock (flock) and drops it
when the process ends, however it ends. Jobs of a killed Snakemake would live on and
write beside those of the next one: a small process of its own, `python running.py PID
TOKEN`, waits for Snakemake's end and kills what is left. It needs nothing but the
standard library, and `/proc`: elsewhere than on Linux there is none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".running"  # in the study's folder; says who makes the study
TOKEN = "SHALLOWER_RUN"  # in the environment of a run's jobs
PATIENCE = 10.0  # seconds that a dry run may take
# Jobs that another run finished would be done again.
JUST_ENDED = "another run has just ended; give the command again"
PROC = Path("/proc")


class StudyLock:
    """The right to make a study, held until this process ends."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        self._file: IO[str] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process has the lock."""
        return self._file is not None

    def take(self, patience: float = 0.0) -> bool:
        """Whether this process has the lock, after waiting for so many seconds."""
        if self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        until = time.monotonic() + patience
        while not _flock(file):
            if time.monotonic() >= until:
                file.close()
                return False
            time.sleep(0.2)
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        self._file = file
        return True

    def refusal(self) -> str:
        """Who has it, and what to do."""
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            who = f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return (
            f"{self.path.parent}: {who} makes this study now; wait for it, or stop it "
            "(Ctrl-C in its terminal) and run the command again"
        )


def written_since(directory: Path, seconds: float) -> bool:
    """Whether something in a study's folder is newer than this time (since 1970)."""
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.name != LOCK and path.stat().st_mtime > seconds:
                return True
    return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in here for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def started(directory: Path) -> int | None:
    """When the run that makes a study now began, ns; None if nobody makes it."""
    path = directory / LOCK
    try:
        with path.open("r") as file:
            if _flock(file, fcntl.LOCK_SH):
                return None
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _flock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- jobs end with Snakemake ----------------------------------------------------------


def jobs_end_with_this_process() -> None:
    """From now on, this process' children end when it does, also after `kill -9`."""
    if not hasattr(os, "pidfd_open") or not PROC.is_dir():
        return
    token = f"{os.getpid()}-{time.time_ns()}"
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), token],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # no Ctrl-C
    )
    os.environ[TOKEN] = token


def kill_jobs(token: str) -> int:
    """Kill every process with this token in its environment; how many there were."""
    due, count = f"{TOKEN}={token}".encode(), 0
    for folder in PROC.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended, or somebody else's
            if due in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
    return count


def wait_and_kill(pid: int, token: str) -> None:
    """Wait for the end of a process, then kill its jobs, and those that they start."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    while kill_jobs(token):
        time.sleep(0.05)


def cancel_slurm_jobs(run_id: str | None) -> None:
    """Cancel what is left of one Snakemake's jobs, by the name that they share.

    After Ctrl-C Snakemake cancels the jobs that it knows, but while it asks SLURM for
    their states it knows none (`RemoteExecutor._wait_for_jobs`): they would go on.
    None: jobs of another kind of executor.
    """
    if run_id is not None:
        subprocess.run(["scancel", "--name", run_id], check=False)


if __name__ == "__main__":
    wait_and_kill(int(sys.argv[1]), sys.argv[2])
