"""Made-up checkpoints beside, or in place of, the trained models of `made_up`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from made_up import SESSION, SESSIONS, MadeUp, default_configuration, noise
from shallower.analysis.results import Results
from shallower.study.names import ModelName, twin
from shallower.study.study import Study, load_study

DEPTH = 6
DOCUMENTS = [f"speech {n}" for n in range(8)] + [f"article {n}" for n in range(8)]
SKIPS = [
    *(f"attention.last.{k}" for k in (1, 2, 3)),
    *("attention.first.1", "attention.last_but_one.1", "ffn.last.1"),
    *("block.last.1", "block.last.2", "block.last.3"),
]
ELIMINATED = ["acc.1.5", "acc.2", "acc.4", "random.2", "recent.2"]
BOTH = {"skip": ["attention.last.1", "attention.last.2"], "eliminate": ["acc.2"]}
EACH = {"attention": 0.03, "ffn": 0.2, "block": 0.35}  # nats of a skipped sublayer
TOGETHER = 0.05  # nats that skipping and eliminating cost beyond the sum


def configuration(*names: str) -> dict[str, Any]:
    """A study of these checkpoints alone, whose files nobody opens."""
    sizes = {"width": 16, "heads": 2, "ffn_hidden": 24, "context": 512}
    sizes |= {"vocabulary": 300, "depth": DEPTH, "kv_heads": 1}
    one = {"source": "files", "file": "nowhere", "sizes": sizes}
    usual = default_configuration()
    grids = [{"options": {"skip": SKIPS}}, {"options": {"eliminate": ELIMINATED}}]
    return usual | {
        "pretrained": {"models": dict.fromkeys(names, one)},
        "experiments": {"pretrained": [*grids, {"options": BOTH}]},
        "contrasts": [],
        "latency": usual["latency"]
        | {"pretrained": {"interventions": [], "prompts": None}},
    }


def study_of_checkpoints(*names: str, beside: Study | None = None) -> Study:
    """The checked study, without training; or with that of another study."""
    given = configuration(*names)
    if beside is None:
        return load_study(given)
    trained = beside.model_dump(mode="json")
    trained["experiments"] |= given["experiments"]
    trained["latency"]["pretrained"] = given["latency"]["pretrained"]
    return load_study(trained | {"pretrained": given["pretrained"]})


def quality(name: ModelName) -> float:
    """Cross-entropy (nats): late attention is cheap, early attention is not."""
    skip, eliminate, nats = name.intervention.skip, name.intervention.eliminate, 3.0
    if skip:
        late = {"first": 20.0, "last_but_one": 1.5, "only": 1.0}.get(skip.rule, 1.0)
        nats += EACH[skip.part] * late * skip.k**1.2
    if eliminate:
        each = {"acc": 0.02, "random": 0.2, "recent": 0.01}[eliminate.rule]
        nats += each * (eliminate.speedup - 1)
    return nats + (TOGETHER if skip and eliminate else 0.0)


def times(name: ModelName) -> tuple[float, float]:
    """Time per token and to the first token (us)."""
    token, first = 20_000.0, 300_000.0
    skip, eliminate = name.intervention.skip, name.intervention.eliminate
    if skip:
        share = {"attention": 0.25, "ffn": 0.75}.get(skip.part, 1.0) * skip.k / DEPTH
        token, first = token * (1 - 0.8 * share), first * (1 - 0.9 * share)
    return token, first / (eliminate.speedup**0.9 if eliminate else 1.0)


class MadeUpCheckpoints(MadeUp):
    """Their quality by document, and their times by session."""

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        for place, (label, name) in enumerate(study.checkpoints.items()):
            which = list(study.pretrained.chosen).index(name.variant)
            self.nats(label, quality(name), place, which)
            if "only" in label:  # a profile, which nobody times
                continue
            metrics = ("time_per_output_token", "time_to_first_token")
            for metric, us in zip(metrics, times(name), strict=True):
                found = {s: us * SESSION[s] * (1 + noise(place, s)) for s in SESSIONS}
                self.put(label, "continuation", metric, found, "pretrained")
                if label == study.timed_on:
                    place_of_twin = ("continuation", metric, found, "pretrained")
                    self.put(twin(label), *place_of_twin)

    def nats(self, label: str, mean: float, place: int = 0, which: int = 0) -> None:
        """Cross-entropy of each document: documents differ more than models do."""
        values = {
            document: mean + 0.1 * which + 0.3 * math.sin(n) + 0.5 * noise(place, n)
            for n, document in enumerate(DOCUMENTS)
        }
        self.put(label, "continuation", "cross_entropy", values, "pretrained")  # type: ignore[arg-type]

    def results(self) -> Results:
        """With what every intervention chose."""
        for checkpoint, seed in self.study.scored:
            folder = self.folder / "evaluations" / checkpoint
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"seed{seed}.interventions.json"
            path.write_text(json.dumps(choices(self.study, checkpoint)))
        return super().results()


def choices(study: Study, checkpoint: str) -> dict[str, Any]:
    """`interventions.json`: higher blocks need fewer tokens, in every document."""
    share, found = np.arange(DEPTH) / (DEPTH - 1), {}
    for name in study.checkpoints.values():
        if name.variant != checkpoint or not name.is_intervened:
            continue
        skip, eliminate = name.intervention.skip, name.intervention.eliminate
        speedup = eliminate.speedup if eliminate else 1.0
        found[str(name.intervention)] = {
            "skip": {"attention": [], "ffn": []},
            "elimination": None,
            "counts": None,
            "predicted_decode": 1 + 0.1 * (skip.k if skip else 0),
            "predicted_prefill": speedup,
            "cache_bytes": round(6000 / speedup),
        }
    by_document = [list(0.8 - 0.5 * share + 0.2 * np.cos(n * share)) for n in range(5)]
    return {
        "model": checkpoint,
        "seed": 0,
        "precision": "float32",
        "device": "cpu",
        "commit": "abc",
        "versions": {"python": "3.11", "torch": "2"},
        "sha256": {"weights": "0"},
        "parameters": 5e6,
        "windows": {"speeches": 8, "articles": 8},
        "prefill_at": {},
        "importance": {part: list(0.3 - 0.2 * share) for part in EACH},
        "contribution": list(np.mean(by_document, axis=0)),
        "contribution_by_document": by_document,
        "profile": list(0.9 - 0.5 * share),
        "cache_bytes": 6000,
        "interventions": found,
    }
