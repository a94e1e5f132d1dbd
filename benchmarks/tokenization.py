"""Text to token shards: the shard stage against `datasets.map` and a fast tokenizer.

Every arm is processes of its own, their start included, on two cores: two jobs of the
shard stage, each a part, as Snakemake starts them, or one program that maps with two
processes. All read the same Parquet file and write the same bytes, which is looked at.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Row, alternate, seconds

WORK = "tokenization"
CORES = 2
MEGABYTE = 10**6


def run() -> list[Row]:
    """Rows of 50 MB and 500 MB, and what memory the shard jobs took for each."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tokenization-") as name:
        folder = Path(name)
        _python("benchmarks.tokenization_arms", "prepare", folder)
        for size, repeats in ((50, 3), (500, 1)):
            rows += _case(folder, size, repeats)
    return rows


def _case(folder: Path, size: int, repeats: int) -> list[Row]:
    """All arms in turn on `size` megabytes; the slow ones on the small text only."""
    case, text = f"{size} MB", folder / "text.parquet"
    _python("benchmarks.tokenization_arms", "text", folder, size * MEGABYTE)
    model, peaks = folder / "tokenizer.model", []
    ours, theirs = folder / "ours", folder / "theirs"

    def shards(module: str, *command: str) -> None:
        peaks.append(_shards([module, *command], text, model, ours))

    def mapped(kind: str) -> None:
        shutil.rmtree(theirs, ignore_errors=True)  # with its caches: nothing is reused
        _python("benchmarks.tokenization_arms", kind, text, model, theirs)
        _same(ours, theirs)

    def shallower() -> None:
        shards("shallower")

    arms = {"shallower": shallower, "datasets.map": lambda: mapped("map")}
    if size <= 50:
        arms["plain"] = lambda: shards("benchmarks.tokenization_arms", "plain")
        arms["datasets.map, threads"] = lambda: mapped("threads")
    shallower()  # so that there is something to compare with
    rate = {name: lambda arm=arm: size / seconds(arm) for name, arm in arms.items()}
    rows = alternate(WORK, case, rate, repeats, "MB/s", warmups=0)
    peaks.clear()

    def peak() -> float:
        shallower()
        return peaks[-1]

    return rows + alternate(WORK, f"{case} memory", {"shallower": peak}, 1, "MB", 0)


def _shards(command: list[str], text: Path, model: Path, output: Path) -> float:
    """Run the shard stage's jobs side by side; return the larger one's peak in MB."""
    shutil.rmtree(output, ignore_errors=True)
    options = ["shard", "--text", text, "--tokenizer", model, "--parts", CORES]
    jobs = [
        _start(*command, *options, "--part", part, "--output", output / f"{part}.bin")
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
