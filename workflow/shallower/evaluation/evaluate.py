"""All quality measurements of one run, in one process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from shallower import machine
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation.continuation import Row, continuation_rows
from shallower.evaluation.deploy_check import deploy_errors
from shallower.evaluation.generation import (
    encode_prompt,
    generate_all,
    generate_eliminating,
)
from shallower.evaluation.metrics import corpus_bleu, is_empty, score_pairs
from shallower.evaluation.pairs import pair_rows, span_rows
from shallower.evaluation.perplexity import document_losses
from shallower.files import replacing, write_text
from shallower.models.llama import LlamaLM
from shallower.models.retention import Elimination
from shallower.models.t5 import T5LM
from shallower.models.transforms import deploy, deployed_form
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_model
from shallower.training.spans import label_id

SPLITS = {"text": "test", "validation": "validation"}  # data set -> split of the text
MISMATCHED = ".mismatched"  # suffix of a metric scored against another's reference
COLUMNS = ["dataset", "group", "sample", "metric", "value", "weight"]


def evaluate(
    run: str | Path,
    corpus: str | Path,
    tokens: str | Path,
    tokenizer: str | Path,
    settings: dict[str, Any],
    output: str | Path,
    samples: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Score a trained run on held-out text and on the evaluation sets.

    Writes `output` (Parquet, one row a sample and metric) and `samples` (JSON lines:
    some generated texts). `settings` is the configuration's `evaluation` section with
    `scored_on`, the data sets: `text` is the test split, `validation` the other,
    `continuation` what follows prompts of `prompt_tokens` in the test split.
    """
    torch.set_num_threads(threads)
    pieces, corpus = Tokenizer(tokenizer), Path(corpus)
    model = load_model(run).to(machine.choose_device(device))
    if not isinstance(model, LlamaLM):
        found = encoder_decoder_rows(model, pieces, corpus, Path(tokens), settings)
        table = pd.DataFrame(found, columns=COLUMNS).assign(form="trained")
        write_samples([], 0, samples)
        with replacing(output) as temporary:
            table.to_parquet(temporary, index=False)
        return
    rows, again = held_out_rows(model, corpus, Path(tokens), settings)
    sets = [name for name in EVALUATION_SETS if name in settings["scored_on"]]
    generated, kept = generated_rows(model, pieces, corpus, sets, settings)
    rows += generated
    write_samples(kept, settings["samples_kept"], samples)
    trained = pd.DataFrame(rows, columns=COLUMNS).assign(form="trained")
    form = deployed_form(model.config)
    deployed = pd.DataFrame(again, columns=COLUMNS).assign(form=form)
    table = pd.concat([trained, deployed]) if again else trained
    with replacing(output) as temporary:
        table.to_parquet(temporary, index=False)


def encoder_decoder_rows(
    model: T5LM, pieces: Tokenizer, corpus: Path, tokens: Path, settings: dict[str, Any]
) -> Iterator[Row]:
    """Denoising of the test text, or answers to the test pairs."""
    batch, context = settings["batch_size"], model.config.context
    if "spans" in settings["scored_on"]:
        stream = TokenStream.open(tokens / "test")
        yield from span_rows(model, stream, context, len(pieces), batch)
    if "pairs" in settings["scored_on"]:
        table = pd.read_parquet(corpus / "pairs" / "test.parquet")
        labels = model.config.vocabulary - label_id(len(pieces), 0)
        yield from pair_rows(model, table, pieces, context, labels, batch)


def held_out_rows(
    model: LlamaLM, corpus: Path, tokens: Path, settings: dict[str, Any]
) -> tuple[list[Row], list[Row]]:
    """Rows of the model as trained, and, of test text, folded or collapsed."""
    rows: list[Row] = []
    for name in SPLITS:
        if name in settings["scored_on"]:
            rows += text_rows(model, corpus, tokens, name, settings)
    if "continuation" in settings["scored_on"]:
        rows += continuation_rows(model, tokens / "test", settings)
    form = deployed_form(model.config)
    if form == "trained" or "text" not in settings["scored_on"]:
        return rows, []
    documents = TokenStream.open(tokens / "test").documents()
    kind = {"folded": "fold", "collapsed": "collapse"}[form]
    errors = deploy_errors(model, documents, kind).items()
    rows += [("text", "", kind, metric, error, 1.0) for metric, error in errors]
    return rows, list(text_rows(deploy(model), corpus, tokens, "text", settings))


def text_rows(
    model: LlamaLM, corpus: Path, tokens: Path, name: str, settings: dict[str, Any]
) -> Iterator[Row]:
    """Cross-entropy (nats a token) and bits per byte of documents of a split.

    Of all, or of the first `settings["documents"]`.
    """
    split = SPLITS[name]
    table = pd.read_parquet(corpus / "text" / f"{split}.parquet")
    documents = TokenStream.open(tokens / split).documents()
    if len(documents) != len(table):
        raise UserError(
            f"{tokens}: {len(documents)} documents, but the corpus has {len(table)}"
        )
    table = table[: settings.get("documents")]
    chosen = documents[: settings.get("documents")]
    losses, counts = document_losses(model, chosen, settings["batch_size"])
    for item, nats, count in zip(
        table.to_dict("records"), losses.tolist(), counts.tolist(), strict=True
    ):
        place = (name, item["domain"], item["id"])
        size = len(item["text"].encode())
        yield (*place, "cross_entropy", nats / count, float(count))
        yield (*place, "bits_per_byte", nats / math.log(2) / size, float(size))


def generated_rows(
    model: LlamaLM,
    pieces: Tokenizer,
    corpus: Path,
    sets: list[str],
    settings: dict[str, Any],
    elimination: Elimination | None = None,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Text metrics of what the model makes of evaluation sets, and every sample."""
    rows: list[Row] = []
    kept: list[dict[str, Any]] = []
    for name in sets:
        table = pd.read_parquet(corpus / name / "test.parquet")
        prompts = list(table["prompt"])
        answers = continuations(model, pieces, prompts, settings, elimination)
        texts = [pieces.decode(ids) for ids in answers]
        rows += generation_rows(name, table, texts, [len(ids) for ids in answers])
        for item, text in zip(table.to_dict("records"), texts, strict=True):
            kept.append(item | {"dataset": name, "prediction": text})
    return rows, kept


def continuations(
    model: LlamaLM,
    pieces: Tokenizer,
    prompts: list[str],
    settings: dict[str, Any],
    elimination: Elimination | None = None,
) -> list[list[int]]:
    """Greedy continuations of the prompts, as piece ids."""
    new = settings["new_tokens"]
    room = model.config.context - new
    if room < 2:
        raise UserError(
            f"evaluation.new_tokens: {new} leave no room for a prompt in a context "
            f"of {model.config.context}"
        )
    ids = [encode_prompt(pieces, prompt, room) for prompt in prompts]
    how = (new, pieces.eos, settings["batch_size"])
    if elimination is None:
        return generate_all(model, ids, *how)
    return generate_eliminating(model, ids, *how, elimination)


def generation_rows(
    name: str, table: pd.DataFrame, texts: list[str], lengths: list[int]
) -> Iterator[Row]:
    """Every text metric of every sample; empty outputs score 0 and are counted."""
    references = list(table["reference"])
    scores = score_pairs(texts, references).scores
    # A control: a metric that means something scores these lower.
    wrong = score_pairs(texts, mismatched(references)).scores
    items = table.to_dict("records")
    for item, text, length, metrics, others in zip(
        items, texts, lengths, scores, wrong, strict=True
    ):
        place = (name, item["group"], item["id"])
        for metric, value in metrics.items():
            yield (*place, metric, value, 1.0)
            yield (*place, metric + MISMATCHED, others[metric], 1.0)
        yield (*place, "empty", float(is_empty(text)), 1.0)
        yield (*place, "generated_tokens", float(length), 1.0)
    whole = corpus_bleu(texts, references)
    yield (name, "", "corpus", "corpus_bleu", whole, 1.0)


def mismatched(references: list[str]) -> list[str]:
    """For each item the reference of another, half the set away."""
    half = len(references) // 2
    return references[half:] + references[:half]


def write_samples(kept: list[dict[str, Any]], count: int, path: str | Path) -> None:
    """The first `count` samples of each set, one JSON object a line."""
    taken: dict[str, int] = {}
    lines = []
    for item in kept:
        taken[item["dataset"]] = taken.get(item["dataset"], 0) + 1
        if taken[item["dataset"]] <= count:
            lines.append(json.dumps(item, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n" if lines else "")
