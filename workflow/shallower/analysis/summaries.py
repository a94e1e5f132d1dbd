"""Summaries of raw results: one row per model and metric, one value per replicate.

Raw rows are tidy, a row a sample: `model, intervention, scale, form, mode, dataset,
metric, unit_id, seed, value, weight`. `unit_id` is what is independent: the seed of a
run for quality, the session (a process) for times.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis.results import names_of
from shallower.analysis.statistics import describe, t_interval
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.units import TIME, unit_of
from shallower.files import read_json, sha256, write_json, write_text
from shallower.study.names import PAIR_BASELINES, ModelName, joined, untwinned
from shallower.study.study import Run, Study, read_study

KEYS = ["model", "intervention", "scale", "form", "mode", "dataset", "metric", "unit"]
COLUMNS = [
    *("model", "intervention", "system", "scale", "form", "mode", "depth", "variant"),
    *("dataset", "metric", "unit", "n_seeds", "n", "mean", "median", "p5", "p95"),
    *("std", "ci_low", "ci_high"),
    "std_units",  # of the means of seeds (of sessions for times)
]
SESSION_COLUMNS = [
    *("session", "scale", "ratio", "ci_low", "ci_high", "background_load", "throttled"),
    "disturbed",
]
FILES = (  # of every run, whose checksums are listed in runs.json
    *("runs/{}/seed{}/spec.yaml", "runs/{}/seed{}/losses.csv"),
    *("runs/{}/seed{}/diagnostics.csv", "runs/{}/seed{}/training.json"),
    *("evaluations/{}/seed{}.parquet", "evaluations/{}/seed{}.samples.jsonl"),
    "evaluations/{}/seed{}.interventions.json",
)
CHECKPOINT_FILES = (
    *("evaluations/{}/seed{}.parquet", "evaluations/{}/seed{}.interventions.json"),
)
TAIL = 0.1  # share of the logged losses, at the end, that make the final loss
PROMPT = "prompt_"  # of workloads that are a first token alone
SETS = (  # data sets and workloads with a file of their own
    *("train", "text", "continuation", "validation", "spans", "pairs"),
    *EVALUATION_SETS,
    *("fixed", "decode", "step"),
)
# Within which the A/A ratio must lie: no claim is about an effect smaller than 10 %.
AA_BAND = 1.10
AA_LEVEL = 0.90  # of its interval: two one-sided tests at .05
BUSY = 0.25  # cores kept busy by others, on average over a session
# Share of a CPU quota's periods in which it stopped a session. A request of a second
# lasts for ten of them: at this share one request in ten is longer than it would be.
STOPPED = 0.01
FEWEST = 3  # of two sessions an interval has one degree of freedom: 12.7 errors wide


def write_summaries(directory: Path, output: Path | None = None) -> None:
    """Write summary.csv, summaries/, by_seed.csv, sessions.csv and runs.json.

    `directory` is a study's folder with study.json and the files of all runs; they are
    written there, or to `output`. Times of disturbed sessions are left out. Raises
    KeyError for a metric without a unit.
    """
    output = output or directory
    study = read_study(directory / "study.json")
    latency = pd.read_parquet(directory / "latency.parquet")
    steps = pd.read_parquet(directory / "step_time.parquet")
    sessions = judged_sessions(latency)
    chosen = used_sessions(sessions)
    compared = [run for run in study.runs if run[1] in study.seeds_of(run[0])]
    parts = [
        training_rows(directory / "runs", compared),
        quality_rows(directory / "evaluations", study.runs),
        checkpoint_rows(directory / "evaluations", study.scored),
        latency_rows(latency[latency["session"].isin(chosen)]),
        step_rows(steps[steps["session"].isin(chosen)]),
    ]
    rows = pd.concat(parts, ignore_index=True)
    table = summarised(rows, study)
    for name in SETS:
        _write(table[table["dataset"] == name], output / "summaries" / f"{name}.csv")
    _write(table, output / "summary.csv")
    _write(by_replicate(rows), output / "by_seed.csv")
    _write(sessions, output / "sessions.csv")
    listed = checksums(directory, study.runs, FILES)
    listed |= checksums(directory, study.scored, CHECKPOINT_FILES)
    write_json(output / "runs.json", listed)


# --- raw rows -------------------------------------------------------------------------


def quality_rows(evaluations: Path, runs: Iterable[Run]) -> pd.DataFrame:
    """Samples of every run and of interventions on it, and one perplexity for each."""
    parts = [
        pd.read_parquet(evaluations / model / f"seed{seed}.parquet").assign(
            model=model, seed=seed
        )
        for model, seed in runs
    ]
    baselines = evaluations / "pairs.parquet"  # rules that answer the test pairs
    if baselines.is_file():
        parts.append(pd.read_parquet(baselines))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    keys = ["model", "intervention", "seed", "dataset", "form"]
    nats = table[table["metric"] == "cross_entropy"]
    total = (nats["value"] * nats["weight"]).groupby([nats[key] for key in keys]).sum()
    weights = nats.groupby(keys)["weight"].sum()
    perplexity = np.exp(total / weights).rename("value").reset_index()
    perplexity = perplexity.assign(metric="perplexity", weight=1.0)
    table = pd.concat([table, perplexity], ignore_index=True)
    return _complete(table, scale="study", unit_id=table["seed"])


def checkpoint_rows(evaluations: Path, checkpoints: Iterable[Run]) -> pd.DataFrame:
    """Samples of every pretrained checkpoint; what is independent is a document."""
    parts = [
        pd.read_parquet(evaluations / model / f"seed{seed}.parquet").assign(
            model=model, seed=seed
        )
        for model, seed in checkpoints
    ]
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    return _complete(table, scale="pretrained", unit_id=table["sample"])


def training_rows(folder: Path, runs: Iterable[Run]) -> pd.DataFrame:
    """Final training loss (mean of the last tenth of the log), time and speed."""
    rows = []
    for model, seed in runs:
        losses = pd.read_csv(folder / model / f"seed{seed}" / "losses.csv")
        tail = losses["loss"].iloc[-max(1, round(TAIL * len(losses))) :]
        facts = read_json(folder / model / f"seed{seed}" / "training.json")
        values = {
            "training_loss": tail.mean(),
            "training_seconds": facts["seconds"],
            "tokens_per_second": facts["tokens"] / facts["seconds"],
        }
        rows += [(model, seed, metric, value) for metric, value in values.items()]
    table = pd.DataFrame(rows, columns=["model", "seed", "metric", "value"])
    return _complete(table, dataset="train", scale="study", unit_id=table["seed"])


def latency_rows(latency: pd.DataFrame) -> pd.DataFrame:
    """Four times per request, in microseconds, and the number of its tokens.

    `time_to_first_token`; `time_per_output_token`: mean over the tokens after the
    first; `generation_loop`: all tokens, prefill included, which is nearest to what
    the original averages; `time_per_generated_token`: that divided by the tokens,
    so that a model that stops earlier does not look faster. Of workloads that are the
    first token alone, the first.
    """
    keys = ["model", "intervention", "seed", "form", "mode", "scale", "workload"]
    keys += ["session", "repeat"]
    table = latency.assign(us=latency["nanoseconds"] / 1000)
    requests = table.groupby(keys)["us"].agg(["sum", "size"])
    first = table[table["token_index"] == 0].set_index(keys)["us"]
    later = (requests["size"] - 1).replace(0, np.nan)
    wide = pd.DataFrame(
        {
            "time_to_first_token": first,
            "time_per_output_token": (requests["sum"] - first) / later,
            "generation_loop": requests["sum"],
            "time_per_generated_token": requests["sum"] / requests["size"],
            "generated_tokens": requests["size"].astype(float),
        }
    )
    tidy = wide.rename_axis(columns="metric").stack().rename("value").dropna()
    tidy = tidy.reset_index().rename(
        columns={"workload": "dataset", "session": "unit_id"}
    )
    # The evaluation already has the length of the texts it scored.
    repeated = (tidy["metric"] == "generated_tokens") & (tidy["dataset"] != "fixed")
    # Of a single token all times are the same.
    single = tidy["dataset"].str.startswith(PROMPT)
    repeated |= single & (tidy["metric"] != "time_to_first_token")
    return _complete(tidy[~repeated])


def step_rows(step_time: pd.DataFrame) -> pd.DataFrame:
    """Time of each training step, in microseconds."""
    table = step_time.assign(
        value=step_time["nanoseconds"] / 1000, unit_id=step_time["session"], seed=0
    )
    return _complete(table, dataset="step", metric="step_time", scale="study")


def _complete(table: pd.DataFrame, **constants: object) -> pd.DataFrame:
    """With the columns that are the same for all rows of a kind, and the units."""
    table = table.assign(**constants)
    usual = {"intervention": "", "form": "trained", "mode": "eager", "weight": 1.0}
    for column, value in usual.items():
        if column not in table:
            table[column] = value
    return table.assign(unit=table["metric"].map(unit_of))


# --- summaries ------------------------------------------------------------------------


def summarised(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per model, form, mode, data set and metric, over seeds and samples."""
    summary = []
    for key, group in rows.groupby(KEYS, sort=False):
        values = group["value"].to_numpy(float)
        weights = group["weight"].to_numpy(float)
        row = dict(zip(KEYS, key, strict=True))
        row |= describe(values, weights, group["unit_id"].to_numpy())
        summary.append(row | {"n_seeds": group["seed"].nunique()})
    table = pd.DataFrame(summary)
    known = names_of(study) | {rule: ModelName(rule, 0) for rule in PAIR_BASELINES}
    labels = map(joined, table["model"], table["intervention"])
    names = [known[label] for label in labels]
    rules = [name.variant in PAIR_BASELINES for name in names]
    table = table.assign(
        system=[
            "S2" if rule else n.system for rule, n in zip(rules, names, strict=True)
        ],
        variant=[name.variant for name in names],
        depth=[name.depth for name in names],
    )
    return table[COLUMNS]


def by_replicate(rows: pd.DataFrame) -> pd.DataFrame:
    """One value per model, metric and independent unit: every seed is listed.

    `unit_id` is the seed, and the value a weighted mean; for times `unit_id` is the
    session (a process) and the value a median, since a machine that stops for a moment
    to do something else adds to one request what belongs to none.
    """
    keys = [*KEYS, "unit_id"]
    weighted = rows["value"] * rows["weight"]
    total = weighted.groupby([rows[key] for key in keys], sort=False).sum()
    grouped = rows.groupby(keys, sort=False)
    mean, median = total / grouped["weight"].sum(), grouped["value"].median()
    is_time = mean.index.get_level_values("unit") == TIME
    return mean.mask(is_time, median).rename("value").reset_index()


def _write(table: pd.DataFrame, path: Path) -> None:
    # Ten significant digits: more would differ between machines for no one's benefit.
    write_text(path, table.to_csv(index=False, float_format="%.10g"))


# --- latency sessions -----------------------------------------------------------------


def judged_sessions(latency: pd.DataFrame) -> pd.DataFrame:
    """One row per session and scale: A/A ratio with interval, load, verdict.

    A session (one process) times the deepest baseline under two names. It is disturbed
    unless the interval of that ratio lies within `AA_BAND`, so that noise does not pass
    for equality, or if others kept more than `BUSY` cores busy meanwhile, or if a quota
    stopped it in more than `STOPPED` of its periods. A repeat's time is that of its
    median token.
    """
    fixed = latency[(latency["workload"] == "fixed") & (latency["mode"] == "eager")]
    fixed = fixed[(fixed["form"] == "trained") & (fixed["token_index"] > 0)]
    fixed = fixed[fixed["intervention"] == ""]
    keys = ["session", "scale", "model", "repeat"]
    times = fixed.groupby(keys)["nanoseconds"].median().unstack("model")
    rows = []
    for (session, scale), group in times.groupby(["session", "scale"]):
        ratio = aa_log_ratios(group)
        low, high = np.exp(t_interval(ratio, AA_LEVEL))
        mean = float(np.exp(ratio.mean()))
        own = latency[latency["session"] == session].iloc[0]
        busy, stopped = own["background_load"], own.get("throttled", np.nan)
        same = low > 1 / AA_BAND and high < AA_BAND
        disturbed = bool(not same or busy > BUSY or stopped > STOPPED)
        rows.append([session, scale, mean, low, high, busy, stopped, disturbed])
    return pd.DataFrame(rows, columns=SESSION_COLUMNS)


def aa_log_ratios(times: pd.DataFrame) -> np.ndarray:
    """log(second name / first name) of each repeat; columns are models."""
    twins = untwinned(times.columns[times.notna().any()])
    second, first = next(iter(twins.items()))
    ratios: np.ndarray = np.log(times[second] / times[first]).dropna().to_numpy()
    return ratios


def used_sessions(sessions: pd.DataFrame) -> list[int]:
    """Sessions without a disturbed row; all of them if fewer than three would remain.

    Whether times decide anything is then up to the A/A ratio over sessions (see
    `claims.base.Context.too_noisy`).
    """
    everyone = [int(session) for session in sessions["session"].unique()]
    disturbed = set(sessions.loc[sessions["disturbed"], "session"])
    good = [session for session in everyone if session not in disturbed]
    return good if len(good) >= FEWEST else everyone


# --- what every run left --------------------------------------------------------------


def checksums(
    directory: Path, runs: Iterable[Run], files: Iterable[str]
) -> dict[str, str]:
    """SHA-256 of these files of every run, by path in `directory`.

    One rule looks at the files of every run; the others depend on this list. So
    Snakemake follows a file of a run once, and not once for each table and figure.
    """
    names = [name.format(model, seed) for model, seed in runs for name in files]
    return {name: sha256(directory / name) for name in names}
