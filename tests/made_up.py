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
import yaml

import made_up_files
from shallower.analysis.results import Results, names_of, original_names
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation.units import unit_of
from shallower.study.names import ModelName, twin
from shallower.study.schema import Architecture
from shallower.study.study import Study, load_study

SEEDS = SESSIONS = (0, 1, 2)
SHARED = {0: 0.3, 1: -0.2, 2: -0.1}  # nats, of a seed, common to all models
SESSION = {0: 1.1, 1: 0.95, 2: 0.95}  # factor on times, common to all models
SMALL = (0.001, -0.003, 0.002)  # by seed or session, of one model alone
STEPS = 100
TOKEN = ("fixed", "time_per_output_token")
TEXT_METRICS = (
    *("bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL", "fuzzy"),
)
LENGTHS = {"study": (32, 128), "original": (128, 512)}  # of prompts, in tokens

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
    """A configuration of all systems, with interventions on its trained models."""
    path = Path(__file__).with_name("all_systems.yaml")
    return dict(yaml.safe_load(path.read_text()))


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
        self.later_entropy: dict[tuple[str, int], float] = {}  # of the second one
        self.floors = {"uniform": 7.6, "unigram": 6.6, "bigram": 6.2, "trigram": 6.1}
        self.reads = [  # rows of bandwidth.parquet
            {"session": s, "bytes": size, "way": "library", "nanoseconds": size / 10.0}
            for s in SESSIONS
            for size in (10**6, 10**9)
        ]
        self.names = names_of(study)
        self._deepest = study.deepest_baseline
        for place, (label, name) in enumerate(study.names.items()):
            self._quality(label, name, place)
            self._times(label, place)
        self._original()
        self._more()
        self._sizes()

    lengths = LENGTHS

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
        made_up_files.write(self)
        return Results.read(self.folder)

    # --- usual values ---

    def _seeds(self, label: str) -> dict[int, float]:
        """What is added to a model's cross-entropy, by its seeds."""
        place = list(self.names).index(label)
        cells = [*self.study.runs, *self.study.intervened]
        seeds = [seed for model, seed in cells if model == label]
        return {
            seed: SHARED.get(seed, 0.0) + noise(place, i)
            for i, seed in enumerate(seeds)
        }

    def _quality(self, label: str, name: ModelName, index: int) -> None:
        own = self._seeds(label)
        if name.t5_size:
            if name.options.get("task"):
                right = {s: 0.7 + 2 * noise(index, s) for s in own}
                self.put(label, "pairs", "accuracy", right)
            else:
                gaps = {seed: quality(name) + more for seed, more in own.items()}
                for dataset in ("spans", "validation"):
                    scored = [
                        s for s in own if dataset in self.study.scored_on(label, s)
                    ]
                    if scored:
                        chosen = {seed: gaps[seed] for seed in scored}
                        self.put(label, dataset, "cross_entropy", chosen)
            return
        nats = {seed: quality(name) + more for seed, more in own.items()}
        self.put(label, "continuation", "cross_entropy", nats)
        if name.is_intervened:
            return
        losses = {seed: nats[seed] - 0.1 for seed in self.study.seeds_of(label)}
        self.put(label, "train", "training_loss", losses)
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
        name = self.names[label]
        both = times(name, where.get("form", "trained"))
        place = list(self.names).index(label)
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
        """The models of the original's size."""
        deep = self.study.original.depths[-1]
        for label, name in original_names(self.study).items():
            for form in _forms(name):
                self._timed(label, "fixed", "original", form=form)
        for label, scale in (
            (f"baseline-{deep}", "original"),
            (self._deepest, "study"),
        ):
            self._timed(twin(label), "fixed", scale)

    def _more(self) -> None:
        """What only some models have: texts, prompts, static caches, no cache."""
        study = self.study
        for place, label in enumerate(study.depth_models):
            self._texts(label, place)
        original = original_names(study)
        deep = f"baseline-{study.original.depths[-1]}"
        for scale, base, known in (
            ("study", self._deepest, study.names),
            ("original", deep, original),
        ):
            for label, name in known.items():
                if str(name.run) == base and "skip" not in name.options:
                    self._prompts(label, scale)
            depths = study.depths if scale == "study" else study.original.depths
            for variant in ("baseline", "proposed"):
                for depth in (depths[0], depths[-1]):
                    self._decoding(f"{variant}-{depth}", scale)
        self._loop(self._deepest, "fixed", "generation_loop")
        self._loop(self._deepest, "fixed", "generation_loop", "uncached")

    def _prompts(self, label: str, scale: str) -> None:
        """Times to the first token by the prompt's length, with elimination or not."""
        eliminate = self.names[label].intervention.eliminate
        faster = eliminate.speedup if eliminate else 1.0
        for tokens in LENGTHS[scale]:
            us = 400 + 30 * tokens / faster
            by_session = [
                us * SESSION[s] * (1 + noise(int(10 * faster), s)) for s in SESSIONS
            ]
            place = (f"prompt_{tokens}", "time_to_first_token")
            self.put(label, *place, by_session, scale)

    def _decoding(self, label: str, scale: str) -> None:
        """Decoding with a static cache, eager and compiled."""
        for mode, share in (("eager", 1.1), ("compiled", 0.8)):
            us = [share * times(self.names[label])[0] * SESSION[s] for s in SESSIONS]
            us = [value * (1 + noise(len(label), s)) for s, value in enumerate(us)]
            self.put(label, "decode", TOKEN[1], us, scale, mode=mode)

    def _texts(self, label: str, place: int) -> None:
        """Text metrics of a model of the depth experiment, and times of generation."""
        seeds = self.study.seeds_of(label)
        for dataset in EVALUATION_SETS:
            for metric in TEXT_METRICS:
                scale = 100 if unit_of(metric) == "percent" else 1
                scores = {s: scale * (0.1 + noise(place, s)) for s in seeds}
                self.put(label, dataset, metric, scores)
            self.put(label, dataset, "empty", dict.fromkeys(seeds, 0.25))
            self._loop(label, dataset, "time_per_generated_token")

    def _loop(self, label: str, dataset: str, metric: str, mode: str = "eager") -> None:
        us = times(self.names[label])[0] * (3 if mode == "uncached" else 1)
        self.put(label, dataset, metric, [us * SESSION[s] for s in SESSIONS], mode=mode)

    def _sizes(self) -> None:
        study, original = self.study, self.study.original
        vocabulary = study.tokenizer.vocabulary
        for label, name in study.names.items():
            self.sizes["study", label] = sizes_of(name, study.model, vocabulary)
        for label, name in original_names(study).items():
            sizes = sizes_of(name, original, original.vocabulary)
            self.sizes["original", label] = sizes


def sizes_of(name: ModelName, sizes: Architecture, vocabulary: int) -> dict[str, Any]:
    """A row of parameters.csv; FFNs other than the default count nothing."""
    d, skip = sizes.width, _skip(name)
    block = 4 * d**2 + 2 * d
    block += 3 * d * sizes.ffn_hidden if name.ffn == "default" else 0
    count = 2 * vocabulary * d + d + name.depth * block
    added = d**2 // sizes.heads + d if name.head != "baseline" else 0
    known = skip is not None and skip.part != "ffn" and not skip.needs_model
    attending = name.depth - (len(skip.blocks(name.depth)) if known else 0)
    return {
        "parameters_trained": count + name.depth * added,
        "parameters_deployed": count,
        "weights_read": count - vocabulary * d,
        "flops_per_token": 2 * (count + name.depth * added),
        "flops_per_token_deployed": 2 * count,
        "width": d,
        "vocabulary": vocabulary,
        "attending_blocks": attending,
    }


def _forms(name: ModelName) -> list[str]:
    """Forms in which a model is timed, in the order of deployment."""
    forms = ["trained"]
    forms += ["folded"] if name.head != "baseline" else []
    return forms + (["collapsed"] if name.ffn.endswith("matrices") else [])
