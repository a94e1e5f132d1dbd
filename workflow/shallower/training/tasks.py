"""What a run is trained on: text, corrupted text, or labelled pairs of sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from shallower.errors import UserError
from shallower.files import sha256
from shallower.models.config import ModelConfig
from shallower.models.costs import training_flops
from shallower.study.runs import RunSpec, Task
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.t5 import PairBatches, SpanBatches, span_lengths

ANSWER = 2  # a label and EOS


@dataclass(frozen=True)
class Sources:
    """Where a run finds its data, its parent and its teacher."""

    tokens: Path  # folder of the training text's shards
    pairs: Path | None = None  # training pairs, Parquet
    tokenizer: Path | None = None  # for the pairs
    parent: Path | None = None  # folder of the run that it continues
    teacher: Path | None = None  # folder of the run whose logits it learns


@dataclass(frozen=True)
class Data:
    """Batches by step, and what describes them."""

    read: Callable[[int], tuple[Tensor, Tensor]]
    items: int  # windows or pairs in an epoch
    context: int  # tokens that a row of inputs has room for
    fingerprint: Any  # what identifies the data, as JSON


def open_data(spec: RunSpec, sources: Sources, part: tuple[int, int]) -> Data:
    """The batches of a run, from `first_step` on: behind those its parent has seen.

    `part` (i, n) is the i-th of n equal parts of each batch. Raises UserError for
    data that do not fit the model.
    """
    data = _all_batches(spec, sources, part)
    return replace(data, read=lambda step: data.read(spec.first_step + step))


def _all_batches(spec: RunSpec, sources: Sources, part: tuple[int, int]) -> Data:
    context = spec.model.context
    how = (context, spec.training.batch_size, spec.seed)
    if spec.task == "pairs":
        import pandas as pd

        from shallower.tokens.tokenizer import Tokenizer

        if sources.pairs is None or sources.tokenizer is None:
            raise UserError("--pairs and --tokenizer: needed for the task pairs")
        table = pd.read_parquet(sources.pairs)
        read = PairBatches(table, Tokenizer(sources.tokenizer), *how, part)
        checksums = [sha256(sources.pairs), sha256(sources.tokenizer)]
        return Data(read, len(table), context, checksums)
    stream = TokenStream.open(sources.tokens)
    pieces = stream.manifest["vocabulary"]
    if pieces != spec.pieces:
        raise UserError(
            f"{sources.tokens}: shards of {pieces} pieces, but the model has "
            f"{spec.pieces}"
        )
    if spec.task == "spans":
        spans = SpanBatches(stream, *how, pieces, part)
        return Data(spans, len(spans.windows), context, stream.manifest)
    batches = Batches(stream, *how, part)
    return Data(batches, batches.windows, context, stream.manifest)


def targets(config: ModelConfig, task: Task) -> int:
    """Tokens of a row that have a loss: an answer, the noise spans, or the text."""
    if task == "pairs":
        return ANSWER
    return span_lengths(config.context)[2] if task == "spans" else config.context


def flops_per_token(spec: RunSpec, teacher: ModelConfig | None = None) -> int:
    """FLOPs of training per token of the inputs, with a teacher's forward pass.

    For a run with elimination this is an upper bound, as if nothing were eliminated and
    all tokens had logits. Its calibration, a few forward passes, is not counted.
    """
    return training_flops(spec.model, targets(spec.model, spec.task), teacher)


def steps_of(spec: RunSpec) -> int:
    """Steps of a run: those of its settings, or more for an equal-FLOPs control.

    A control takes as many FLOPs as training with the teacher's forward pass, which it
    does not have, rounded to a full step.
    """
    if spec.equal_flops is None:
        return spec.training.steps
    taught = flops_per_token(spec, spec.equal_flops)
    return round(spec.training.steps * taught / flops_per_token(spec))
