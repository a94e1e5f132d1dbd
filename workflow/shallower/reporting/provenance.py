"""Where every number comes from, and whether it still does.

`write_provenance` notes what a study was made with. `verify` makes every summary,
table, figure and number again from the results that are there and compares the bytes;
it also asks whether the runs were trained by the code of this checkout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shallower.analysis.budgets import write_budgets
from shallower.analysis.claims import write_claims
from shallower.analysis.comparisons import write_comparisons
from shallower.analysis.front import write_front
from shallower.analysis.roofline import write_roofline
from shallower.analysis.search import write_search
from shallower.analysis.summary import raw_rows, write_summaries
from shallower.config import Study
from shallower.digest import code_digest, commit
from shallower.errors import UserError
from shallower.files import read_json, sha256, write_json
from shallower.reporting.figures import draw_all
from shallower.reporting.numbers import write_numbers
from shallower.reporting.results import Results
from shallower.reporting.tables import write_tables

MADE = (
    *("summary.csv", "by_seed.csv", "sessions.csv", "comparisons.csv"),
    *("claims.csv", "learning_rate.csv", "learning_rate_envelope.csv"),
    *("budget.csv", "budget_pairs.csv"),
    *("pareto.csv", "gains.csv", "dominance.csv", "additivity.csv"),
    *("hypervolume.csv", "methods.csv", "profiles.csv", "arms.csv"),
    *("roofline.csv", "roofline_pairs.csv"),
    *("summaries/*.csv", "tables/*.tex", "numbers.tex", "figures/*.pdf"),
)
GIVEN = (  # what these are made from
    *("parameters.csv", "latency.parquet", "step_time.parquet", "bandwidth.parquet"),
    *("corpus/manifest.json", "tokens/text/*/manifest.json"),
)
OF_A_RUN = (
    *("spec.yaml", "losses.csv", "diagnostics.csv", "training.json"),
    "model.safetensors",
)
PACKAGES = ("torch", "numpy", "pandas", "scipy", "matplotlib", "sacrebleu", "snakemake")


def write_provenance(directory: Path, settings: dict[str, Any]) -> None:
    """Write provenance.json: what a study was made with, and checksums."""
    results = Results(directory, Study.model_validate(settings))
    now = commit()
    write_json(
        directory / "provenance.json",
        {
            "study": results.study.study,
            "commit": now.removesuffix("-dirty"),
            "dirty": now.endswith("-dirty"),
            "device": results.distinct("device"),
            "versions": {name: version(name) for name in PACKAGES},
            "runs": {
                f"{facts['model']}/seed{facts['seed']}": {
                    key: facts[key] for key in ("commit", "code_digest", "versions")
                }
                for facts in results.facts
            },
            "configuration": settings,
            "sha256": {
                str(path.relative_to(directory)): sha256(path)
                for path in _files(directory, (*MADE, *given(results.study)))
            },
        },
    )


SCORED = (".parquet", ".samples.jsonl")  # of a run or an arm


def given(study: Study) -> list[str]:
    """Patterns of the files that a study's results are made from."""
    patterns = list(GIVEN)
    for model, seed in study.runs:
        patterns += [f"runs/{model}/seed{seed}/{name}" for name in OF_A_RUN]
        patterns += [f"evaluations/{model}/seed{seed}{end}" for end in SCORED]
    for model, seed in study.arm_cells:
        patterns += [f"evaluations/{model}/seed{seed}{end}" for end in SCORED]
    for model, seed in study.arm_runs:
        patterns.append(f"evaluations/{model}/seed{seed}.arms.json")
    return patterns


def verify(
    directory: Path, settings: dict[str, Any], sets: list[str], processes: int = 1
) -> list[str]:
    """What is wrong with a study's results: one line each, none if all is well."""
    results = Results(directory, Study.model_validate(settings))
    study = results.study
    if not (directory / "provenance.json").is_file():
        raise UserError(f"{directory}: nothing to verify here; run snakemake first")
    touched = changed_files(directory)
    problems = code_problems(results) + list(touched.values())
    if not all(_is_made(name) for name in touched):
        return problems  # what is made from touched results says nothing, if it can be
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        rows, sessions = raw_rows(directory, study.runs, study.arm_cells)
        write_summaries(fresh, rows, sessions, sets)
        wanted = study.summarised
        write_comparisons(fresh, rows, wanted["contrasts"], wanted["families"])
        write_front(directory, study, fresh)
        write_claims(directory, study, fresh)
        write_search(directory, study, fresh)
        write_budgets(directory, study, fresh)
        write_roofline(directory, study.sizes, fresh)
        wrong = differences(fresh, directory)
        if not wrong:  # the rest is made from the summaries
            draw_all(directory, settings, fresh, ["pdf"], processes)
            write_tables(directory, settings, fresh)
            write_numbers(directory, settings, fresh)
            wrong = differences(fresh, directory)
    return problems + wrong


def differences(fresh: Path, directory: Path) -> list[str]:
    """Files below `fresh` that are not the same, byte by byte, below `directory`."""
    problems = []
    for path in _files(fresh, MADE):
        ours = directory / path.relative_to(fresh)
        if not ours.is_file():
            problems.append(f"{ours}: missing")
        elif ours.read_bytes() != path.read_bytes():
            problems.append(f"{ours}: not what the current results give")
    return problems


def code_problems(results: Results) -> list[str]:
    """Runs that were trained by other code than the checkout's."""
    digest, problems = code_digest("training.loop"), []
    for facts in results.facts:
        if facts["code_digest"] != digest:
            run = results.directory / "runs" / facts["model"] / f"seed{facts['seed']}"
            problems.append(
                f"{run}: trained by code {facts['code_digest']} (commit "
                f"{facts['commit']}), but the checkout's is {digest}"
            )
    return problems


def changed_files(directory: Path) -> dict[str, str]:
    """Files that are not those of provenance.json, each with what is wrong."""
    problems = {}
    for name, due in read_json(directory / "provenance.json")["sha256"].items():
        path = directory / name
        if not path.is_file():
            problems[name] = f"{path}: missing"
        elif sha256(path) != due:
            problems[name] = f"{path}: checksum differs from provenance.json"
    return problems


def _is_made(name: str) -> bool:
    """Whether a file is made from results, so that `verify` can make it again."""
    return any(fnmatch(name, pattern) for pattern in MADE)


def _files(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in directory.glob(pattern))
