"""A study of all four systems with results made by hand, as files.

Every model has a cross-entropy and two times that follow from its name by a few plain
rules and a little noise; the tables of the front are made of them in the simplest way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shallower.config import Study, load_study
from shallower.models.choices import parse_elimination, parse_skip
from shallower.names import ModelName
from shallower.systems import ffn_of, head_of

AXES = {"per_token": "time_per_output_token", "first_token": "time_to_first_token"}
SEEDS, SESSIONS = (0, 1, 2), (0, 1, 2)
LENGTHS = {"study": (32, 128, 512), "paper": (128, 512)}
PAPER = ["eliminate=linear.1.5", "eliminate=linear.2", "eliminate=linear.2.9"]
PAPER_SKIPS = ["skip=attention.latter.2", "skip=attention.latter.4"]


def four_systems(configuration: dict) -> Study:
    """The default study with some arms more, so that there are about fifty models."""
    parts = configuration["experiments"]
    three = {"depths": [8], "seeds": list(SEEDS)}
    more = ["attention.latter.3", "attention.latter.6", "attention.early.4"]
    more += ["attention.random1.2", "block.latter.3"]
    skip = [*parts["skip"], {"variants": ["baseline"], **three, "options": {"skip": more}}]
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


def system(name: ModelName) -> str:
    """Of which a model takes something; plain depth is the first one's."""
    keys = set(name.options)
    there = {
        "S1": head_of(name) != "baseline",
        "S2": ffn_of(name) != "own" or bool(keys & {"teacher", "heads", "head_size"}),
        "S3": bool(keys & {"skip", "healed"}),
        "S4": bool(keys & {"tuned", "eliminate"}),
    }
    found = [key for key, value in there.items() if value] or ["S1"]
    return found[0] if len(found) == 1 else "combined"


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
    """by_seed.csv and the tables of the front, of a study of any experiments."""
    random = np.random.default_rng(seed)
    names = {m: (study.models | study.arms)[m] for m in study.front}
    rows = quality_rows(names, random) + time_rows(names, random)
    rows += prompt_rows(study, random)
    units = pd.DataFrame(rows).assign(mode="eager")
    units.to_csv(folder / "by_seed.csv", index=False)
    pareto = pareto_table(units, names, random)
    tables = {
        "pareto": pareto,
        "gains": gain_table(pareto, names),
        "dominance": pd.DataFrame(columns=["axis", "model", "over", "verdict"]),
        "additivity": additivity_table(study, units),
        "hypervolume": hypervolume_table(names),
        "methods": method_table(pareto, names),
        "profiles": profile_table(study, random),
        "arms": arm_table(study),
        "claims": claim_table(),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


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


def quality_rows(names: dict[str, ModelName], random: Any) -> list[dict]:
    """Seeds have something in common, so that pairing by seed helps."""
    common = {s: random.normal(0, 0.03) for s in SEEDS}
    return [
        _row(
            model,
            s,
            "continuation",
            "cross_entropy",
            truth(name)[0] + common[s] + random.normal(0, 0.006),
        )
        for model, name in names.items()
        for s in SEEDS
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
                    rows.append(_row(model, session, f"prompt_{n}", AXES["first_token"], us))
                    rows[-1]["scale"] = scale
    for model, us in zip([base, *(f"{base}__{s}" for s in PAPER_SKIPS)], (900, 850, 780), strict=True):
        for session in SESSIONS if study.arms else []:
            value = us * random.normal(1, 0.01)
            rows.append(_row(model, session, "fixed", AXES["per_token"], value))
            rows[-1]["scale"] = "paper"
    return rows


def pareto_table(units: pd.DataFrame, names: dict[str, ModelName], random: Any) -> pd.DataFrame:
    rows = []
    for axis, metric in AXES.items():
        points = {}
        for model in names:
            mine = units[(units["model"] == model) & (units["dataset"] == "continuation")]
            q = mine[mine["metric"] == "cross_entropy"]["value"]
            t = mine[mine["metric"] == metric]["value"]
            points[model] = (q, t)
        for model, (q, t) in points.items():
            better = [
                m for m, (a, b) in points.items()
                if m != model and a.mean() <= q.mean() and b.mean() <= t.mean()
            ]
            half = 2.48 * q.std(), 2.48 * t.std()
            rows.append({
                "model": model, "system": system(names[model]), "axis": axis, "scale": "study",
                "quality": q.mean(), "quality_ci_low": q.mean() - half[0],
                "quality_ci_high": q.mean() + half[0], "latency": t.mean(),
                "latency_ci_low": t.mean() - half[1], "latency_ci_high": t.mean() + half[1],
                "on_front_probability": random.uniform(0.5, 1) if not better else random.uniform(0, 0.3),
                "on_front_bootstrap": float(not better), "on_front": not better,
                "family": system(names[model]), "seeds": "0 1 2", "sessions": "0 1 2",
            })
    return pd.DataFrame(rows).sort_values(["axis", "latency"], ignore_index=True)


def gain_table(pareto: pd.DataFrame, names: dict[str, ModelName]) -> pd.DataFrame:
    columns = ["axis", "model", "null", "effect", "ci_low", "ci_high", "total_low", "total_high",
               "speedup", "speedup_low", "speedup_high", "values", "nulls", "verdict", "note"]
    rows = []
    for axis, part in pareto.groupby("axis"):
        null = part[[m.startswith("baseline") and "__" not in m for m in part["model"]]]
        for row in part.to_dict("records"):
            if row["model"] in set(null["model"]):
                continue
            due = np.interp(row["latency"], null["latency"], null["quality"], left=np.nan, right=np.nan)
            rows.append(_gain(axis, row["model"], "depth", row["quality"] - due))
            if "skip=attention" in row["model"]:
                rows.append(_gain(axis, row["model"], "block", row["quality"] - due - 0.05))
    for model, name in names.items():
        if "teacher" in name.options and len(name.options) == 1:
            rows.append(_gain("training", model, "flops", -0.02) | {"speedup": np.nan, "speedup_low": np.nan, "speedup_high": np.nan})
    return pd.DataFrame(rows, columns=columns)


def _gain(axis: str, model: str, null: str, effect: float) -> dict[str, Any]:
    """With an interval of .03 nats, and a speed-up in proportion."""
    low, high = effect - 0.03, effect + 0.03
    verdict = "supported" if high < 0 else "not supported" if low > 0 else "inconclusive"
    known = bool(np.isfinite(effect))
    return {
        "axis": axis, "model": model, "null": null, "effect": effect, "ci_low": low,
        "ci_high": high, "total_low": low - 0.002, "total_high": high + 0.002,
        "speedup": 1 - 2 * effect, "speedup_low": 1 - 2 * high,
        "speedup_high": np.inf if effect < -0.2 else 1 - 2 * low, "values": "", "nulls": "baseline-5 baseline-8",
        "verdict": verdict if known else "not tested",
        "note": "" if known else "at 12 us, outside the depths'",
    }


def additivity_table(study: Study, units: pd.DataFrame) -> pd.DataFrame:
    columns = ["both", "a", "b", "base", "seeds", "n", "effect", "ci_low", "ci_high", "verdict"]
    values = {"proposed-8__skip=attention.latter.2": -0.03, "proposed-8__eliminate=acc.2": 0.001,
              "proposed-8__ffn=three_matrices": 0.05,
              "baseline-8__skip=attention.latter.2__eliminate=acc.2": 0.004}
    parts = {"proposed-8__skip=attention.latter.2": ("proposed-8", "baseline-8__skip=attention.latter.2"),
             "proposed-8__eliminate=acc.2": ("proposed-8", "baseline-8__eliminate=acc.2"),
             "proposed-8__ffn=three_matrices": ("proposed-8", "three_matrices-8"),
             "baseline-8__skip=attention.latter.2__eliminate=acc.2":
                 ("baseline-8__skip=attention.latter.2", "baseline-8__eliminate=acc.2")}
    rows = [
        {"both": both, "a": a, "b": b, "base": "baseline-8", "seeds": "0 1 2", "n": 3,
         "effect": values[both], "ci_low": values[both] - 0.015, "ci_high": values[both] + 0.015,
         "verdict": "inconclusive"}
        for both, (a, b) in parts.items() if both in study.front
    ]
    return pd.DataFrame(rows, columns=columns)


def hypervolume_table(names: dict[str, ModelName]) -> pd.DataFrame:
    systems = pd.Series([system(name) for name in names.values()]).value_counts()
    rows = [
        {"axis": axis, "system": s, "models": n, "hypervolume": 10.0 * n, "share": 0.5 + n / 100}
        for axis in AXES for s, n in systems.items()
    ]
    return pd.DataFrame(rows)


def method_table(pareto: pd.DataFrame, names: dict[str, ModelName]) -> pd.DataFrame:
    wide = {axis: part.set_index("model") for axis, part in pareto.groupby("axis")}
    rows = []
    for model, name in names.items():
        token, first = wide["per_token"].loc[model], wide["first_token"].loc[model]
        row = {
            "model": model, "system": system(name), "changes": "what it changes, 10 % & more",
            "parameters": 1_000_000 + 200_000 * name.depth, "cache_bytes": 500_000 * name.depth,
            "training_flops": 1e12 * name.depth, "training_share": name.depth / 8,
            "quality": token["quality"], "quality_ci_low": token["quality_ci_low"],
            "quality_ci_high": token["quality_ci_high"],
        }
        for axis, point in (("per_token", token), ("first_token", first)):
            for end in ("", "_ci_low", "_ci_high"):
                row[axis + end] = point["latency" + end]
            row[f"on_front_{axis}"] = point["on_front_probability"]
        rows.append(row | {"verdict": "inconclusive"})
    return pd.DataFrame(rows)


def profile_table(study: Study, random: Any) -> pd.DataFrame:
    columns = ["model", "seed", "block", "metric", "value"]
    rows = []
    for model, s in study.arm_runs:
        depth = study.models[model].depth
        lowest = 1.0
        for block in range(depth):
            share = block / max(1, depth - 1)
            acc = 0.8 - 0.5 * share + random.normal(0, 0.02)
            lowest = min(lowest, acc / 0.8)
            values = {"importance_attention": 0.3 - 0.2 * share, "importance_ffn": 0.25,
                      "importance_block": 0.45 - 0.1 * share, "contribution": acc, "profile": lowest}
            rows += [(model, s, block, metric, v + 0.01 * s) for metric, v in values.items()]
    return pd.DataFrame(rows, columns=columns)


def arm_table(study: Study) -> pd.DataFrame:
    columns = ["model", "run", "seed", "predicted_decode", "predicted_prefill", "cache_bytes",
               "run_cache_bytes", "counts"]
    rows = []
    for arm, s in study.arm_cells:
        name = study.arms[arm]
        decode, prefill, counts = 1.0, 1.0, ""
        if "skip" in name.options:
            decode = prefill = 1 + 0.05 * parse_skip(str(name.options["skip"])).k
        if "eliminate" in name.options:
            prefill *= parse_elimination(str(name.options["eliminate"])).speedup
            ends = np.linspace(1, 2 / prefill - 1 + 0.02, name.depth)
            counts = " ".join(str(max(2, round(384 * e))) for e in ends)
        rows.append((arm, str(name.run), s, decode, prefill, 3_000_000 / prefill, 4_000_000, counts))
    return pd.DataFrame(rows, columns=columns)


def claim_table() -> pd.DataFrame:
    rows = [
        ("S3-1", "S3", "claim of the third", "supported"),
        ("S3-2", "S3", "claim of the third", "not supported"),
        ("S4-1", "S4", "claim of the fourth", "not tested"),
        ("S4-2", "S4", "claim of the fourth", "supported"),
    ]
    table = pd.DataFrame(rows, columns=["id", "source", "status", "verdict"])
    return table.assign(claim="a claim", effect=0.1, unit="nats", ci_low=0.0, ci_high=0.2, threshold=0.0, note="")
