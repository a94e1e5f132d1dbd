"""Where every number comes from, and whether it still does.

`verify` makes every summary, table, figure and number again from the results that are
there and compares the bytes; it also asks whether the runs were trained by the code of
this checkout. `write_provenance` does the same and then notes what a study was made
with: there is no provenance of what was not verified. What either finds wrong is made
again by the next start of Snakemake.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

from shallower.analysis.results import Results
from shallower.analysis.summaries import write_summaries
from shallower.analysis.write import write_analysis
from shallower.code import commit, run_code
from shallower.errors import UserError
from shallower.files import (
    changed,
    doubt,
    note,
    read_json,
    sha256,
    without_home,
    write_json,
)
from shallower.reporting.contents import ANALYSIS_TABLES
from shallower.reporting.figures import draw_all
from shallower.reporting.numbers.study import distinct
from shallower.reporting.tables import write_tables
from shallower.study.inputs import code_changes
from shallower.study.study import Study

SUMMARIES = ("summary.csv", "by_seed.csv", "sessions.csv", "summaries/*.csv")
ANALYSIS = (
    *("estimates.csv", "claims.csv", "pareto.csv"),
    *(f"{name}.csv" for name in ANALYSIS_TABLES),
)
MADE = (*SUMMARIES, *ANALYSIS, "tables/*.tex", "numbers.tex", "figures/*.pdf")
GIVEN = (  # what these are made from
    *("study.json", "parameters.csv", "predictions.csv", "floors.csv"),
    *("latency.parquet", "step_time.parquet", "bandwidth.parquet"),
    *("corpus/manifest.json", "tokens/text/*/manifest.json"),
)
OF_A_RUN = (
    *("spec.yaml", "losses.csv", "diagnostics.csv", "training.json"),
    "model.safetensors",
)
OF_A_CHECKPOINT = ("sha256", "precision", "device", "commit", "versions")
SCORED_FROM_FILE = (".spec.json", ".parquet", ".interventions.json")
SCORED = (".parquet", ".samples.jsonl")
PACKAGES = ("torch", "numpy", "pandas", "scipy", "matplotlib", "sacrebleu", "snakemake")


def write_provenance(directory: Path, processes: int = 1) -> None:
    """Write provenance.json: what a study was made with, and checksums.

    Raises UserError with all problems, if there are any.
    """
    results, now = Results.read(directory), commit()
    problems = _problems(directory, changed_since_made(directory), processes)
    if problems:
        problems = [*problems, "the same command makes again what is wrong"]
        raise UserError("\n".join(problems))
    write_json(
        directory / "provenance.json",
        {
            "study": results.study.study,
            "commit": now.removesuffix("-dirty"),
            "dirty": None if now == "unknown" else now.endswith("-dirty"),
            "device": distinct(results, "device"),
            "versions": {name: version(name) for name in PACKAGES},
            "runs": {
                f"{facts['model']}/seed{facts['seed']}": {
                    "commit": facts["commit"],
                    "versions": facts["versions"],
                    "code": facts["made_with"]["code"],
                }
                for facts in results.trainings
            },
            "checkpoints": {
                facts["model"]: {key: facts[key] for key in OF_A_CHECKPOINT}
                for facts in results.choices
                if facts["model"] in results.study.pretrained.chosen
            },
            "configuration": without_home(read_json(directory / "study.json")),
            "sha256": {
                str(path.relative_to(directory)): sha256(path)
                for path in _files(directory, (*MADE, *given(results.study)))
            },
        },
    )


def given(study: Study) -> list[str]:
    """Patterns of the files that a study's results are made from."""
    patterns = list(GIVEN)
    for model, seed in study.runs:
        patterns += [f"runs/{model}/seed{seed}/{name}" for name in OF_A_RUN]
        patterns += [f"evaluations/{model}/seed{seed}{end}" for end in SCORED]
    for model, seed in study.intervened_runs:
        patterns.append(f"evaluations/{model}/seed{seed}.interventions.json")
    for model, seed in study.scored:
        patterns += [f"evaluations/{model}/seed{seed}{end}" for end in SCORED_FROM_FILE]
    return patterns


def verify(directory: Path, processes: int = 1) -> list[str]:
    """What is wrong with a study's results: one line each, none if all is well."""
    if not (directory / "provenance.json").is_file():
        raise UserError(f"{directory}: nothing to verify here; run snakemake first")
    touched = changed_files(directory)
    problems = _problems(directory, touched, processes)
    if "study.json" not in touched:
        problems += checkpoint_problems(directory)
    return problems


def _problems(directory: Path, touched: dict[str, str], processes: int) -> list[str]:
    """What is wrong; `touched` are files that are known to be, by name."""
    problems = list(touched.values())
    for name in touched:
        doubt(directory / name)
    if "study.json" not in touched:
        problems = code_problems(Results.read(directory)) + problems
    if not all(_is_made(name) for name in touched):
        return problems  # what is made from touched results says nothing, if it can be
    with tempfile.TemporaryDirectory() as name:
        return problems + remade(directory, Path(name), processes)


def remade(directory: Path, fresh: Path, processes: int = 1) -> list[str]:
    """Make summaries, estimates, figures and tables again, in `fresh`; what differs."""
    write_summaries(directory, fresh)
    wrong = differences(fresh, directory)
    if not wrong:  # each step is made from the one before
        write_analysis(directory, fresh)
        wrong = differences(fresh, directory)
    if not wrong:
        draw_all(directory, processes, fresh, ["pdf"])
        write_tables(directory, fresh)
        wrong = differences(fresh, directory)
    return wrong


def differences(fresh: Path, directory: Path) -> list[str]:
    """Files below `fresh` that are not the same, byte by byte, below `directory`."""
    problems = []
    for path in _files(fresh, MADE):
        ours = directory / path.relative_to(fresh)
        if not ours.is_file():
            problems.append(f"{ours}: missing")
        elif ours.read_bytes() != path.read_bytes():
            note(ours, sha256(path))  # what it is to be: Snakemake makes it again
            doubt(ours)
            problems.append(f"{ours}: not what the current results give")
    return problems


def code_problems(results: Results) -> list[str]:
    """Runs that were trained by other code than the checkout's."""
    problems = []
    for facts in results.trainings:
        run, made = f"{facts['model']}/seed{facts['seed']}", facts["made_with"]["code"]
        spec = results.study.spec(facts["model"], facts["seed"])
        changes = list(code_changes(made, run_code("train", spec.model)[1]))
        if changes:
            problems.append(
                f"{results.directory / 'runs' / run}: trained at commit "
                f"{facts['commit']}; since then {', '.join(changes)}"
            )
    return problems


def changed_since_made(directory: Path) -> dict[str, str]:
    """Files that are not as they were made, each with what is wrong."""
    patterns = (*MADE, *given(Results.read(directory).study))
    problems = {}
    for path in _files(directory, patterns):
        problem = changed(path, float("inf"))
        if problem:
            problems[str(path.relative_to(directory))] = f"{path}: {problem}"
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


def checkpoint_problems(directory: Path) -> list[str]:
    """Checkpoints that are not the files that were scored."""
    study, problems = Results.read(directory).study, []
    scored = read_json(directory / "provenance.json")["checkpoints"]
    for name, facts in scored.items():
        path = study.pretrained.chosen[name].path(f"pretrained.models.{name}")
        for file, due in facts["sha256"].items():
            found = path / file if path.is_dir() else path
            if not found.is_file():
                problems.append(f"{found}: missing, {name} was scored with it")
            elif sha256(found) != due:
                problems.append(f"{found}: not the file that {name} was scored with")
    return problems


def _is_made(name: str) -> bool:
    """Whether a file is made from results, so that `verify` can make it again."""
    return any(fnmatch(name, pattern) for pattern in MADE)


def _files(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in directory.glob(pattern))
