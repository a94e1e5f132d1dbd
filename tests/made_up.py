"""A study of all systems with result files made by hand, for the tests of every topic.

Every model has a cross-entropy and times that follow from its name by plain rules, with
noise over seeds and sessions that sums to zero, so that means are exact. A test changes
what it is about (`put`, `shift`) and reads the tables with `results`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from shallower.analysis.results import Results, names_of, original_names
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.units import unit_of
from shallower.files import write_json
from shallower.study.names import SEPARATOR, ModelName, joined, twin
from shallower.study.study import Study, load_study

SEEDS = SESSIONS = (0, 1, 2)
SHARED = {0: 0.3, 1: -0.2, 2: -0.1}  # nats, of a seed, common to all models
SESSION = {0: 1.1, 1: 0.95, 2: 0.95}  # factor on times, common to all models
SMALL = (0.001, -0.003, 0.002)  # by seed or session, of one model alone
STEPS = 100
TOKENS = 1024  # of a step
TOKEN = ("fixed", "time_per_output_token")
LENGTHS = {"study": (32, 128), "original": (128, 512)}

ORDERS = list(permutations(range(3)))


def noise(place: int, unit: int) -> float:
    """What a model has of its own in a seed or session: 0 in the mean of three."""
    return SMALL[ORDERS[place % 6][unit % 3]] * (1 + 0.1 * (place % 7))


Key = tuple[str, str, str, str, str, str]  # label, scale, form, mode, dataset, metric
Grid = dict[str, Any]


# --- the study ------------------------------------------------------------------------


def grid(variants: str, depths: int | list[int], **more: Any) -> Grid:
    """A grid of these variants; `seeds`, and the rest are options."""
    seeds = {"seeds": more.pop("seeds")} if "seeds" in more else {}
    depths = [depths] if isinstance(depths, int) else depths
    return {"variants": variants.split(), "depths": depths, "options": more} | seeds


DEPTH = {"depth": [grid("baseline proposed", [2, 3, 4])]}
HEADS: dict[str, list[Grid]] = {
    "head": [grid("baseline proposed silu linear silu_even", 2)],
    "learning_rate": [grid("baseline silu", 2, seeds=[7, 8], lr=[1e-3, 3e-3, 9e-3])],
    "budget": [
        grid("baseline", 4, steps=[25, 50, 400]),
        grid("baseline proposed", 2, steps=[50, 400]),
    ],
}
FFNS: dict[str, list[Grid]] = {
    "ffn": [
        grid("none one_matrix", [2, 4]),
        grid("three_matrices", 4, ratio=[1.2, 4.0]),
        grid("proposed", 4, ffn=["one_matrix"]),
    ],
    "distillation": [grid("baseline", 2, teacher=["baseline-4"])],
    "t5": [{"sizes": ["mini"], "options": {"ffn": ["default", "three_matrices"]}}],
}
SKIPS = [
    *("attention.last.1", "attention.last.2", "attention.last.3"),
    *("attention.first.1", "attention.first.2", "attention.random0.2"),
    *("attention.last_but_one.2", "attention.cosine.2", "attention.greedy.2"),
    *("ffn.last.1", "ffn.last.2", "block.last.1", "block.last.2"),
]
SKIPPING: dict[str, list[Grid]] = {
    "skip": [
        grid("baseline", 4, skip=SKIPS),
        grid("baseline", 4, skip=["attention.last.2"], healed=[0.1], by=["self"]),
    ]
}
ELIMINATED = [
    *("acc.1.25", "acc.1.5", "acc.2", "acc.3"),
    *("random.2", "recent.2", "linear.2", "uniform.2"),
]
ELIMINATION: dict[str, list[Grid]] = {
    "elimination": [
        grid("baseline", 4, eliminate=ELIMINATED),
        grid("baseline", 4, tuned=[0.1], eliminate=["acc.1.5", "acc.2", "acc.3"]),
    ]
}
COMBINED: dict[str, list[Grid]] = {
    "combined": [
        grid("proposed", 4, skip=["attention.last.2"]),
        grid("proposed", 4, eliminate=["acc.2"]),
        grid("proposed", 2, teacher=["baseline-4"]),
        grid("baseline", 4, skip=["attention.last.2"], eliminate=["acc.2"]),
    ]
}
EVERYTHING = DEPTH | HEADS | FFNS | SKIPPING | ELIMINATION | COMBINED
CONTRASTS = [
    {"id": "A1-A0", "left": "silu-2", "right": "baseline-2", "test": "superiority"},
    {"id": "A5-A0", "left": "linear-2", "right": "baseline-2", "test": "equivalence"},
    {"id": "A12-A1", "left": "silu_even-2", "right": "silu-2", "test": "superiority"},
]


def study_of(
    configuration: Mapping[str, Any],
    contrasts: Sequence[Mapping[str, Any]] = (),
    **experiments: list[Any],
) -> Study:
    """These experiments, at 100 steps of 8 x 128 tokens, seeds 0, 1, 2.

    The depth experiment, if none is given, has both variants at 2, 3 and 4 blocks.
    """
    training = {"steps": STEPS, "batch_size": 8}
    timed = dict(configuration["latency"]["interventions"] or {})
    timed |= {s: {"lengths": list(n), "repeats": 2} for s, n in LENGTHS.items()}
    sizes = {
        "training": configuration["training"] | training,
        "model": configuration["model"] | {"context": 128},
        "latency": configuration["latency"] | {"interventions": timed},
        "contrasts": [dict(contrast) for contrast in contrasts],
        "experiments": {"seeds": list(SEEDS)} | DEPTH | experiments,
    }
    return load_study(dict(configuration) | sizes)


def default_configuration() -> dict[str, Any]:
    """The default study's configuration."""
    path = Path(__file__).resolve().parents[1] / "config.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def all_systems() -> Study:
    """Every experiment: about sixty models."""
    return study_of(default_configuration(), CONTRASTS, **EVERYTHING)


# --- what is true of a model ----------------------------------------------------------


def quality(name: ModelName) -> float:
    """Cross-entropy (nats): depth pays, and two proposed blocks match four."""
    options, nats = name.options, 5.0 - 0.05 * name.depth
    nats -= {"proposed": 0.2, "silu": 0.2, "silu_even": 0.3}.get(name.head, 0.0)
    if name.ffn != "default":
        nats += {"none": 0.35, "one_matrix": 0.2}.get(name.ffn, 0.12)
        nats += 0.02 * (options.get("ratio") == 1.2)
    nats += 0.1 * abs(math.log(float(options.get("lr", 3e-3)) / 3e-3))
    nats -= 0.3 * math.log2(float(options.get("steps", STEPS)) / STEPS)
    nats -= 0.03 * ("teacher" in options) + 0.015 * ("tuned" in options)
    if skip := _skip(name):
        each = {"attention": 0.02, "ffn": 0.05}.get(skip.part, 0.09)
        each *= {"first": 2.5, "greedy": 0.6}.get(skip.rule, 1.0)
        nats += each * (0.4 if "healed" in options else 1.0) * skip.k**1.4
    if eliminate := name.intervention.eliminate:
        each = {"acc": 0.04, "random": 0.2, "recent": 0.09}.get(eliminate.rule, 0.06)
        each *= 0.5 if "tuned" in options else 1.0
        nats += each * (eliminate.speedup - 1) ** 1.3
    return nats


def times(name: ModelName, form: str = "trained") -> tuple[float, float]:
    """Time per token and to the first token (us)."""
    token, first = 90 + 42.0 * name.depth, 900 + 2500.0 * name.depth
    if name.head != "baseline" and form == "trained":
        token, first = 1.03 * token, 1.03 * first
    if name.ffn != "default":
        token, first = 0.72 * token, 0.6 * first
    if skip := _skip(name):
        share = {"attention": 0.4, "ffn": 0.6}.get(skip.part, 1.0) * skip.k / name.depth
        token, first = token * (1 - 0.8 * share), first * (1 - 0.9 * share)
    if eliminate := name.intervention.eliminate:
        token, first = 0.99 * token, 450 + (first - 450) / eliminate.speedup**0.93
    return token, first


def _skip(name: ModelName) -> Any:
    """What is skipped, healed or not."""
    return (
        ModelName("baseline", name.depth, name.options)
        .without("healed")
        .intervention.skip
    )


# --- its files ------------------------------------------------------------------------


class MadeUp:
    """A study's result files: change values, then ask for `results`."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.values: dict[Key, dict[int, float]] = {}
        self.sizes: dict[tuple[str, str], dict[str, Any]] = {}  # by scale and label
        self.losses: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {}
        self.entropy: dict[tuple[str, int], float] = {}  # of the first block, by run
        self.reads = [  # rows of bandwidth.parquet
            {"session": s, "bytes": size, "way": "library", "nanoseconds": size / 10.0}
            for s in SESSIONS
            for size in (10**6, 10**9)
        ]
        self._names = names_of(study)
        for index, (label, name) in enumerate(study.names.items()):
            self._quality(label, name, index)
        for index, label in enumerate(study.names):
            self._times(label, index)
        self._original()
        self._sizes()

    def put(
        self,
        label: str,
        dataset: str,
        metric: str,
        values: Sequence[float] | Mapping[int, float],
        scale: str = "study",
        form: str = "trained",
        mode: str = "eager",
    ) -> None:
        """A metric by seed or session; a sequence counts from 0, () removes it."""
        by_unit = values if isinstance(values, Mapping) else dict(enumerate(values))
        self.values[label, scale, form, mode, dataset, metric] = dict(by_unit)

    def shift(
        self, by: float, label: str, metric: str = "cross_entropy", scale: str = "study"
    ) -> None:
        """Add to a metric of a model on all data sets, in all forms and modes."""
        for key, values in self.values.items():
            if (key[0], key[1], key[5]) == (label, scale, metric):
                self.values[key] = {unit: value + by for unit, value in values.items()}

    def first_units(self, count: int = 1) -> None:
        """Keep so many seeds and sessions alone."""
        for key, values in self.values.items():
            self.values[key] = dict(list(values.items())[:count])

    def results(self) -> Results:
        """Write everything, and read it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        study = self.study.model_dump(mode="json")
        write_json(self.folder / "study.json", study)
        rows = self._rows()
        rows.to_csv(self.folder / "by_seed.csv", index=False)
        self._summary(rows).to_csv(self.folder / "summary.csv", index=False)
        self._write_sizes()
        self._write_runs()
        self._write_evaluations()
        self._write_latency()
        write_json(self.folder / "corpus" / "manifest.json", _corpus())
        pairs = {"splits": {"train": {"counts": {"0": 200, "1": 200}}}}
        write_json(self.folder / "corpus" / "pairs" / "manifest.json", pairs)
        for split in ("train", "validation", "test"):
            path = self.folder / "tokens" / "text" / split / "manifest.json"
            write_json(path, _shards())
        return Results.read(self.folder)

    # --- usual values ---

    def _seeds(self, label: str) -> dict[int, float]:
        """What is added to a model's cross-entropy, by its seeds."""
        place = list(self._names).index(label)
        return {
            seed: SHARED.get(seed, 0.0) + noise(place, i)
            for i, seed in enumerate(self.study.seeds_of(label))
        }

    def _quality(self, label: str, name: ModelName, index: int) -> None:
        own = self._seeds(label)
        if name.t5_size:
            if name.options.get("task"):
                right = {s: 0.7 + 2 * noise(index, s) for s in own}
                self.put(label, "pairs", "accuracy", right)
            else:
                nats = {s: 5.5 + more for s, more in own.items()}
                self.put(label, "spans", "cross_entropy", nats)
            return
        nats = {seed: quality(name) + more for seed, more in own.items()}
        self.put(label, "continuation", "cross_entropy", nats)
        if name.is_intervened:
            return
        self.put(label, "train", "training_loss", {s: v - 0.1 for s, v in nats.items()})
        for dataset in ("text", "validation"):
            scored = [s for s in own if dataset in self.study.scored_on(label, s)]
            if scored:
                chosen = {seed: nats[seed] for seed in scored}
                self.put(label, dataset, "cross_entropy", chosen)
                perplexity = {seed: math.exp(nats[seed]) for seed in scored}
                self.put(label, dataset, "perplexity", perplexity)
        for form in _forms(name)[1:]:
            short = {"folded": "fold", "collapsed": "collapse"}[form]
            for metric, error in (("float64", 1e-14), ("float32", 1e-6)):
                found = dict.fromkeys(own, error)
                self.put(label, "text", f"{short}_error_{metric}", found)

    def _timed(self, label: str, dataset: str, scale: str, **where: str) -> None:
        name = self._names[label]
        both = times(name, where.get("form", "trained"))
        place = list(self._names).index(label)
        metrics = ("time_per_output_token", "time_to_first_token")
        for metric, us in zip(metrics, both, strict=True):
            found = {s: us * SESSION[s] * (1 + noise(place, s)) for s in SESSIONS}
            self.put(label, dataset, metric, found, scale, **where)

    def _times(self, label: str, index: int) -> None:
        study, name = self.study, self.study.names[label]
        depth = label in study.depth_models
        for form in _forms(name):
            if depth or label in study.models_of("ffn"):
                self._timed(label, "fixed", "study", form=form)
            if label in study.front:
                self._timed(label, "continuation", "study", form=form)
        if depth:
            step = {s: 1000 * times(name)[0] * SESSION[s] for s in SESSIONS}
            step = {s: us * (1 + noise(index, s)) for s, us in step.items()}
            self.put(label, "step", "step_time", step)

    def _original(self) -> None:
        """Models of the original's size, and first tokens by the prompt's length."""
        known, deep = self.study.names, self.study.original.depths[-1]
        self._timed(twin(self.study.deepest_baseline), "fixed", "study")
        self._timed(twin(f"baseline-{deep}"), "fixed", "original")
        for label, name in self._names.items():
            original = original_names(self.study)
            if label in original:
                for form in _forms(name):
                    self._timed(label, "fixed", "original", form=form)
            for scale, lengths in LENGTHS.items():
                base = (
                    self.study.deepest_baseline
                    if scale == "study"
                    else f"baseline-{deep}"
                )
                if str(name.run) != base or (scale == "study") != (label in known):
                    continue
                if label not in known and label not in original:  # a twin
                    continue
                if "skip" in name.options or (name.is_intervened and "tuned" in label):
                    continue
                fast = name.intervention.eliminate
                for tokens in lengths:
                    us = [400 + 30 * tokens / (fast.speedup if fast else 1)] * 3
                    us = [
                        v * SESSION[s] * (1 + noise(fast is None, s))
                        for s, v in enumerate(us)
                    ]
                    place = (f"prompt_{tokens}", "time_to_first_token")
                    self.put(label, *place, us, scale)

    def _sizes(self) -> None:
        for scale in ("study", "original"):
            sizes = self.study.model if scale == "study" else self.study.original
            vocabulary = {
                "study": self.study.tokenizer.vocabulary,
                "original": self.study.original.vocabulary,
            }[scale]
            d, n, hidden = sizes.width, sizes.heads, sizes.ffn_hidden
            chosen = (
                self.study.names if scale == "study" else original_names(self.study)
            )
            for label in chosen:
                name = self._names[label]
                block = (
                    4 * d**2 + 2 * d + (3 * d * hidden if name.ffn == "default" else 0)
                )
                count = 2 * vocabulary * d + d + name.depth * block
                added = name.depth * (d**2 // n + d) if name.head != "baseline" else 0
                skipped = (
                    len(_skip(name).blocks(name.depth)) if _plain_skip(name) else 0
                )
                self.sizes[scale, label] = {
                    "parameters_trained": count + added,
                    "parameters_deployed": count,
                    "weights_read": count - vocabulary * d,
                    "flops_per_token": 2 * (count + added),
                    "flops_per_token_deployed": 2 * count,
                    "width": d,
                    "vocabulary": vocabulary,
                    "attending_blocks": name.depth - skipped,
                }

    # --- tables ---

    def _split(self, label: str) -> tuple[str, str]:
        """Model and intervention of a label."""
        name = self._names.get(label)
        done = str(name.intervention) if name else ""
        return label.removesuffix(f"{SEPARATOR}{done}"), done

    def _rows(self) -> pd.DataFrame:
        rows = []
        for (label, scale, form, mode, dataset, metric), values in self.values.items():
            model, done = self._split(label)
            row = {"model": model, "intervention": done, "scale": scale, "form": form}
            row |= {"mode": mode, "dataset": dataset, "metric": metric}
            row |= {"unit": unit_of(metric)}
            rows += [row | {"unit_id": u, "value": v} for u, v in values.items()]
        return pd.DataFrame(rows)

    def _summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        keys = [column for column in rows if column not in ("unit_id", "value")]
        table = rows.groupby(keys, sort=False)["value"].agg(["mean", "median", "size"])
        table = table.reset_index().rename(columns={"size": "n_seeds"})
        labels = map(joined, table["model"], table["intervention"])
        names = [self._names.get(label, ModelName(label, 0)) for label in labels]
        return table.assign(
            n=table["n_seeds"],
            system=[name.system for name in names],
            variant=[name.variant for name in names],
            depth=[name.depth for name in names],
            **dict.fromkeys(("p5", "p95", "std", "ci_low", "ci_high"), math.nan),
        )

    def _write_sizes(self) -> None:
        rows = []
        for (scale, label), sizes in self.sizes.items():
            name, (model, done) = self._names[label], self._split(label)
            row = {"model": model, "intervention": done, "scale": scale}
            row |= {"system": name.system, "depth": name.depth, "variant": name.variant}
            rows.append(row | sizes)
        pd.DataFrame(rows).to_csv(self.folder / "parameters.csv", index=False)
        predictions = []
        for label in original_names(self.study):
            name = self._names[label]
            if not name.is_intervened:
                continue
            row = {"model": str(name.run), "intervention": str(name.intervention)}
            eliminate = name.intervention.eliminate
            for tokens in LENGTHS["original"] if eliminate else [None]:
                predictions.append(
                    row
                    | {"scale": "original", "prompt_tokens": tokens}
                    | {"predicted_decode": None if eliminate else 1.1}
                    | {"predicted_prefill": eliminate.speedup if eliminate else None}
                )
        columns = ["model", "intervention", "scale", "prompt_tokens"]
        columns += ["predicted_decode", "predicted_prefill"]
        table = pd.DataFrame(predictions, columns=columns)
        table.to_csv(self.folder / "predictions.csv", index=False)

    def _write_runs(self) -> None:
        for label, seed in self.study.runs:
            name, spec = self.study.models[label], self.study.spec(label, seed)
            folder = self.folder / "runs" / label / f"seed{seed}"
            steps = spec.training.steps
            iterations = np.arange(1, 101)
            curve = self.losses.get(label, lambda _, i: 6 - 0.01 * i)
            losses = pd.DataFrame({"iteration": iterations})
            losses["loss"] = curve(seed, iterations)
            entropy = self.entropy.get((label, seed), 3.8)
            seen = [(1, 0, "entropy", 3.88), (steps, 0, "entropy", entropy)]
            seen.append((steps, 1, "entropy", 3.88))
            columns = ["iteration", "block", "quantity", "value"]
            folder.mkdir(parents=True, exist_ok=True)
            losses.to_csv(folder / "losses.csv", index=False)
            table = pd.DataFrame(seen, columns=columns)
            table.to_csv(folder / "diagnostics.csv", index=False)
            tokens = steps * TOKENS
            write_json(
                folder / "training.json",
                {"model": label, "seed": seed, "seconds": 10.0, "tokens": tokens}
                | {"epochs": tokens / 1e6, "flops": 1e6 * name.depth * tokens}
                | {
                    "device": "cpu",
                    "threads": 1,
                    "commit": "abc",
                    "precision": "float32",
                }
                | {"versions": {"python": "3.11", "torch": "2"}},
            )

    def _write_evaluations(self) -> None:
        """Four test documents, whose mean by length is that of the run."""
        weights = np.array([10.0, 20.0, 30.0, 40.0])
        offsets = np.array([4.0, 2.0, 1.0, -2.75]) / 10  # of mean 0 by weight
        for label, seed in self.study.runs:
            key = (label, "study", "trained", "eager", "text", "cross_entropy")
            nats = self.values.get(key, {}).get(seed)
            rows = {
                "value": [] if nats is None else nats + offsets,
                "weight": [] if nats is None else weights,
                "sample": [] if nats is None else list("abcd"),
            }
            table = pd.DataFrame(rows).assign(
                intervention="",
                form="trained",
                dataset="text",
                group="",
                metric="cross_entropy",
            )
            path = self.folder / "evaluations" / label / f"seed{seed}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
        for label, seed in self.study.intervened_runs:
            path = (
                self.folder / "evaluations" / label / f"seed{seed}.interventions.json"
            )
            write_json(path, choices(self.study, label, seed))

    def _write_latency(self) -> None:
        """Only what is not in by_seed.csv: lengths and data type of fixed workloads."""
        rows = []
        for (label, scale, form, mode, dataset, metric), values in self.values.items():
            if dataset not in ("fixed", "decode") or metric != TOKEN[1]:
                continue
            model, done = self._split(label)
            row = {"model": model, "intervention": done, "scale": scale, "form": form}
            row |= {"mode": mode, "workload": dataset, "dtype": "float32"}
            row |= {"prompt_tokens": 6, "generated_tokens": 4}
            rows += [row | {"session": session} for session in values]
        pd.DataFrame(rows).to_parquet(self.folder / "latency.parquet")
        pd.DataFrame(self.reads).to_parquet(self.folder / "bandwidth.parquet")
        columns = ["session", "scale", "ratio", "ci_low", "ci_high", "background_load"]
        sessions = [(s, "study", 1.001, 0.99, 1.01, 0.1) for s in SESSIONS]
        table = pd.DataFrame(sessions, columns=columns).assign(disturbed=False)
        table.to_csv(self.folder / "sessions.csv", index=False)


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


def _forms(name: ModelName) -> list[str]:
    """Forms in which a model is timed, in the order of deployment."""
    forms = ["trained"]
    forms += ["folded"] if name.head != "baseline" else []
    return forms + (["collapsed"] if name.ffn.endswith("matrices") else [])


def _plain_skip(name: ModelName) -> bool:
    """Whether blocks without attention are known from the label alone."""
    skip = _skip(name)
    return skip is not None and skip.part != "ffn" and not skip.needs_model


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


# --- as fixtures ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study of all systems with the tables of its analysis. Not to be changed."""
    return _analysed(all_systems(), tmp_path_factory.mktemp("all_systems"))


@pytest.fixture(scope="session")
def depth_alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same of a study that has no other experiment. Not to be changed."""
    study = study_of(default_configuration())
    return _analysed(study, tmp_path_factory.mktemp("depth_alone"))


def _analysed(study: Study, folder: Path) -> Results:
    from shallower.analysis.write import write_analysis

    MadeUp(study, folder).results()
    write_analysis(folder)
    return Results.read(folder)
