"""An encoder-decoder's answers to pairs of sentences, and its denoising loss (Lee).

A model here is whatever gives logits (batch, T, vocabulary) for encoder inputs
(batch, S) and labels (batch, T), both int64, padded with 0; it shifts the labels itself
and is in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from shallower.evaluation.pairs import answer_rows
from shallower.evaluation.table import Row
from shallower.models.t5 import T5LM
from shallower.study.runs import EvaluationSpec
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.t5 import CorruptedWindows, encode_pairs, label_id

SPANS = {"spans": "test", "validation": "validation"}  # data set -> split of the text
NOISE_SEED = 0  # the same noise for every model and seed: differences are paired


def encoder_decoder_rows(
    model: T5LM, spec: EvaluationSpec, corpus: Path, tokens: Path, tokenizer: Tokenizer
) -> Iterator[Row]:
    """Denoising of the test or validation text, or answers to the test pairs."""
    pieces, context, batch = len(tokenizer), model.config.context, spec.batch_size
    for dataset, split in SPANS.items():
        if dataset in spec.scored_on:
            stream = TokenStream.open(tokens / split)
            yield from span_rows(model, dataset, stream, context, pieces, batch)
    if "pairs" in spec.scored_on:
        table = pd.read_parquet(corpus / "pairs" / "test.parquet")
        labels = model.config.vocabulary - label_id(pieces, 0)
        yield from pair_rows(model, table, tokenizer, context, labels, batch)


def pair_rows(
    model: nn.Module,
    table: pd.DataFrame,
    tokenizer: Tokenizer,
    context: int,
    labels: int,
    batch_size: int,
) -> Iterator[Row]:
    """Accuracy and cross-entropy (nats) of a model's answer to every pair of a table.

    Only the labels' ids are compared, at the decoder's first position; the
    cross-entropy is of the distribution over them alone, as a classifier's is.
    """
    scores = label_scores(model, table, tokenizer, context, labels, batch_size)
    return answer_rows(table, log_softmax(scores, axis=1))


@torch.inference_mode()
def label_scores(
    model: nn.Module,
    table: pd.DataFrame,
    tokenizer: Tokenizer,
    context: int,
    labels: int,
    batch_size: int,
) -> np.ndarray:
    """Logits (pairs, labels) of the labels' ids at the decoder's first position."""
    pieces, device = len(tokenizer), _device(model)
    # The first position does not see this label, so it gives nothing away.
    start = torch.full((batch_size, 1), tokenizer.eos, device=device)
    scores = [np.empty((0, labels))]
    for first in range(0, len(table), batch_size):
        some = table[first : first + batch_size]
        sides = list(some["first"]), list(some["second"])
        inputs = encode_pairs(tokenizer, *sides, context).to(device)
        logits = model(inputs, start[: len(some)])[:, 0]
        answers = logits[:, label_id(pieces, 0) : label_id(pieces, labels)]
        scores.append(answers.double().cpu().numpy())
    return np.concatenate(scores)


@torch.inference_mode()
def span_rows(
    model: nn.Module,
    dataset: str,
    stream: TokenStream,
    context: int,
    pieces: int,
    batch_size: int,
    seed: int = NOISE_SEED,
) -> Iterator[Row]:
    """Denoising cross-entropy (nats a label) of every whole window of a stream.

    The sample is the window's number, the weight its labels: noise, sentinels and EOS.
    """
    windows, device = CorruptedWindows(stream, context, seed, pieces), _device(model)
    for first in range(0, len(windows), batch_size):
        chosen = range(first, min(first + batch_size, len(windows)))
        inputs, labels = windows([(window, window) for window in chosen])
        labels = labels.to(device)
        logits = model(inputs.to(device), labels).float()
        nats = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        means = nats.double().mean(dim=1).tolist()
        for window, mean in zip(chosen, means, strict=True):
            weight = float(labels.shape[1])
            yield Row(dataset, "", str(window), "cross_entropy", mean, weight)


def _device(model: nn.Module) -> torch.device:
    """Where a model's parameters are; one without any is on the CPU."""
    return next((each.device for each in model.parameters()), torch.device("cpu"))
