"""What a stage looks at before it computes: whether its input files are those made.

Snakemake's start compares sizes and times of all results. Here each stage compares
the content of what it is about to read, and whether the code is still that which the
study was started with.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from shallower import code, running
from shallower.errors import UserError
from shallower.files import changed, check, read_json, record_of

FILES = ("settings", "tokenizer", "text", "pairs", "code")  # options that name a file
STUDY = "study.json"
OF_SUMMARY = ("runs/", "evaluations/", "latency.", "step_time.")
SUMMARIES = ("summary.csv", "by_seed.csv", "sessions.csv", "runs.json")

Options = dict[str, Path]
Lists = dict[str, list[Path]]


def check_stage(arguments: Sequence[str]) -> None:
    """Raise UserError if a stage's input was changed since it was made.

    `arguments` are those of the command line, the command first. What belongs to no
    study is not looked at.
    """
    if not arguments or arguments[0] not in READS:
        return
    command, *rest = arguments
    lists: Lists = {}
    for name, value in pairwise(rest):
        if name.startswith("--"):
            lists.setdefault(name[2:], []).append(Path(value))
    one = {name: values[-1] for name, values in lists.items()}
    for directory in {study for path in one.values() if (study := _study(path))}:
        check([directory / STUDY])
        check_code(directory, command, one.get("code"))
    check([one[name] for name in FILES if name in one])
    try:
        files = list(READS[command](one, lists))
    except KeyError:  # the command itself says which option is missing
        return
    check(files)


def _study(path: Path) -> Path | None:
    """The folder of the study that a file belongs to."""
    path = path.absolute()
    folders = (path, *path.parents)
    return next((each for each in folders if (each / STUDY).is_file()), None)


def check_code(directory: Path, command: str, file: Path | None = None) -> None:
    """Raise UserError for a module that was edited while a study is being made.

    A job that starts now would run it, and be noted as made with the code of before.
    Only the code of the command's stage counts, for a run `file`, which has that of its
    own layers: figures may change while models train.
    """
    began = running.started(directory)
    if began is None:
        return
    stage = {"shard": "shards", "manifest": "shards"}.get(command, command)
    path = file or directory / "code" / f"{stage}.json"
    digests = read_json(path) if path.is_file() else {}
    for module, due in digests.items():
        path = code.module_path(module)
        if path.is_file() and path.stat().st_mtime_ns <= began:
            continue
        if not path.is_file() or code.digest(module) != due:
            raise UserError(
                f"{path}: edited while the study is made; when all other jobs have "
                "ended, the same command goes on with the new code"
            )


def _train(one: Options, _: Lists) -> Iterator[Path]:
    drop_damaged(one["checkpoints"])
    yield one["run"] / "spec.yaml"
    yield one["tokens"] / "manifest.json"
    for name in ("parent", "teacher"):
        if name in one:
            yield from _run(one[name])


def drop_damaged(checkpoints: Path) -> None:
    """Delete a run's checkpoints that are not as they were saved, with a warning.

    PyTorch does not compare the checksums that its files have: of 400 flipped bits it
    noticed 17. The run then continues from the checkpoint before, or from its start.
    """
    for path in sorted(checkpoints.glob("*/step-*.pt")):
        problem = changed(path)
        if problem:
            print(
                f"shallower train-run: {path}: {problem}; passed over, the run "
                "continues from the checkpoint before it",
                file=sys.stderr,
            )
            path.unlink(missing_ok=True)
            record_of(path).unlink(missing_ok=True)


def _run(folder: Path) -> Iterator[Path]:
    for name in ("spec.yaml", "training.json", "model.safetensors"):
        yield folder / name


def _corpus(one: Options) -> Iterator[Path]:
    yield from sorted(one["corpus"].glob("text/*.parquet"))
    yield from sorted(one["corpus"].glob("*/test.parquet"))


def _evaluate(one: Options, _: Lists) -> Iterator[Path]:
    yield from _run(one["run"])
    # Pairs are made by another rule, which a decoder does not wait for.
    yield from (p for p in _corpus(one) if p.parent.name != "pairs")


def _pretrained(one: Options, _: Lists) -> Iterator[Path]:
    yield from (p for p in _corpus(one) if p.parent.name != "pairs")


def _latency(one: Options, _: Lists) -> Iterator[Path]:
    for model in read_json(one["settings"])["models"]:
        for seed in model["seeds"]:
            yield one["runs"] / model["run"] / f"seed{seed}" / "model.safetensors"
            if model.get("intervention"):
                name = f"seed{seed}.interventions.json"
                yield one["evaluations"] / model["run"] / name


def _floors(one: Options, _: Lists) -> Iterator[Path]:
    yield from sorted(one["corpus"].glob("text/*.parquet"))
    yield from sorted(one["tokens"].glob("*/manifest.json"))


def _pairs(one: Options, _: Lists) -> Iterator[Path]:
    yield from sorted(one["corpus"].glob("text/*.parquet"))


def _manifest(_: Options, lists: Lists) -> Iterator[Path]:
    for shard in lists["shards"]:
        ends = (".bin", ".offsets.npy", ".check.json")
        yield from (shard.with_suffix(end) for end in ends)


def _summary(one: Options, _: Lists) -> Iterator[Path]:
    for name in _raw(one):
        if name.startswith(OF_SUMMARY):
            yield one["results"] / name


def _estimates(one: Options, _: Lists) -> Iterator[Path]:
    for name in (*_raw(one), *SUMMARIES):
        large = name.endswith((".safetensors", ".bin", ".npy"))
        text = name.startswith("corpus/") and not name.endswith(".json")
        if not large and not text:
            yield one["results"] / name


def _paper(one: Options, lists: Lists) -> Iterator[Path]:
    from shallower.reporting.contents import ANALYSIS_TABLES

    yield from _estimates(one, lists)
    for name in ("estimates", "claims", "pareto", *ANALYSIS_TABLES):
        yield one["results"] / f"{name}.csv"


def _raw(one: Options) -> Iterator[str]:
    from shallower.reporting.outputs import raw_files
    from shallower.study.study import read_study

    yield from raw_files(read_study(one["results"] / "study.json"))


def _nothing(_: Options, __: Lists) -> Iterator[Path]:
    yield from ()


READS = {
    "corpus": _nothing,
    "pairs": _pairs,
    "tokenizer": _nothing,
    "shard": _nothing,
    "manifest": _manifest,
    "train-run": _train,
    "evaluate": _evaluate,
    "pretrained": _pretrained,
    "floors": _floors,
    "latency": _latency,
    "parameters": _nothing,
    "summary": _summary,
    "estimates": _estimates,
    "figures": _paper,
    "tables": _paper,
}
