"""`runs.json`: what every run of a study left, by checksum.

One rule looks at the files of every run; the others depend on this list of them. So
Snakemake follows a file of a run once, and not once for each table and figure.
"""

from __future__ import annotations

from pathlib import Path

from shallower.analysis.raw import Runs
from shallower.files import sha256, write_json

FILES = (
    *("runs/{}/seed{}/spec.yaml", "runs/{}/seed{}/losses.csv"),
    *("runs/{}/seed{}/diagnostics.csv", "runs/{}/seed{}/training.json"),
    *("evaluations/{}/seed{}.parquet", "evaluations/{}/seed{}.samples.jsonl"),
)


def write_inventory(results: Path, runs: Runs) -> None:
    """Write the SHA-256 of every run's small files, by path below `results`."""
    names = [name.format(model, seed) for model, seed in runs for name in FILES]
    write_json(results / "runs.json", {name: sha256(results / name) for name in names})
