"""All quality measurements of a run and of the interventions on it, in one process."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shallower import machine
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation.choices import (
    NO_INTERVENTIONS,
    calibrate,
    choose,
    description,
)
from shallower.evaluation.cross_entropy import (
    continuation_rows,
    document_losses,
    read_windows,
)
from shallower.evaluation.encoder_decoder import encoder_decoder_rows
from shallower.evaluation.generation import encode_prompt, generate_all
from shallower.evaluation.metrics import corpus_bleu, is_empty, score_pairs
from shallower.evaluation.table import Part, Row, table_of, write_table
from shallower.evaluation.units import MISMATCHED
from shallower.files import write_json, write_text
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.eliminate import Elimination
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.transforms import deploy, deployed_form
from shallower.study.runs import EvaluationSpec
from shallower.tokens.shards import TokenStream
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_model

SPLITS = {"text": "test", "validation": "validation"}  # data set -> split of the text
Sample = dict[str, str]  # id, prompt, reference, group, dataset, prediction


@dataclass(frozen=True)
class Texts:
    """What models are scored on, and how."""

    spec: EvaluationSpec
    corpus: Path
    tokens: Path  # with a folder of shards for each split
    tokenizer: Tokenizer
    threads: int = 1  # and processes of the text metrics


def evaluate(
    texts: Texts,
    run: Path,
    output: Path,
    samples: Path,
    interventions: Path,
    device: str = "auto",
) -> None:
    """Score a trained run, and every intervention on it, on held-out text.

    `run` is the run's folder. Writes
    `output` (Parquet, a row per intervention, form, sample and metric), `samples` (JSON
    lines: the first texts that the run itself generated) and `interventions` (JSON:
    what each one chose, by which measurements, and what it saves). Raises UserError for
    an intervention that is not possible.
    """
    torch.set_num_threads(texts.threads)
    spec = texts.spec
    model = load_model(run).to(machine.choose_device(device))
    generated: list[Sample] = []
    chosen = NO_INTERVENTIONS
    if isinstance(model, LlamaLM):
        choices: dict[str, Choice] = {}
        if spec.interventions:
            # All are chosen before the first is scored: a wrong one costs no time.
            written = [each.parsed for each in spec.interventions]
            measured = calibrate(model, run, texts.tokens, written, spec)
            choices = {str(i): choose(model, i, measured, spec) for i in written}
            chosen = description(model, measured, choices, spec)
        parts, generated = run_parts(model, texts)
        parts += [
            intervention_part(model, text, choice, texts)
            for text, choice in choices.items()
        ]
    else:
        folders = texts.corpus, texts.tokens
        rows = encoder_decoder_rows(model, spec, *folders, texts.tokenizer)
        parts = [Part("", "trained", list(rows))]
    write_samples(generated, spec.samples_kept, samples)
    write_json(interventions, {"model": spec.name, "seed": spec.seed} | chosen)
    write_table(table_of(parts), output)


# --- one model ------------------------------------------------------------------------


def run_parts(model: LlamaLM, texts: Texts) -> tuple[list[Part], list[Sample]]:
    """Rows of a run as trained and, of the test text, as deployed; generated texts."""
    rows: list[Row] = []
    for name in SPLITS:
        if name in texts.spec.scored_on:
            rows += text_rows(model, texts, name)
    if "continuation" in texts.spec.scored_on:
        rows += continuations_of_test(model, texts)
    parts = []
    form = deployed_form(model.config)
    if form != "trained" and "text" in texts.spec.scored_on:
        documents = TokenStream.open(texts.tokens / "test").documents()
        kind = {"folded": "fold", "collapsed": "collapse"}[form]
        errors = deploy_errors(model, documents, kind).items()
        rows += [Row("text", "", kind, metric, error, 1.0) for metric, error in errors]
        parts = [Part("", form, list(text_rows(deploy(model), texts, "text")))]
    sets = [name for name in EVALUATION_SETS if name in texts.spec.scored_on]
    scored, generated = generated_rows(model, texts, sets)
    return [Part("", "trained", rows + scored), *parts], generated


def intervention_part(model: LlamaLM, text: str, choice: Choice, texts: Texts) -> Part:
    """Rows of a run under an intervention: continuations and `intervention_sets`."""
    network, elimination = apply(model, choice), choice.elimination
    if elimination is not None and elimination.alpha == 0:
        elimination = None  # nothing is eliminated: exactly the run's own numbers
    rows = list(continuations_of_test(network, texts, elimination))
    sets = texts.spec.intervention_sets
    scored, _ = generated_rows(network, texts, sets, elimination)
    return Part(text, "trained", rows + scored)


# --- cross-entropy --------------------------------------------------------------------


def continuations_of_test(
    model: LlamaLM, texts: Texts, elimination: Elimination | None = None
) -> Iterator[Row]:
    """What follows the prompts of the first windows of the test text."""
    spec, context = texts.spec, model.config.context
    windows = read_windows(texts.tokens / "test", context, spec.windows)
    sizes = spec.prompt_tokens, spec.batch_size
    return continuation_rows(model, windows, *sizes, elimination)


def text_rows(model: LlamaLM, texts: Texts, name: str) -> Iterator[Row]:
    """Cross-entropy (nats per token) and bits per byte of documents of a split.

    Of all documents, or of the first `documents` of the specification.
    """
    split = SPLITS[name]
    table = pd.read_parquet(texts.corpus / "text" / f"{split}.parquet")
    documents = TokenStream.open(texts.tokens / split).documents()
    if len(documents) != len(table):
        raise UserError(
            f"{texts.tokens / split}: {len(documents)} documents, but the corpus has "
            f"{len(table)}"
        )
    table, documents = table[: texts.spec.documents], documents[: texts.spec.documents]
    losses, counts = document_losses(model, documents, texts.spec.batch_size)
    for item, nats, count in zip(
        table.to_dict("records"), losses.tolist(), counts.tolist(), strict=True
    ):
        place = (name, item["domain"], item["id"])
        size = len(item["text"].encode())
        yield Row(*place, "cross_entropy", nats / count, float(count))
        yield Row(*place, "bits_per_byte", nats / math.log(2) / size, float(size))


# --- generated text -------------------------------------------------------------------


def generated_rows(
    model: LlamaLM,
    texts: Texts,
    sets: list[str],
    elimination: Elimination | None = None,
) -> tuple[list[Row], list[Sample]]:
    """Text metrics of a model's greedy answers to evaluation sets, and all answers."""
    rows: list[Row] = []
    samples: list[Sample] = []
    for name in sets:
        table = pd.read_parquet(texts.corpus / name / "test.parquet")
        answers = continuations(model, texts, list(table["prompt"]), elimination)
        predictions = [texts.tokenizer.decode(ids) for ids in answers]
        lengths = [len(ids) for ids in answers]
        rows += metric_rows(name, table, predictions, lengths, texts.threads)
        samples += [
            item | {"dataset": name, "prediction": prediction}
            for item, prediction in zip(
                table.to_dict("records"), predictions, strict=True
            )
        ]
    return rows, samples


def continuations(
    model: LlamaLM,
    texts: Texts,
    prompts: list[str],
    elimination: Elimination | None = None,
) -> list[list[int]]:
    """Greedy continuations of the prompts, as piece ids."""
    new, pieces = texts.spec.new_tokens, texts.tokenizer
    room = model.config.context - new
    if room < 2:
        raise UserError(
            f"evaluation.new_tokens: {new} leave no room for a prompt in a context "
            f"of {model.config.context}"
        )
    ids = [encode_prompt(pieces, prompt, room) for prompt in prompts]
    sizes = new, pieces.eos, texts.spec.batch_size
    return generate_all(model, ids, *sizes, elimination)


def metric_rows(
    name: str,
    table: pd.DataFrame,
    predictions: list[str],
    lengths: list[int],
    processes: int = 1,
) -> Iterator[Row]:
    """Every text metric of every sample; empty predictions score 0 and are counted."""
    references = list(table["reference"])
    # A control: a metric that means something scores another item's reference lower.
    half = len(references) // 2
    mismatched = references[half:] + references[:half]
    scores = score_pairs(predictions * 2, references + mismatched, processes)
    items = table.to_dict("records")
    for number, (item, prediction) in enumerate(zip(items, predictions, strict=True)):
        place = (name, item["group"], item["id"])
        control = scores[len(items) + number]
        for metric, value in scores[number].items():
            yield Row(*place, metric, value, 1.0)
            yield Row(*place, metric + MISMATCHED, control[metric], 1.0)
        yield Row(*place, "empty", float(is_empty(prediction)), 1.0)
        yield Row(*place, "generated_tokens", float(lengths[number]), 1.0)
    bleu = corpus_bleu(predictions, references)
    yield Row(name, "", "corpus", "corpus_bleu", bleu, 1.0)


def write_samples(samples: list[Sample], count: int, path: Path) -> None:
    """The first `count` samples of each set, one JSON object a line."""
    taken: dict[str, int] = {}
    lines = []
    for item in samples:
        taken[item["dataset"]] = taken.get(item["dataset"], 0) + 1
        if taken[item["dataset"]] <= count:
            lines.append(json.dumps(item, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n" if lines else "")


# --- deployed forms -------------------------------------------------------------------


SEQUENCES = 4  # documents that are compared


@torch.inference_mode()
def deploy_errors(
    model: LlamaLM, documents: list[np.ndarray], kind: str
) -> dict[str, float]:
    """Largest difference of a logit, over the whole-sequence and the cached path.

    `<kind>_error_float64` in logits, with the model and its deployed form in fp64;
    `<kind>_error_float32` relative to the largest logit, both in fp32. `kind` is
    fold or collapse.
    """
    context = model.config.context
    chosen = [ids[:context] for ids in documents if len(ids) >= 4][:SEQUENCES]
    device = model.embedding.weight.device
    errors = {f"{kind}_error_float64": 0.0, f"{kind}_error_float32": 0.0}
    for dtype in (torch.float64, torch.float32):
        plain = copy.deepcopy(model).to(dtype)
        deployed = deploy(plain)
        for ids in chosen:
            tokens = torch.from_numpy(ids.astype(np.int64))[None].to(device)
            expected = plain(tokens)
            for logits in (deployed(tokens), cached(deployed, tokens)):
                error = (logits - expected).abs().max().item()
                scale = expected.abs().max().item() if dtype == torch.float32 else 1.0
                name = f"{kind}_error_{str(dtype).removeprefix('torch.')}"
                errors[name] = max(errors[name], error / scale)
    return errors


def cached(model: LlamaLM, tokens: Tensor) -> Tensor:
    """Logits of (batch, tokens) by prefilling half and then token by token."""
    cache = KeyValueCache(model, *tokens.shape)
    half = tokens.shape[1] // 2
    parts = [model(tokens[:, :half], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(half, tokens.shape[1])]
    return torch.cat(parts, dim=1)
