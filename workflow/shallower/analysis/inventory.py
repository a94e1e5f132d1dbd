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


SCORED = FILES[-2:]  # those of an arm
ARMS = ("evaluations/{}/seed{}.arms.json",)  # of a run that has arms


def write_inventory(results: Path, runs: Runs, arms: Runs, arm_runs: Runs) -> None:
    """Write the SHA-256 of every run's and arm's small files, by path in `results`."""
    names = [
        name.format(model, seed)
        for cells, kinds in ((runs, FILES), (arms, SCORED), (arm_runs, ARMS))
        for model, seed in cells
        for name in kinds
    ]
    write_json(results / "runs.json", {name: sha256(results / name) for name in names})
