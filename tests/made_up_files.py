"""The files of a made-up study, from the values of its tables (see `made_up`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from shallower.analysis.gates import SETS
from shallower.analysis.results import original_names
from shallower.analysis.statistics import describe
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.units import unit_of
from shallower.study.names import SEPARATOR, ModelName, joined
from shallower.study.study import Study

if TYPE_CHECKING:
    from made_up import MadeUp

TOKENS = 1024  # of a step


def write(world: MadeUp) -> None:
    """Everything that the analysis and the report read."""
    world.folder.mkdir(parents=True, exist_ok=True)
    study = world.study.model_dump(mode="json")
    _write_json(world.folder / "study.json", study)
    rows = _rows(world)
    rows.to_csv(world.folder / "by_seed.csv", index=False)
    _summary(world, rows).to_csv(world.folder / "summary.csv", index=False)
    _write_sizes(world)
    _write_predictions(world)
    _write_runs(world)
    _write_evaluations(world)
    _write_latency(world)
    _write_floors(world)
    _write_json(world.folder / "corpus" / "manifest.json", _corpus())
    pairs = {"splits": {"train": {"counts": {"0": 200, "1": 200}}}}
    _write_json(world.folder / "corpus" / "pairs" / "manifest.json", pairs)
    for split in ("train", "validation", "test"):
        path = world.folder / "tokens" / "text" / split / "manifest.json"
        _write_json(path, _shards())


def _split(world: MadeUp, label: str) -> tuple[str, str]:
    """Model and intervention of a label."""
    name = world.names.get(label)
    done = str(name.intervention) if name else ""
    return label.removesuffix(f"{SEPARATOR}{done}"), done


def _write_json(path: Path, content: Any) -> None:
    """Without the flush to disk of `files.write_json`: tests need not wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _rows(world: MadeUp) -> pd.DataFrame:
    rows = []
    for (label, scale, form, mode, dataset, metric), values in world.values.items():
        model, done = _split(world, label)
        row = {"model": model, "intervention": done, "scale": scale, "form": form}
        row |= {"mode": mode, "dataset": dataset, "metric": metric}
        row |= {"unit": unit_of(metric)}
        rows += [row | {"unit_id": u, "value": v} for u, v in values.items()]
    return pd.DataFrame(rows)


def _summary(world: MadeUp, rows: pd.DataFrame) -> pd.DataFrame:
    keys = [column for column in rows if column not in ("unit_id", "value")]
    summary = []
    for key, part in rows.groupby(keys, sort=False):
        values = part["value"].to_numpy(float)
        row = dict(zip(keys, key, strict=True)) | {"n_seeds": len(values)}
        name = world.names.get(joined(row["model"], row["intervention"]))
        name = name or ModelName(row["model"], 0)
        row |= {"system": name.system, "variant": name.variant, "depth": name.depth}
        units = part["unit_id"].to_numpy()
        summary.append(row | describe(values, np.ones(len(values)), units))
    return pd.DataFrame(summary)


def _write_sizes(world: MadeUp) -> None:
    rows = []
    for (scale, label), sizes in world.sizes.items():
        name, (model, done) = world.names[label], _split(world, label)
        row = {"model": model, "intervention": done, "scale": scale}
        row |= {"system": name.system, "depth": name.depth, "variant": name.variant}
        rows.append(row | sizes)
    pd.DataFrame(rows).to_csv(world.folder / "parameters.csv", index=False)


def _write_predictions(world: MadeUp) -> None:
    predictions = []
    for label in original_names(world.study):
        name = world.names[label]
        if not name.is_intervened:
            continue
        row = {"model": str(name.run), "intervention": str(name.intervention)}
        eliminate = name.intervention.eliminate
        for tokens in world.lengths["original"] if eliminate else [None]:
            predictions.append(
                row
                | {"scale": "original", "prompt_tokens": tokens}
                | {"predicted_decode": None if eliminate else 1.1}
                | {"predicted_prefill": eliminate.speedup if eliminate else None}
            )
    columns = ["model", "intervention", "scale", "prompt_tokens"]
    columns += ["predicted_decode", "predicted_prefill"]
    table = pd.DataFrame(predictions, columns=columns)
    table.to_csv(world.folder / "predictions.csv", index=False)


def _write_runs(world: MadeUp) -> None:
    for label, seed in world.study.runs:
        name, spec = world.study.models[label], world.study.spec(label, seed)
        folder = world.folder / "runs" / label / f"seed{seed}"
        steps = spec.training.steps
        iterations = np.arange(1, 101)
        curve = world.losses.get(label, lambda _, i: 6 - 0.01 * i)
        losses = pd.DataFrame({"iteration": iterations})
        losses["loss"] = curve(seed, iterations)
        entropy = world.entropy.get((label, seed), 3.8)
        seen = [(1, 0, "entropy", 3.88), (steps, 0, "entropy", entropy)]
        later = world.later_entropy.get((label, seed), 3.88)
        seen += [(1, 1, "entropy", 3.0), (steps, 1, "entropy", later)]
        others = ("output_rms", "branch_ratio", "gradient_norm")
        seen += [(steps, 0, quantity, 1.0) for quantity in others]
        columns = ["iteration", "block", "quantity", "value"]
        folder.mkdir(parents=True, exist_ok=True)
        losses.to_csv(folder / "losses.csv", index=False)
        table = pd.DataFrame(seen, columns=columns)
        table.to_csv(folder / "diagnostics.csv", index=False)
        tokens = steps * TOKENS
        facts = {"model": label, "seed": seed, "seconds": 10.0, "tokens": tokens}
        facts |= {"epochs": tokens / 1e6, "flops": 1e6 * name.depth * tokens}
        facts |= {"device": "cpu", "threads": 1, "commit": "abc"}
        facts |= {"precision": "float32", "tokens_per_second": tokens / 10.0}
        facts |= {"versions": {"python": "3.11", "torch": "2"}}
        _write_json(folder / "training.json", facts)


def _write_evaluations(world: MadeUp) -> None:
    """Of runs scored on text four documents; their mean by length is the run's."""
    lengths = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}
    offsets = np.array([0.4, 0.2, 0.1, -0.275])  # of mean 0 by length
    documents = pd.DataFrame({"sample": list(lengths), "weight": lengths.values()})
    same = {"dataset": "text", "metric": "cross_entropy", "form": "trained"}
    documents = documents.assign(intervention="", group="", **same)
    sample = {"id": "1", "prompt": "a", "prediction": "b", "reference": "c"}
    texts = [json.dumps(sample | {"dataset": name}) for name in EVALUATION_SETS]
    for label, seed in world.study.runs:
        if "text" not in world.study.scored_on(label, seed):
            continue
        key = (label, "study", "trained", "eager", "text", "cross_entropy")
        nats = world.values.get(key, {}).get(seed, math.nan)
        path = world.folder / "evaluations" / label / f"seed{seed}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        documents.assign(value=nats + offsets).to_parquet(path)
        path.with_suffix(".samples.jsonl").write_text("\n".join(texts) + "\n")
    for label, seed in world.study.intervened_runs:
        path = world.folder / "evaluations" / label / f"seed{seed}.interventions.json"
        _write_json(path, choices(world.study, label, seed))


def _write_latency(world: MadeUp) -> None:
    """Only what is not in by_seed.csv: lengths and data type of fixed workloads."""
    rows = []
    for (label, scale, form, mode, dataset, metric), values in world.values.items():
        if dataset not in ("fixed", "decode") or metric != "time_per_output_token":
            continue
        model, done = _split(world, label)
        row = {"model": model, "intervention": done, "scale": scale, "form": form}
        row |= {"mode": mode, "workload": dataset, "dtype": "float32"}
        row |= {"prompt_tokens": 6, "generated_tokens": 4}
        rows += [row | {"session": session} for session in values]
    pd.DataFrame(rows).to_parquet(world.folder / "latency.parquet")
    pd.DataFrame(world.reads).to_parquet(world.folder / "bandwidth.parquet")
    columns = ["session", "scale", "ratio", "ci_low", "ci_high", "background_load"]
    columns.append("throttled")
    sessions = [(s, "study", 1.001, 0.99, 1.01, 0.1, 0.0) for s in range(3)]
    table = pd.DataFrame(sessions, columns=columns).assign(disturbed=False)
    table.to_csv(world.folder / "sessions.csv", index=False)


def _write_floors(world: MadeUp) -> None:
    """The same after any number of training tokens; lower of the whole corpus."""
    specs = [world.study.spec(label, 0) for label in world.study.models]
    seen = {(spec.first_step + spec.training.steps) * TOKENS for spec in specs}
    rows = []
    for tokens in [*sorted(seen), None]:
        for floor, nats in world.floors.items():
            value = nats - (tokens is None and floor != "uniform")
            row = {"tokens": tokens, "counted_tokens": tokens, "floor": floor}
            row |= {"domain": "", "scored_tokens": 100, "cross_entropy": value}
            row |= {"perplexity": math.exp(value), "vocabulary": 2048}
            rows += [row | {"dataset": name} for name in SETS]
    pd.DataFrame(rows).to_csv(world.folder / "floors.csv", index=False)


def choices(study: Study, label: str, seed: int) -> dict[str, Any]:
    """`interventions.json`: attention matters less the later it is."""
    depth, tokens = study.models[label].depth, study.prompt_tokens
    share = np.arange(depth) / max(1, depth - 1)
    contribution = 0.8 - 0.5 * share + 0.01 * seed
    found = {}
    for each in study.interventions_of[label]:
        done = study.interventions[each].intervention
        speedup = done.eliminate.speedup if done.eliminate else 1.0
        less = (1 - 1 / speedup) * np.arange(1, depth + 1) / depth
        skipped = done.skip.k if done.skip else 0
        decode = 1 + 0.1 * skipped / depth
        found[str(done)] = {
            "skip": {"attention": [], "ffn": []},
            "elimination": None,
            "counts": [max(2, math.ceil(tokens * (1 - x))) for x in less]
            if done.eliminate
            else None,
            "predicted_decode": decode,
            "predicted_prefill": decode * speedup,
            "cache_bytes": round(4000 * (1 - skipped / depth) / speedup),
        }
    return {
        "model": label,
        "seed": seed,
        "importance": {
            "attention": list(0.3 - 0.2 * share + 0.01 * seed),
            "ffn": list(0.25 + 0.02 * np.sin(5 * share) + 0.01 * seed),
            "block": list(0.45 - 0.1 * share + 0.01 * seed),
        },
        "contribution": list(contribution),
        "profile": list(np.minimum.accumulate(contribution / contribution[0])),
        "cache_bytes": 4000,
        "interventions": found,
    }


def _corpus() -> dict[str, Any]:
    counts = {"train": 1000, "validation": 50, "test": 60, "questions": 70}
    entry = {"source": "package", "name": "made-up", "version": "1", "licence": "CC"}
    entry |= {"counts": counts, "dropped": {"duplicate": 3, "contaminated": 2}}
    return {"datasets": {"text": entry} | {s: dict(entry) for s in EVALUATION_SETS}}


def _shards() -> dict[str, Any]:
    return {
        **{"tokens": 100_000, "vocabulary": 2048, "documents": 1000},
        **{"characters_per_token": 3.5, "unknown_rate": 0.001},
        **{"checked_documents": 100, "round_trip_failures": 1},
    }
