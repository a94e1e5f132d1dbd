"""Text to token shards: the shard stage against `datasets.map` and a fast tokenizer.

Each implementation runs in processes of its own, their start included, on two cores:
two jobs of the shard stage, each a part, as Snakemake starts them, or one program that
maps with two processes. All read the same Parquet file and write the same bytes, which
is checked.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, alternate, seconds

WORK = "tokenization"
CORES = 2
SMALL = 50  # megabytes; the larger text is for two of them only
MEGABYTE = 10**6


def run() -> list[Row]:
    """Rows of 50 MB and 500 MB, and what memory the shard jobs took for each."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tokenization-") as name:
        folder = Path(name)
        _python("benchmarks.tokenization_commands", "prepare", folder)
        for size, repeats in ((SMALL, 3), (10 * SMALL, 1)):
            rows += _case(folder, size, repeats)
    return rows


def _case(folder: Path, size: int, repeats: int) -> list[Row]:
    """All in turn on `size` megabytes; the slower ones on the small text only."""
    case, text, model = (
        f"{size} MB",
        folder / "text.parquet",
        folder / "tokenizer.model",
    )
    ours, theirs = folder / "ours", folder / "theirs"
    _python("benchmarks.tokenization_commands", "text", folder, size * MEGABYTE)
    peaks: list[float] = []
    ways: dict[str, Callable[[], object]] = {
        "shallower": lambda: peaks.append(_shards(text, model, ours)),
        "datasets.map": lambda: _map("processes", text, model, theirs),
    }
    if size <= SMALL:
        ways["datasets.map, threads"] = lambda: _map("threads", text, model, theirs)

    def rate(way: Callable[[], object]) -> float:
        shutil.rmtree(theirs / "caches", ignore_errors=True)  # nothing is reused
        return size / seconds(way)

    rates = {name: partial(rate, way) for name, way in ways.items()}
    rows = alternate(WORK, case, rates, repeats, "MB/s", warmups=0)
    _same(ours, theirs)
    memory = {"shallower": partial(peaks.pop, 0)}
    return rows + alternate(WORK, f"{case} memory", memory, repeats, "MB", warmups=0)


def _map(kind: str, text: Path, model: Path, output: Path) -> None:
    _python("benchmarks.tokenization_commands", kind, text, model, output)


def _shards(text: Path, model: Path, output: Path) -> float:
    """Run the shard stage's jobs side by side; return the larger one's peak in MB."""
    options = ["shard", "--text", text, "--tokenizer", model, "--parts", CORES]
    jobs = [
        _start(
            "shallower", *options, "--part", part, "--output", output / f"{part}.bin"
        )
        for part in range(CORES)
    ]
    peaks = []
    for job in jobs:
        # Linux counts what this process held when it started the job; that is little,
        # since everything large is done in other processes.
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
        if job.returncode:
            raise subprocess.CalledProcessError(job.returncode, job.args)
        peaks.append(usage.ru_maxrss * 1024 / MEGABYTE)
    return max(peaks)


def _same(ours: Path, theirs: Path) -> None:
    """Raise an error unless both hold the same bytes."""
    joined = theirs / "ours.bin"
    with joined.open("wb") as out:
        for part in range(CORES):
            with (ours / f"{part}.bin").open("rb") as shard:
                shutil.copyfileobj(shard, out)
    if not filecmp.cmp(joined, theirs / "tokens.bin", shallow=False):
        raise ValueError(f"{theirs}: other tokens than in {ours}")


def _start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command)


def _python(module: str, *arguments: object) -> None:
    job = _start(module, *arguments)
    if job.wait():
        raise subprocess.CalledProcessError(job.returncode, job.args)
