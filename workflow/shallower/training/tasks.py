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
from shallower.training.pairs import PairBatches
from shallower.training.spans import SpanBatches, span_lengths

ANSWER = 2  # a label and EOS


@dataclass(frozen=True)
class Sources:
    """Where a run finds what it is trained on and what it begins with."""

    tokens: Path  # shards of the training text
    pairs: Path | None = None  # training pairs, Parquet
    tokenizer: Path | None = None  # for the pairs
    parent: Path | None = None  # the run whose weights it begins with
    teacher: Path | None = None  # the run whose logits it learns


@dataclass(frozen=True)
class Data:
    """Batches by step, with what is counted of them."""

    read: Callable[[int], tuple[Tensor, Tensor]]
    items: int  # windows or pairs in an epoch
    context: int  # tokens that a row of inputs has room for
    fingerprint: Any  # what identifies the data, as JSON


def open_data(spec: RunSpec, sources: Sources, part: tuple[int, int]) -> Data:
    """The batches of a run, after those that its parent has seen (`first_step`).

    Raises UserError for data that do not fit the model.
    """
    data, before = _from_the_first(spec, sources, part), spec.first_step
    return replace(data, read=lambda step: data.read(before + step))


def _from_the_first(spec: RunSpec, sources: Sources, part: tuple[int, int]) -> Data:
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
    """Tokens of a row that the loss is of: an answer, the noise spans, or the text."""
    if task == "pairs":
        return ANSWER
    return span_lengths(config.context)[2] if task == "spans" else config.context


def flops_per_token(spec: RunSpec, teacher: ModelConfig | None = None) -> int:
    """FLOPs of training per token of the inputs, with a teacher's forward pass.

    For a run with elimination an upper bound, as if nothing were eliminated and all
    tokens had logits. Its calibration, a few forward passes, is not counted.
    """
    return training_flops(spec.model, targets(spec.model, spec.task), teacher)


def steps_of(spec: RunSpec) -> int:
    """Steps of a run; an equal-FLOPs control has more than its settings say.

    As many more as the forward passes of the teacher that it does without would cost.
    """
    if spec.equal_flops is None:
        return spec.training.steps
    taught = flops_per_token(spec, spec.equal_flops)
    return round(spec.training.steps * taught / flops_per_token(spec))
