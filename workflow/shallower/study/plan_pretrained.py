"""What scoring a pretrained checkpoint takes, from its sizes, before it is downloaded.

FLOPs are two per multiply-accumulate. Interventions share the blocks below the first
one that they change; where that is not known before the checkpoint is measured, the
whole model counts, so these are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from shallower.corpus.tasks import CONTINUATION, TASKS
from shallower.interventions.base import Intervention
from shallower.interventions.skip import Skip
from shallower.models.config import LlamaConfig
from shallower.pretrained.settings import Checkpoint, HubCheckpoint, Precision
from shallower.pretrained.sizes import count_weights
from shallower.study.runs import PretrainedSpec
from shallower.study.stages import pretrained_spec
from shallower.study.study import Study

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
TOKENS_PER_WORD = 1.4  # of English, for a vocabulary of 32,000 or more
CALIBRATIONS = 2  # passes over validation text: importance, and contributions


@dataclass(frozen=True)
class EvaluationMemory:
    """Bytes on the device by what they hold, while a batch of windows is scored."""

    weights: int
    states: int  # the residual stream in front of every block, kept for interventions
    activations: int  # of one block
    logits: int  # of the scored tokens, and what their loss makes of them

    @property
    def total(self) -> int:
        """Everything; of one block and of the logits the larger."""
        return self.weights + self.states + max(self.activations, self.logits)


@dataclass(frozen=True)
class CheckpointPlan:
    """One checkpoint that is scored with all interventions on it."""

    name: str
    folder: str  # that it is downloaded to, or where it is
    parameters: int
    download: int | None  # bytes; 0: it is here; None: not known
    disk: int | None  # bytes of its files
    precision: Precision
    memory: EvaluationMemory
    interventions: int
    windows: int  # that quality is scored on, one domain a source assumed
    flops: int  # of the evaluation job
    hours: float | None = None  # of that job; None if the peak is not known


def checkpoint_plan(study: Study, name: str) -> CheckpointPlan:
    """A checkpoint's plan, without hours; where it chooses, on a device with bf16."""
    checkpoint, spec = study.pretrained.chosen[name], pretrained_spec(study, name)
    config, stated = checkpoint.config, checkpoint.precision
    precision: Precision = "bfloat16" if stated == "auto" else stated
    folder, disk = _place(checkpoint, f"pretrained.models.{name}")
    return CheckpointPlan(
        name=name,
        folder=folder,
        parameters=count_weights(config),
        download=disk if isinstance(checkpoint, HubCheckpoint) else 0,
        disk=disk,
        precision=precision,
        memory=_memory(config, spec, BYTES[precision]),
        interventions=len(spec.interventions),
        windows=spec.documents * len(study.corpus.text),
        flops=evaluation_flops(config, spec, len(study.corpus.text)),
    )


def _place(checkpoint: Checkpoint, key: str) -> tuple[str, int | None]:
    """Where a checkpoint is, or will be, and its bytes there; None: not known."""
    if not isinstance(checkpoint, HubCheckpoint):
        path = checkpoint.path(key)
        files = path.rglob("*") if path.is_dir() else [path]
        return str(path), sum(f.stat().st_size for f in files if f.is_file())
    if checkpoint.file is not None:
        return checkpoint.folder, None  # depends on how it is quantised
    size = count_weights(checkpoint.config) * BYTES[checkpoint.stored]
    return checkpoint.folder, size


def _memory(config: LlamaConfig, spec: PretrainedSpec, item: int) -> EvaluationMemory:
    tokens = spec.batch_size * (spec.prompt_tokens + spec.scored_tokens)
    scored = spec.batch_size * (spec.scored_tokens + 1)
    inner = 2 * config.inner + 2 * config.kv_inner + 3 * config.ffn_hidden
    return EvaluationMemory(
        weights=count_weights(config) * item,
        states=(config.depth + 1) * tokens * config.width * item,
        activations=tokens * (inner + 3 * config.width) * item,
        # As computed, in fp32, and as log-probabilities.
        logits=scored * config.vocabulary * (item + 4 + 4),
    )


def evaluation_flops(config: LlamaConfig, spec: PretrainedSpec, domains: int) -> int:
    """FLOPs of calibrating and scoring a checkpoint under all interventions."""
    window, choosing = spec.prompt_tokens + spec.scored_tokens - 1, 0.0
    written = [each.parsed for each in spec.interventions]
    passes = 1 + sum(_share(each, config.depth) for each in written)
    scored = 1 + len(written)
    macs = spec.documents * domains * passes * _blocks(config, window)
    macs += spec.documents * domains * scored * spec.scored_tokens * _head(config)
    for candidates in _greedy(written, config.depth):
        choosing += candidates * _blocks(config, window)
        choosing += candidates * spec.scored_tokens * _head(config)
    choosing += CALIBRATIONS * _blocks(config, window)
    macs += spec.calibration_documents * domains * choosing
    if spec.tasks is not None:
        texts = {str(each) for each in written}
        under = sum(text in texts for text in spec.tasks_under)
        prompt = round(TOKENS_PER_WORD * spec.tasks.prompt_words)
        choice = round(TOKENS_PER_WORD * CONTINUATION)
        item = _blocks(config, prompt) + _head(config)
        tokens = spec.tasks.choices * choice
        item += _blocks(config, tokens) + tokens * _head(config)
        # The prompt and its control, then the prompt under each intervention.
        macs += len(TASKS) * spec.tasks.items * (2 + under) * item
    return round(2 * macs)


def _blocks(config: LlamaConfig, tokens: int) -> int:
    """Multiply-accumulates of all blocks for a text; attention counts all pairs."""
    d, qkv = config.width, config.inner + 2 * config.kv_inner
    weights = d * (qkv + config.inner) + 3 * d * config.ffn_hidden
    return config.depth * tokens * (weights + 2 * tokens * config.inner)


def _head(config: LlamaConfig) -> int:
    return config.vocabulary * config.width


def _share(intervention: Intervention, depth: int) -> float:
    """The share of the blocks that an intervention computes anew: 1 if not known."""
    skip = intervention.skip
    if intervention.eliminate or skip is None or skip.needs_model:
        return 1.0
    return 1 - min(skip.blocks(depth), default=depth) / depth


def _greedy(written: list[Intervention], depth: int) -> list[int]:
    """How many candidates the searches try, by part: that of the longest."""
    longest: dict[str, Skip] = {}
    for each in written:
        if each.skip and each.skip.rule == "greedy":
            before = longest.get(each.skip.part)
            if before is None or before.k < each.skip.k:
                longest[each.skip.part] = each.skip
    return [sum(depth - j for j in range(skip.k)) for skip in longest.values()]
