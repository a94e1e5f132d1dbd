"""A study of all four systems with results made by hand, as files.

Every model has a cross-entropy and two times that follow from its name by a few plain
rules and a little noise; `shallower front` makes the tables of the front of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from project import ROOT
from shallower.analysis.front import write_front
from shallower.config import Study, load_study
from shallower.files import write_json
from shallower.models.choices import parse_elimination, parse_skip
from shallower.models.retention import linear_profile, tune
from shallower.names import ModelName
from shallower.reporting.results import Results
from shallower.systems import ffn_of, head_of

AXES = {"per_token": "time_per_output_token", "first_token": "time_to_first_token"}
SEEDS, SESSIONS = (0, 1, 2), (0, 1, 2)  # the default study's
LENGTHS = {"study": (32, 128, 512), "paper": (128, 512)}
PAPER = ["eliminate=linear.1.5", "eliminate=linear.2", "eliminate=linear.2.9"]
PAPER_SKIPS = ["skip=attention.latter.2", "skip=attention.latter.4"]


def four_systems(configuration: dict) -> Study:
    """The default study with some arms more, so that there are about fifty models."""
    parts = configuration["experiments"]
    three = {"depths": [8], "seeds": list(SEEDS)}
    more = ["attention.latter.3", "attention.latter.6", "attention.early.4"]
    more += ["attention.random1.2", "block.latter.3"]
    skip = [
        *parts["skip"],
        {"variants": ["baseline"], **three, "options": {"skip": more}},
    ]
    students = {"teacher": ["baseline-8"], "skip": ["attention.latter.1"]}
    combined = [*parts["combined"], {"variants": ["proposed"], **three, "depths": [6]}]
    combined[-1]["options"] = students | {"eliminate": ["acc.2"]}
    changed = parts | {"skip": skip, "combined": combined}
    return load_study(configuration | {"experiments": changed})


def bare(configuration: dict) -> Study:
    """The default study without the third and fourth system and what combines."""
    empty = {"skip": [], "elimination": [], "combined": []}
    return load_study(
        configuration | {"experiments": configuration["experiments"] | empty}
    )


def truth(name: ModelName) -> tuple[float, float, float]:
    """Cross-entropy (nats), time per token and to the first token (us)."""
    options, depth = name.options, name.depth
    nats, token, first = 5.6 + 0.9 / depth, 90 + 42.0 * depth, 900 + 2500.0 * depth
    if head_of(name) != "baseline":
        nats -= 0.05 if head_of(name) == "proposed" else 0.02
        token *= 1.03
    if ffn_of(name) != "own":
        less = {"none": 0.35, "one_matrix": 0.2}.get(ffn_of(name), 0.12)
        nats += less + 0.02 * (options.get("ratio") == 1.2)
        token, first = 0.72 * token, 0.6 * first
    if "teacher" in options:
        nats -= 0.03
    if "tuned" in options:
        nats -= 0.015
    if "skip" in options:
        choice = parse_skip(str(options["skip"]))
        each = {"attention": (0.02, 0.03, 0.035), "ffn": (0.05, 0.06, 0.06)}
        cost, fast, faster = each.get(choice.part, (0.09, 0.1, 0.1))
        worse = {"early": 2.5, "greedy": 0.6}.get(choice.rule, 1.0)
        kept = 0.4 if "healed" in options else 1.0
        nats += cost * worse * kept * choice.k**1.4
        token, first = token * (1 - fast * choice.k), first * (1 - faster * choice.k)
    if "eliminate" in options:
        arm = parse_elimination(str(options["eliminate"]))
        bad = {"acc": 0.04, "random": 0.2, "recent": 0.09}.get(arm.rule, 0.06)
        kept = 0.5 if "tuned" in options else 1.0
        nats += bad * kept * (arm.speedup - 1) ** 1.3
        token, first = 0.99 * token, 450 + (first - 450) / arm.speedup**0.93
    return nats, token, first


def write(study: Study, folder: Path, seed: int = 0) -> Path:
    """The files that the front is made of, and its tables, of any experiments."""
    random = np.random.default_rng(seed)
    names = {m: (study.models | study.arms)[m] for m in study.front}
    rows = quality_rows(study, names, random) + time_rows(names, random)
    rows += prompt_rows(study, random)
    units = pd.DataFrame(rows).assign(mode="eager")
    folder.mkdir(parents=True, exist_ok=True)
    units.to_csv(folder / "by_seed.csv", index=False)
    sizes(study).to_csv(folder / "parameters.csv", index=False)
    claim_table(study).to_csv(folder / "claims.csv", index=False)
    for model, s in study.runs:
        steps = study.run(model, s).get("training", {}).get("steps", 1)
        facts = {"flops": 1e9 * study.models[model].depth * steps}
        write_json(folder / "runs" / model / f"seed{s}" / "training.json", facts)
    for model, s in study.arm_runs:
        facts = arm_facts(study, model, s, random)
        write_json(folder / "evaluations" / model / f"seed{s}.arms.json", facts)
    write_front(folder, study)
    return folder


def sizes(study: Study) -> pd.DataFrame:
    """Rows of parameters.csv."""
    rows = []
    for model, name in (study.models | study.arms).items():
        count = 600_000 + 200_000 * name.depth
        row = {"model": model, "scale": "study", "parameters_trained": count}
        rows.append(row | {"parameters_deployed": count})
    return pd.DataFrame(rows)


def arm_facts(study: Study, model: str, seed: int, random: Any) -> dict[str, Any]:
    """What `arms.json` of a run says: attention matters less the later it is."""
    depth = study.models[model].depth
    share = np.arange(depth) / max(1, depth - 1)
    acc = 0.8 - 0.5 * share + random.normal(0, 0.02, depth)
    profile = np.minimum.accumulate(acc / acc[0])
    importance = {
        "attention": 0.3 - 0.2 * share + 0.01 * seed,
        "ffn": 0.25 + 0.02 * np.sin(5 * share) + 0.01 * seed,
        "block": 0.45 - 0.1 * share + 0.01 * seed,
    }
    return {
        "model": model,
        "seed": seed,
        "importance": {k: list(v) for k, v in importance.items()},
        "contribution": list(acc),
        "profile": list(profile),
        "arms": {a: arm_entry(study, study.arms[a]) for a in study.arms_of[model]},
        "run_cache_bytes": 4_000_000,
    }


def arm_entry(study: Study, name: ModelName) -> dict[str, Any]:
    """Predicted speed-ups, cache and kept tokens of an arm."""
    decode, prefill, counts = 1.0, 1.0, None
    if "skip" in name.options:
        decode = prefill = 1 + 0.05 * parse_skip(str(name.options["skip"])).k
    if "eliminate" in name.options:
        choice = parse_elimination(str(name.options["eliminate"]))
        given = choice.elimination(linear_profile(name.depth), name.depth)
        model = study.run(str(name.run), 0)["model"]
        kept = tune(model, given, study.prompt_tokens, choice.speedup)
        counts = kept.counts(study.prompt_tokens)
        prefill *= choice.speedup
    return {
        "skip": {},
        "elimination": None,
        "counts": counts,
        "predicted_decode": decode,
        "predicted_prefill": prefill,
        "cache_bytes": 4_000_000 / prefill,
    }


def _row(model: str, unit: Any, dataset: str, metric: str, value: float) -> dict:
    nats = metric == "cross_entropy"
    return {
        "model": model,
        "scale": "study",
        "form": "trained",
        "dataset": dataset,
        "metric": metric,
        "unit": "nats" if nats else "us",
        "unit_id": unit,
        "value": value,
    }


def seeds_of(study: Study, model: str) -> list[int]:
    """That a run or an arm has."""
    run = [seed for arm, seed in study.arm_cells if arm == model]
    return run or study.seeds_of(model)


def quality_rows(
    study: Study, names: dict[str, ModelName], random: Any
) -> list[dict[str, Any]]:
    """Seeds have something in common, so that pairing by seed helps."""
    common = {seed: random.normal(0, 0.03) for _, seed in study.runs}
    return [
        _row(
            *(model, seed, "continuation", "cross_entropy"),
            truth(name)[0] + common[seed] + random.normal(0, 0.006),
        )
        for model, name in names.items()
        for seed in seeds_of(study, model)
    ]


def time_rows(names: dict[str, ModelName], random: Any) -> list[dict]:
    """A deployed form each, as the study times them."""
    rows = []
    for model, name in names.items():
        form = "trained" if head_of(name) == "baseline" else "folded"
        form = "collapsed" if ffn_of(name) not in ("own", "none") else form
        for session in SESSIONS:
            mood = 1 + 0.01 * session
            for metric, value in zip(AXES.values(), truth(name)[1:], strict=True):
                noisy = value * mood * random.normal(1, 0.006)
                rows.append(_row(model, session, "continuation", metric, noisy))
                rows[-1]["form"] = form
    return rows


def prompt_rows(study: Study, random: Any) -> list[dict]:
    """First tokens after prompts of several lengths, at both scales."""
    base = f"baseline-{study.depths[-1]}"
    arms = {
        "study": [m for m in study.arms if m.startswith(f"{base}__eliminate=")],
        "paper": [f"{base}__{rest}" for rest in PAPER] if study.arms else [],
    }
    rows = []
    for scale, lengths in LENGTHS.items():
        for n in lengths:
            for model in [base, *arms[scale]]:
                asked = model.rpartition("=")[2].partition(".")[2]
                fast = float(asked) if model in arms[scale] else 1.0
                for session in SESSIONS:
                    us = 400 + 30 * n / fast * random.normal(1, 0.02)
                    rows.append(
                        _row(model, session, f"prompt_{n}", AXES["first_token"], us)
                    )
                    rows[-1]["scale"] = scale
    for model, us in zip(
        [base, *(f"{base}__{s}" for s in PAPER_SKIPS)], (900, 850, 780), strict=True
    ):
        for session in SESSIONS if study.arms else []:
            value = us * random.normal(1, 0.01)
            rows.append(_row(model, session, "fixed", AXES["per_token"], value))
            rows[-1]["scale"] = "paper"
    return rows


def claim_table(study: Study) -> pd.DataFrame:
    """Rows of claims.csv; of a study without arms nothing is tested."""
    rows = [
        ("S3-1", "S3", "claim on skipping", "supported"),
        ("S3-2", "S3", "claim on skipping", "not supported"),
        ("S4-1", "S4", "claim on elimination", "not tested"),
        ("S4-2", "S4", "claim on elimination", "supported"),
    ]
    table = pd.DataFrame(rows, columns=["id", "source", "status", "verdict"])
    if not study.arms:
        table["verdict"] = "not tested"
    return table.assign(
        claim="a claim",
        effect=0.1,
        unit="nats",
        ci_low=0.0,
        ci_high=0.2,
        threshold=0.0,
        note="",
    )


# --- as fixtures ----------------------------------------------------------------------


def _results(
    study_of: Callable[[dict], Study], folders: pytest.TempPathFactory
) -> Results:
    configuration = yaml.safe_load((ROOT / "config.yaml").read_text())
    study = study_of(configuration)
    return Results(write(study, folders.mktemp("systems")), study)


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of all four systems."""
    return _results(four_systems, tmp_path_factory)


def merged(base: dict, more: dict) -> dict:
    """As Snakemake merges configuration files: mappings, but not lists."""
    both = {
        key: merged(base[key], value)
        if isinstance(base.get(key), dict) and isinstance(value, dict)
        else value
        for key, value in more.items()
    }
    return base | both


def overlaid(configuration: dict, name: str) -> Study:
    """The study of an overlay in config/."""
    text = (ROOT / "config" / f"{name}.yaml").read_text()
    return load_study(merged(configuration, yaml.safe_load(text)))


@pytest.fixture(scope="session")
def without_arms(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of a study without skipping, elimination and combinations."""
    return _results(bare, tmp_path_factory)
