"""floors.csv: what n-grams of a model's training tokens reach on the same test text.

A model whose cross-entropy is above that of a bigram has learnt less than which piece
follows which. Floors use the study's own tokenizer: cross-entropies per token can only
be compared between models with the same one, so checkpoints have none.

Everything is as for models. A floor is of the windows that seed 0 reads, each counted
once however many epochs there are, and an n-gram ends within its window. Documents are
cut into windows of a context, every id but BOS is scored once, and a mean is over
tokens (`cross_entropy.document_losses`); continuations are scored behind their prompt.

For encoder-decoders (`spans`) they are n-grams of what the decoder writes: the text of
the gaps, with sentinels between them and EOS. Such a floor sees nothing of the rest of
the window, which the encoder reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from shallower.evaluation.cross_entropy import read_windows
from shallower.evaluation.encoder_decoder import NOISE_SEED
from shallower.evaluation.ngrams import ORDERS, Ids, NGrams, Targets, targets_of
from shallower.files import write_text
from shallower.models.config import SENTINELS
from shallower.study.runs import FloorsSpec
from shallower.tokens.shards import TokenStream
from shallower.training.batches import Batches
from shallower.training.t5 import PADDING, CorruptedWindows, SpanBatches
from shallower.training.tasks import steps_of

SEED = 0  # whose order of the windows is read
MOST_TOKENS = 20_000_000  # that are counted for one floor: more take gigabytes
SPLITS = {"text": "test", "validation": "validation"}  # data set -> split of the text
COLUMNS = [
    "tokens",  # of training, with repetitions; empty: the whole training split
    "counted_tokens",  # different ones that the counts are of
    "floor",  # uniform, unigram, bigram, trigram
    "dataset",  # text (test), validation, continuation, spans (test)
    "domain",  # empty: all of the data set
    "scored_tokens",
    "cross_entropy",  # nats per token
    "perplexity",
    *("discount", "strength"),  # smoothing of this order, chosen on validation text
    "vocabulary",
    "tokenizer",  # its checksum
]


@dataclass(frozen=True)
class Scored:
    """What a data set's cross-entropy is a mean over."""

    dataset: str
    targets: Targets
    domains: np.ndarray  # of each target, as objects


def write_floors(spec: FloorsSpec, tokens: Path, corpus: Path, output: Path) -> None:
    """Write floors.csv. `tokens` has a folder of shards for each split of the text."""
    train = TokenStream.open(tokens / "train")
    scored = [*documents(spec, tokens, corpus), continuations(spec, tokens)]
    held_out = next(each.targets for each in scored if each.dataset == "validation")
    vocabulary = int(train.manifest["vocabulary"])
    rows = []
    tokenizer = train.manifest["tokenizer_sha256"][:16]
    for windows in [*windows_seen(spec), None]:
        counted = training_windows(train, spec.context, windows)
        model = NGrams.fit(targets_of(counted), held_out, vocabulary)
        seen = None if windows is None else windows * spec.context
        size = sum(len(window) - 1 for window in counted)
        about = {"tokens": seen, "counted_tokens": size, "vocabulary": vocabulary}
        about["tokenizer"] = tokenizer
        rows += [about | row for each in scored for row in rows_of(model, each)]
    for windows in spec.t5_windows_seen:
        model, each, size = gaps(spec, tokens, windows)
        about = {"tokens": windows * spec.t5_context, "counted_tokens": size}
        about |= {"vocabulary": model.vocabulary, "tokenizer": tokenizer}
        rows += [about | row for row in rows_of(model, each)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"tokens": "Int64"})
    write_text(output, table.to_csv(index=False, float_format="%.10g"))


def windows_seen(spec: FloorsSpec) -> list[int]:
    """The different numbers of training windows that models see, ascending."""
    found = {*spec.windows_seen}
    for control in spec.controls:  # how many steps they take is worked out here
        steps = control.first_step + steps_of(control)
        found.add(steps * control.training.batch_size)
    return sorted(found)


def training_windows(
    train: TokenStream, context: int, windows: int | None
) -> list[Ids]:
    """Windows of context + 1 tokens in the order of seed 0, each once.

    None stands for all, as one window. At most MOST_TOKENS tokens are read.
    """
    if windows is None:
        return [train.read(0, min(len(train), MOST_TOKENS + 1))]
    every = Batches(train, context, 1, SEED).windows
    count = min(windows, every, MOST_TOKENS // context)
    inputs, targets = Batches(train, context, count, SEED)(0)
    return list(torch.cat([inputs, targets[:, -1:]], dim=1).numpy())


def documents(spec: FloorsSpec, tokens: Path, corpus: Path) -> Iterator[Scored]:
    """Test and validation documents, cut as models read them."""
    for dataset, split in SPLITS.items():
        stream = TokenStream.open(tokens / split).documents()[: spec.documents]
        table = pd.read_parquet(corpus / "text" / f"{split}.parquet")
        domains = table["domain"].to_numpy(object)[: spec.documents]
        windows = [
            document[start : start + spec.context + 1]
            for document in stream
            for start in range(0, len(document) - 1, spec.context)
        ]
        lengths = [len(document) - 1 for document in stream]
        yield Scored(dataset, targets_of(windows), np.repeat(domains, lengths))


def continuations(spec: FloorsSpec, tokens: Path) -> Scored:
    """What follows the prompts of the first windows of the test text."""
    windows = read_windows(tokens / "test", spec.context, spec.windows).numpy()
    targets = targets_of(windows, first=spec.prompt_tokens)
    return Scored("continuation", targets, np.full(len(targets), "", object))


def gaps(spec: FloorsSpec, tokens: Path, windows: int) -> tuple[NGrams, Scored, int]:
    """N-grams of the gaps of the first corrupted training windows, in order of seed 0.

    With the gaps of all test windows, and how many labels were counted.
    """
    streams = [
        TokenStream.open(tokens / each) for each in ("train", "validation", "test")
    ]
    pieces, context = int(streams[0].manifest["vocabulary"]), spec.t5_context
    most = min(windows, MOST_TOKENS // context)
    batches = SpanBatches(streams[0], context, most, SEED, pieces)
    found = [batches(0)[1]]
    for stream in streams[1:]:
        held_out = CorruptedWindows(stream, context, NOISE_SEED, pieces)
        found.append(held_out([(each, each) for each in range(len(held_out))])[1])
    # The decoder begins with padding, and writes its first label after that.
    training, validation, test = (
        targets_of(F.pad(labels, (1, 0), value=PADDING).numpy()) for labels in found
    )
    model = NGrams.fit(training, validation, pieces + SENTINELS)
    domains = np.full(len(test), "", object)
    return model, Scored("spans", test, domains), len(training)


def rows_of(model: NGrams, scored: Scored) -> Iterator[dict[str, Any]]:
    """Rows of one data set: all of it, and each of its domains."""
    losses = {"uniform": np.full(len(scored.targets), np.log(model.vocabulary))}
    losses |= model.losses(scored.targets)
    for domain in ["", *dict.fromkeys(domain for domain in scored.domains if domain)]:
        chosen = (scored.domains == domain) | (domain == "")
        for floor, nats in losses.items():
            mean = float(nats[chosen].mean())
            row = {"floor": floor, "dataset": scored.dataset, "domain": domain}
            row |= {"scored_tokens": int(chosen.sum()), "cross_entropy": mean}
            row["perplexity"] = float(np.exp(mean))
            if floor in ORDERS:
                smoothing = model.smoothing[ORDERS.index(floor)]
                row["discount"] = smoothing.discount
                row["strength"] = smoothing.strength
            yield row
