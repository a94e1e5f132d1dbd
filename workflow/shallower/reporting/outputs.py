"""Which files a finished study has, under `results/<study>/`.

Snakemake makes a file again if an input is newer. It does not see that somebody edited
or deleted a result: these lists are compared with the checksums that were noted when
the files were made (`shallower.files`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shallower.corpus import EVALUATION_SETS
from shallower.files import RECORDS, changed
from shallower.reporting.contents import ANALYSIS_TABLES, FIGURES, TABLES
from shallower.study.study import Study

SPLITS = ("train", "validation", "test")
OF_A_RUN = ("losses.csv", "diagnostics.csv", "training.json", "model.safetensors")
SCORED = (".parquet", ".samples.jsonl", ".interventions.json")
MEASURED = ("latency.parquet", "step_time.parquet", "bandwidth.parquet")
COUNTED = ("parameters.csv", "predictions.csv", "floors.csv")
NOTEBOOKS = ("training", "comparison", "claim")


def raw_files(study: Study) -> Iterator[str]:
    """Data, weights, scores, times and sizes: what everything else is made from."""
    yield from (f"corpus/text/{split}.parquet" for split in (*SPLITS, "questions"))
    yield from (f"corpus/{name}/test.parquet" for name in EVALUATION_SETS)
    yield "corpus/manifest.json"
    if study.experiments.t5:
        yield from (f"corpus/pairs/{split}.parquet" for split in SPLITS)
        yield from ("corpus/pairs/manifest.json", "evaluations/pairs.parquet")
    yield "tokens/tokenizer.model"
    for split in SPLITS:
        for part in range(study.shards.parts if split == "train" else 1):
            shard = f"tokens/text/{split}/shard-{part}"
            yield from (f"{shard}.bin", f"{shard}.offsets.npy", f"{shard}.check.json")
        yield f"tokens/text/{split}/manifest.json"
    for model, seed in study.runs:
        yield from (f"runs/{model}/seed{seed}/{name}" for name in OF_A_RUN)
        yield from (f"evaluations/{model}/seed{seed}{end}" for end in SCORED)
    for checkpoint in study.pretrained.chosen:
        ends = (".parquet", ".interventions.json")
        yield from (f"evaluations/{checkpoint}/seed0{end}" for end in ends)
    yield from (*MEASURED, *COUNTED)


def made_files(study: Study) -> Iterator[str]:
    """Tables, figures, numbers and texts: what is made from raw results."""
    yield from ("summary.csv", "by_seed.csv", "sessions.csv", "runs.json")
    yield from ("estimates.csv", "claims.csv", "pareto.csv")
    yield from (f"{name}.csv" for name in ANALYSIS_TABLES)
    yield from (f"tables/{name}.tex" for name in TABLES)
    yield "numbers.tex"
    for name in FIGURES:
        yield from (f"figures/{name}.pdf", f"figures/{name}.svg")
    yield from ("paper.pdf", "provenance.json", "report.html")
    if study.models:
        for name in NOTEBOOKS:
            yield from (f"notebooks/{name}.ipynb", f"notebooks/{name}.html")


def damaged(study: Study, directory: Path) -> dict[str, str]:
    """Results that are not as they were made, each with what is wrong.

    A result that was never made is none of them. Files whose size and time are as they
    were are not read: `verify` reads all.
    """
    names = [*raw_files(study), *made_files(study)]
    names += [
        f"summaries/{path.stem}"
        for path in (directory / "summaries" / RECORDS).glob("*.csv.json")
    ]
    found = {str(directory / name): changed(directory / name, 0) for name in names}
    return {path: problem for path, problem in found.items() if problem}
