"""Scoring 10,000 pairs of texts, against a plain loop over the three packages."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp
from thefuzz import fuzz

from benchmarks.harness import Row, alternate, seconds
from shallower.evaluation import metrics

PAIRS = 10_000
TEXTS = Path("results/default/corpus/text/train.parquet")
Texts = list[str]


def realistic_pairs(count: int, texts: pd.Series) -> tuple[Texts, Texts]:
    """Predictions and references: a third each corrupted, cut short, unrelated."""
    draw = random.Random(0)
    found = (part for text in texts for part in re.split(r"(?<=[.!?])\s+", text))
    sentences = [s for s in found if 5 <= len(s.split()) <= 40]
    references = draw.sample(sentences, count)
    others = draw.sample(sentences, count)
    predictions = []
    kinds = draw.choices(("corrupted", "cut", "other"), k=count)
    for kind, reference, other in zip(kinds, references, others, strict=True):
        words, strange = reference.split(), other.split()
        if kind == "corrupted":
            words = [draw.choice((*[w] * 3, draw.choice(strange))) for w in words]
        elif kind == "cut":
            words = words[: len(words) // 2] + strange[: len(words) // 2]
        predictions.append(other if kind == "other" else " ".join(words))
    return predictions, references


def plain_loop(predictions: Texts, references: Texts) -> list[dict[str, float]]:
    """What a user of the packages writes."""
    bleus = [
        BLEU(max_ngram_order=order, smooth_method="exp", effective_order=True)
        for order in range(1, 5)
    ]
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        row = {
            f"bleu{n}": min(bleu.sentence_score(prediction, [reference]).score / 100, 1)
            for n, bleu in enumerate(bleus, start=1)
        }
        scores = rouge.score(reference, prediction)
        row |= {name: score.fmeasure for name, score in scores.items()}
        rows.append(row | {"fuzzy": fuzz.ratio(prediction, reference)})
    return rows


def run() -> list[Row]:
    if not Path(TEXTS).is_file():  # the default study's text, made in seconds
        subprocess.run(
            ["snakemake", "--cores", "1", "--quiet", "--", TEXTS], check=True
        )
    pairs = realistic_pairs(PAIRS, pd.read_parquet(TEXTS)["text"])
    if metrics.score_pairs(*pairs) != plain_loop(*pairs):
        raise AssertionError("the packages give other values")

    def timed(call: Callable[..., object]) -> float:
        # sacrebleu remembers tokenised texts; no arm may live on an earlier one's.
        Tokenizer13a.__call__.cache_clear()
        TokenizerRegexp.__call__.cache_clear()
        return seconds(lambda: call(*pairs))

    arms = {
        "shallower": lambda: timed(metrics.score_pairs),
        "plain loop": lambda: timed(plain_loop),
    }
    return alternate("metrics", "10,000 pairs", arms, repeats=5, unit="s", warmups=0)
