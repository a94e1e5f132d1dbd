"""Raw results of a study as tidy rows: one row a sample, ready to be summarised.

Rows have `model, scale, form, mode, dataset, metric, unit, unit_id, seed, value,
weight`; `unit_id` is what is independent: the seed of a run for quality, the session
(a process) for times.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.evaluation import metrics
from shallower.models.choices import PROMPTS

UNITS = {
    "fold_error_float64": "logits",
    "collapse_error_float64": "logits",
    **metrics.UNITS,
    "cross_entropy": "nats",
    "training_loss": "nats",
    "generated_tokens": "tokens",
    "training_seconds": "s",
    "tokens_per_second": "tokens/s",
    "time_to_first_token": "us",
    "time_per_output_token": "us",
    "time_per_generated_token": "us",
    "generation_loop": "us",
    "step_time": "us",
}  # everything else is a ratio
TAIL = 0.1  # share of the logged losses, at the end, that make the final loss


BASELINES = "pairs.parquet"  # what rules answer to the test pairs
Runs = Sequence[tuple[str, int]]  # model and seed


def quality_rows(evaluations: Path, runs: Runs) -> pd.DataFrame:
    """Samples of every run's evaluation, and one perplexity per run."""
    frames = []
    for model, seed in runs:
        rows = pd.read_parquet(evaluations / model / f"seed{seed}.parquet")
        frames.append(rows.assign(model=model, seed=seed))
    baselines = evaluations / BASELINES
    if baselines.is_file():  # of a study with pairs
        frames.append(pd.read_parquet(baselines))
    table = pd.concat(frames, ignore_index=True)
    nats = table[table["metric"] == "cross_entropy"]
    perplexities = [
        {
            "model": model,
            "seed": seed,
            "dataset": dataset,
            "metric": "perplexity",
            "form": form,
            "value": np.exp(np.average(rows["value"], weights=rows["weight"])),
            "weight": 1.0,
        }
        for (model, seed, dataset, form), rows in nats.groupby(
            ["model", "seed", "dataset", "form"]
        )
    ]
    table = pd.concat([table, pd.DataFrame(perplexities)], ignore_index=True)
    return _label(table, scale="study", unit_id=table["seed"])


def training_rows(folder: Path, runs: Runs) -> pd.DataFrame:
    """Final training loss (mean of the last tenth of the log), time and speed."""
    rows = []
    for model, seed in runs:
        run = folder / model / f"seed{seed}"
        losses = pd.read_csv(run / "losses.csv")
        tail = losses["loss"].iloc[-max(1, round(TAIL * len(losses))) :]
        facts = json.loads((run / "training.json").read_text(encoding="utf-8"))
        values = {
            "training_loss": tail.mean(),
            "training_seconds": facts["seconds"],
            "tokens_per_second": facts["tokens"] / facts["seconds"],
        }
        rows += [
            {"model": model, "seed": seed, "metric": metric, "value": value}
            for metric, value in values.items()
        ]
    table = pd.DataFrame(rows)
    return _label(table, dataset="train", scale="study", unit_id=table["seed"])


def latency_rows(latency: pd.DataFrame) -> pd.DataFrame:
    """Four times per request, in microseconds, and the number of its tokens.

    `time_to_first_token`; `time_per_output_token`: mean over the tokens after the
    first; `generation_loop`: all tokens, prefill included, which is nearest to what
    the original averages; `time_per_generated_token`: that divided by the tokens,
    so that a model that stops earlier does not look faster. Of workloads that are the
    first token alone, the first.
    """
    keys = ["model", "seed", "form", "mode", "scale", "workload", "session", "repeat"]
    table = latency.assign(us=latency["nanoseconds"] / 1000)
    requests = table.groupby(keys)["us"].agg(["sum", "size"])
    first = table[table["token_index"] == 0].set_index(keys)["us"]
    wide = pd.DataFrame(
        {
            "time_to_first_token": first,
            "time_per_output_token": (requests["sum"] - first)
            / (requests["size"] - 1).replace(0, np.nan),
            "generation_loop": requests["sum"],
            "time_per_generated_token": requests["sum"] / requests["size"],
            "generated_tokens": requests["size"].astype(float),
        }
    )
    tidy = (
        wide.rename_axis(columns="metric")
        .stack()
        .rename("value")
        .dropna()
        .reset_index()
    )
    tidy = tidy.rename(columns={"workload": "dataset", "session": "unit_id"})
    # The evaluation already has the length of the texts it scored.
    repeated = (tidy["metric"] == "generated_tokens") & (tidy["dataset"] != "fixed")
    # Of a single token all times are the same.
    single = tidy["dataset"].str.startswith(PROMPTS)
    repeated |= single & (tidy["metric"] != "time_to_first_token")
    return _label(tidy[~repeated])


def step_rows(step_time: pd.DataFrame) -> pd.DataFrame:
    """Time of each training step, in microseconds."""
    table = step_time.assign(
        value=step_time["nanoseconds"] / 1000, unit_id=step_time["session"], seed=0
    )
    return _label(table, dataset="step", metric="step_time", scale="study")


def _label(table: pd.DataFrame, **constants: object) -> pd.DataFrame:
    """Fill in the columns that are the same for all rows of a kind."""
    table = table.assign(**constants)
    for column, value in {"form": "trained", "mode": "eager", "weight": 1.0}.items():
        if column not in table:
            table[column] = value
    table["unit"] = table["metric"].map(UNITS).fillna("ratio")
    return table
