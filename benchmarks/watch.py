"""A run of the pipeline from outside: time, Snakemake's own processor time, memory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.harness import COLUMNS, Row

INTERVAL = 0.5  # seconds between two looks
PROGRAM = "snakemake"


class Watched(NamedTuple):
    """What a run took."""

    seconds: float
    snakemake: float  # its own processor time, by seconds of the run: of one core
    memory: int  # bytes of all its processes together, at their most


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str]):
    """Run a command to its end. Raises SystemExit with what it said if it fails.

    Memory that processes share counts once. What happens between two looks is missed:
    the last half second of Snakemake's processor time, and short peaks.
    """
    log = folder / ".snakemake" / "watched.log"
    log.parent.mkdir(exist_ok=True)
    own, memory, began = 0.0, 0, time.perf_counter()
    with log.open("w") as said:
        run = psutil.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        while run.poll() is None:
            memory = max(memory, sum(map(resident, tree(run))))
            own = max([own, *map(snakemakes, tree(run))])
            time.sleep(INTERVAL)
    taken = time.perf_counter() - began
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{log.read_text()[-3000:]}")
    return Watched(taken, own / taken, memory)


def rows(work: str, case: str, found: Watched) -> Iterator[Row]:
    """Three rows, in seconds, percent of a core and GiB."""
    for end, value, unit in (
        ("", found.seconds, "s"),
        (", Snakemake's own processor time", 100 * found.snakemake, "percent"),
        (", memory", found.memory / 2**30, "GiB"),
    ):
        cells = (work, case + end, "make paper", 0, value, unit)
        yield dict(zip(COLUMNS, cells, strict=True))


def tree(run: psutil.Process) -> list[psutil.Process]:
    """A process and all below it; nothing once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [run, *run.children(recursive=True)]
    return []


def resident(process: psutil.Process) -> int:
    """Bytes of memory, shared ones by the number of processes that share them."""
    with suppress(psutil.Error):
        return process.memory_full_info().pss
    return 0


def snakemakes(process: psutil.Process) -> float:
    """Seconds of processor time if it is Snakemake, without its jobs; else 0."""
    with suppress(psutil.Error):
        if PROGRAM in [Path(word).name for word in process.cmdline()[:2]]:
            times = process.cpu_times()
            return times.user + times.system
    return 0.0
