"""What a run is trained on: text, corrupted text, or labelled pairs of sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.files import sha256
from shallower.models.arithmetic import BACKWARD, forward_flops
from shallower.models.counting import count_flops, count_flops_per_token
from shallower.models.families import T5, Config, LanguageModel, on_meta, parse
from shallower.models.llama import LlamaLM
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
    mark: Any  # what the data are known by, as JSON


def open_data(spec: dict[str, Any], sources: Sources, part: tuple[int, int]) -> Data:
    """The batches of a run, behind those that its parent has seen (`first_step`).

    Raises UserError for data that do not fit the model.
    """
    data, before = _from_the_first(spec, sources, part), spec.get("first_step", 0)
    return replace(data, read=lambda step: data.read(before + step))


def _from_the_first(
    spec: dict[str, Any], sources: Sources, part: tuple[int, int]
) -> Data:
    context, task = spec["model"]["context"], spec.get("task", "text")
    how = (context, spec["training"]["batch_size"], spec["seed"])
    if task == "pairs":
        import pandas as pd

        from shallower.tokens.tokenizer import Tokenizer

        if sources.pairs is None or sources.tokenizer is None:
            raise UserError("--pairs and --tokenizer: needed for the task pairs")
        table = pd.read_parquet(sources.pairs)
        read = PairBatches(table, Tokenizer(sources.tokenizer), *how, part)
        mark = [sha256(sources.pairs), sha256(sources.tokenizer)]
        return Data(read, len(table), context, mark)
    stream = TokenStream.open(sources.tokens)
    pieces = stream.manifest["vocabulary"]
    due = spec["model"].get("pieces", spec["model"]["vocabulary"])
    if pieces != due:
        raise UserError(
            f"{sources.tokens}: shards of {pieces} pieces, but the model has {due}"
        )
    if task == "spans":
        spans = SpanBatches(stream, *how, pieces, part)
        return Data(spans, len(spans.windows), context, stream.manifest)
    batches = Batches(stream, *how, part)
    return Data(batches, batches.windows, context, stream.manifest)


def forward_flops_of(spec: dict[str, Any]) -> int:
    """FLOPs of a forward pass for each token of the inputs, by family and task.

    Of an encoder-decoder counted on the meta device, its decoder's tokens included.
    """
    if spec["model"].get("family") != T5:
        return forward_flops(spec["model"])
    return count_forward(on_meta(parse(spec["model"])), spec.get("task", "text"))


def count_forward(model: LanguageModel, task: str) -> int:
    """FLOPs of a forward pass for each token of a full context, counted."""
    if isinstance(model, LlamaLM):
        return count_flops_per_token(model)
    lengths = (model.config.context, targets(model.config, task))
    shapes = [torch.zeros(1, n, dtype=torch.long, device="meta") for n in lengths]
    return count_flops(model, *shapes) // model.config.context


def targets(config: Config, task: str) -> int:
    """Tokens of a row that the loss is of: an answer, what was cut out, or the text."""
    if task == "pairs":
        return ANSWER
    return span_lengths(config.context)[2] if task == "spans" else config.context


def training_flops_of(spec: dict[str, Any], teacher: dict[str, Any] | None) -> int:
    """FLOPs of training for each token of the inputs; a teacher's forward counted.

    Of a tuned run an upper bound, as if nothing were eliminated and all tokens had
    logits. Its calibration, a few forward passes, is not counted.
    """
    own = (1 + BACKWARD) * forward_flops_of(spec)
    return own + (forward_flops_of(spec | {"model": teacher}) if teacher else 0)
