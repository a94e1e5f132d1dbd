"""How long a study's jobs are expected to take, before they have run.

Constants are seconds on two cores of a server of 2023 (benchmarks/README.md). Ratios of
real to expected times are kept by rule, so that a machine's second study is estimated
from its first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from shallower.errors import UserError
from shallower.files import write_json
from shallower.models.config import LlamaConfig
from shallower.study.runs import RunSpec
from shallower.study.study import Study

SPEEDS = Path(".snakemake/shallower/speeds.json")

FLOPS = {True: 39e9, False: 24e9}  # per second in training, by whether it is compiled
START = {True: 12.0, False: 4.0}  # imports, data, and the compiler
CHECKPOINT = 0.55  # to score a document under an intervention, for 135M parameters
TOKEN = {"study": 6e-4, "original": 0.025, "pretrained": 0.05}  # timed, per model
OTHERS = {
    **{"corpus": 6, "pairs": 6, "tokenizer": 3, "shard": 4, "shards": 1, "floors": 5},
    **{"parameters": 30, "evaluate": 8, "summary": 3, "estimates": 5, "figures": 10},
    **{"tables": 3, "typeset": 8, "provenance": 4, "paper": 16, "verify": 16},
    **{"notebook_training": 7, "notebook_comparison": 9, "notebook_claim": 9},
    **{"page": 3},
}
UNKNOWN = 5.0
SHARED = {"train", "evaluate", "shard", "pretrained"}  # beside others of their kind


class Minutes:
    """Expected seconds of a study's jobs on this machine.

    `measured` are ratios of real to expected seconds by rule.
    """

    def __init__(self, study: Study, measured: Mapping[str, float]) -> None:
        self.study, self.measured = study, measured

    def job(self, rule: str, wildcards: Mapping[str, str]) -> float:
        """Seconds that one job is expected to take."""
        return self._plain(rule, wildcards) * self.measured.get(rule, 1.0)

    def jobs(self, rule: str, count: int) -> float:
        """Seconds of `count` jobs of a rule; of runs, those without weights."""
        if rule != "train":
            return count * self.job(rule, {})
        runs = self.study.runs
        if count < len(runs):
            folder = Path("results", self.study.study, "runs")
            weights = "{}/seed{}/model.safetensors"
            runs = [r for r in runs if not (folder / weights.format(*r)).exists()]
            runs = runs or self.study.runs
        each = [self.job(rule, {"model": m, "seed": str(seed)}) for m, seed in runs]
        return count * sum(each) / len(each)

    def all(self, jobs: Mapping[str, int], cores: int) -> float:
        """Seconds of so many jobs of each rule on these cores.

        Training and scoring of runs share the cores, other jobs run one by one.
        """
        each = {rule: self.jobs(rule, count) for rule, count in jobs.items()}
        shared = sum(each.pop(rule, 0.0) for rule in SHARED)
        return sum(each.values()) + shared / max(1, cores)

    def _plain(self, rule: str, wildcards: Mapping[str, str]) -> float:
        if rule == "train" and wildcards:
            model, seed = wildcards["model"], int(wildcards["seed"])
            return training_seconds(self.study.spec(model, seed))
        if rule == "pretrained":
            return self._checkpoint(wildcards.get("checkpoint"))
        if rule == "latency":
            return self._latency()
        return OTHERS.get(rule, UNKNOWN)

    def _checkpoint(self, checkpoint: str | None) -> float:
        """Of one checkpoint, itself and intervened on; None: of the mean one."""
        labels = [name.variant for name in self.study.checkpoints.values()]
        of_one = labels.count(checkpoint) if checkpoint else len(labels)
        under = of_one / (1 if checkpoint else max(1, len({*labels})))
        return 10 + CHECKPOINT * self.study.pretrained.documents * max(1.0, under)

    def _latency(self) -> float:
        settings = self.study.latency
        of_study = settings.study.repeats * settings.study.new_tokens
        of_original = settings.original.repeats * settings.original.new_tokens
        models = max(1, len(self.study.front))
        seconds = 15 + TOKEN["study"] * of_study * 4 * models
        seconds += TOKEN["original"] * of_original * 3 * len(self.study.original.depths)
        if timed := settings.pretrained:
            requests = timed.repeats * (1 + len(timed.interventions))
            seconds += TOKEN["pretrained"] * requests * (timed.new_tokens + 10)
        return settings.sessions * seconds


def training_seconds(spec: RunSpec) -> float:
    """Expected seconds of a run: FLOPs of its matrix products, and the start."""
    training, model = spec.training, spec.model
    compiled = training.compile == "always"
    # Matrices of queries, keys, values and output, and of an FFN with a gate.
    if isinstance(model, LlamaConfig):
        blocks, attention = model.depth, 2 * (model.inner + model.kv_inner)
        hidden = model.ffn_width
    else:
        blocks, attention = model.encoder_depth + model.decoder_depth, 4 * model.inner
        hidden = model.ffn_hidden
    weights = model.width * (model.vocabulary + blocks * (attention + 3 * hidden))
    tokens = training.steps * training.batch_size * model.context
    return START[compiled] + 6 * weights * tokens / FLOPS[compiled]


def read_speeds(path: Path = SPEEDS) -> dict[str, float]:
    """Ratios of real to expected seconds on this machine; none from a damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(rule): min(100.0, max(0.01, float(x))) for rule, x in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_speeds(found: Mapping[str, float], path: Path = SPEEDS) -> None:
    """Keep these ratios beside those of other rules; if that fails, nothing is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, read_speeds(path) | dict(found))
    except (OSError, UserError):
        pass
