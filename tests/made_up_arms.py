"""A study of arms made by hand, in which what the sources say is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shallower.config import Study, load_study

NOISE = np.array([0.0, 0.004, -0.003, 0.002, -0.004])
SHARED = np.array([0.2, -0.3, 0.0, 0.1, 0.05])  # of seeds
MOOD = np.array([1.2, 1.0, 1.05, 0.9, 1.1])  # of sessions
SEEDS = list(range(len(NOISE)))
BASE, TUNED = "baseline-8", "baseline-8__tuned=0.1"
SKIP, DROP = f"{BASE}__skip=", f"{BASE}__eliminate="

# Nats above 5; what the sources say is true in this world.
QUALITY = {
    BASE: 0.0,
    f"{SKIP}attention.latter.1": -0.02,
    f"{SKIP}attention.latter.2": 0.03,
    f"{SKIP}attention.latter.4": 0.1,
    f"{SKIP}attention.latter_keep_last.2": 0.0,
    f"{SKIP}attention.early.1": 0.3,
    f"{SKIP}attention.early.2": 0.5,
    f"{SKIP}ffn.latter.1": 0.2,
    f"{SKIP}ffn.latter.2": 0.35,
    f"{SKIP}block.latter.1": 0.3,
    f"{SKIP}block.latter.2": 0.6,
    f"{DROP}acc.1.5": 0.02,
    f"{DROP}acc.2": 0.04,
    f"{DROP}random.2": 0.4,
    f"{DROP}recent.2": 0.2,
    TUNED: -0.002,
    f"{TUNED}__eliminate=acc.1.5": 0.0,
    f"{TUNED}__eliminate=acc.2": 0.004,
    f"{TUNED}__eliminate=acc.3": 0.03,
    f"{TUNED}__eliminate=random.2": 0.3,
}
# Us a token and until the first; what is not here is as the whole model.
PER_TOKEN = {
    f"{SKIP}{part}.latter.{k}": 400.0 - k * by
    for part, by in (("attention", 15), ("ffn", 30), ("block", 48))
    for k in (1, 2, 4)
}
PAPER = {BASE: 30_000.0, f"{SKIP}attention.latter.2": 28_300.0}  # 1.060 of 1.067
PAPER |= {f"{SKIP}attention.latter.4": 25_800.0}  # 1.163 of 1.143
PREFILL = {BASE: 900_000.0, f"{DROP}linear.2": 470_000.0}  # 1.915 of 2.0
CONTRIBUTION = [0.9, 0.8, 0.82, 0.7, 0.6, 0.5, 0.45, 0.3]


def configured(configuration: dict) -> Study:
    skips = [m.partition("skip=")[2] for m in QUALITY if "skip" in m]
    drops = [m.partition("eliminate=")[2] for m in QUALITY if m.startswith(DROP)]
    tuned = [m.rpartition("=")[2] for m in QUALITY if m.startswith(f"{TUNED}__")]
    nothing = ("head", "learning_rate", "budget", "ffn", "distillation", "t5")
    configuration["experiments"] |= {name: [] for name in (*nothing, "combined")}
    depth = grid(variants=["baseline", "proposed"])
    depth["depths"] = [5, 8]
    configuration["experiments"] |= {
        "depth": [depth],
        "skip": [grid(skip=skips)],
        "elimination": [grid(eliminate=drops), grid(tuned=[0.1], eliminate=tuned)],
    }
    configuration["contrasts"] = []
    return load_study(configuration)


def facts_of(study: Study, run: str, seed: int) -> dict[str, Any]:
    """As `seed<k>.arms.json` has them: what is asked for is given."""
    arms = {
        arm: {
            "predicted_decode": 1.0,
            "predicted_prefill": float(arm.rpartition("=")[2].partition(".")[2]),
            "cache_bytes": 1,
            "counts": None,
        }
        for arm in study.arms_of[run]
        if "eliminate" in arm
    }
    moved = [*CONTRIBUTION[1:], CONTRIBUTION[0]] if run != BASE else CONTRIBUTION
    return {
        "model": run,
        "seed": seed,
        "contribution": moved,
        "run_cache_bytes": 1,
        "arms": arms,
    }


def grid(variants: list[str] | None = None, **options: Any) -> dict[str, Any]:
    chosen = variants or ["baseline"]
    return {"variants": chosen, "depths": [8], "seeds": SEEDS, "options": options}


def rows_of(
    model: str, dataset: str, metric: str, values: np.ndarray, scale: str = "study"
) -> list[dict[str, Any]]:
    common = {"model": model, "scale": scale, "form": "trained", "mode": "eager"}
    common |= {"dataset": dataset, "metric": metric}
    return [common | {"unit_id": i, "value": v} for i, v in enumerate(values)]


def world() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for index, (model, nats) in enumerate(QUALITY.items()):
        noise = np.roll(NOISE, index)
        scored = 5 + nats + SHARED + noise
        rows += rows_of(model, "continuation", "cross_entropy", scored)
        moved = MOOD * (1 + noise)
        speedup = float(model.rpartition("acc.")[2]) if "acc" in model else 1.0
        times = {
            "time_per_output_token": PER_TOKEN.get(model, 400.0) * moved,
            "time_to_first_token": 4000 / speedup * 0.94 * moved,
        }
        for metric, values in times.items():
            rows += rows_of(model, "continuation", metric, values)
    first = "time_to_first_token"
    for index, (model, us) in enumerate(PAPER.items()):
        times = us * MOOD * (1 + np.roll(NOISE, index))
        rows += rows_of(model, "fixed", "time_per_output_token", times, "paper")
    for index, (model, us) in enumerate(PREFILL.items()):
        times = us * MOOD * (1 + np.roll(NOISE, index))
        rows += rows_of(model, "prompt_512", first, times, "paper")
        rows += rows_of(model, "prompt_64", first, np.full(5, 1.0), "paper")
    rows += rows_of(BASE, "prompt_512", first, 4000 * MOOD)
    rows += rows_of(f"{DROP}acc.2", "prompt_512", first, 2500 * MOOD)
    return pd.DataFrame(rows)
