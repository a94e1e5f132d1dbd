"""The default study, from start to end: time, Snakemake's own part, memory.

`python -m benchmarks study` is `make paper`, watched; it takes half an hour and is no
part of `make bench`. Its results stay, as those of every study.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks import watch
from benchmarks.harness import Row

ROOT = Path(__file__).resolve().parents[1]


def run() -> list[Row]:
    """Rows in seconds, percent and GiB."""
    results = ROOT / "results" / "default"
    if results.exists():
        raise SystemExit(f"{results} is there: move it away to measure all of a study")
    found = watch.watch(("make", "paper"), ROOT, os.environ)
    return list(watch.rows("study", "default study", found))
