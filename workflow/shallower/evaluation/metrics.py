"""How close a generated text is to its reference: BLEU, ROUGE and string similarity.

Definitions, options and the comparison with the original paper's code (TRACE) are
in `docs/metrics.md`. Cross-entropy and perplexity are not computed here.

Tokens and formulas are the packages' own; what tokens two texts share is counted here
(`matching.py`), and tests compare every value with the packages'. Importing this module
is cheap: they are imported when the first pair is scored, and each metric object is
built once a process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from shallower.errors import UserError
from shallower.evaluation.matching import (
    longest_common_subsequence,
    ngram_count,
    shared_ngrams,
)

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

_BLEU_ORDERS = {"bleu1": 1, "bleu2": 2, "bleu3": 3, "bleu4": 4}
_ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")

METRICS: tuple[str, ...] = (*_BLEU_ORDERS, *_ROUGE_TYPES, "fuzzy")
"""The metrics of one pair, in the order in which tables show them."""

UNITS: Mapping[str, str] = MappingProxyType(
    {name: "percent" if name == "fuzzy" else "ratio" for name in METRICS}
)
"""Unit of each metric: `ratio` is 0 to 1, `percent` is 0 to 100."""


class PairScores(NamedTuple):
    """The scores of many pairs, and how many of the predictions held no word."""

    scores: list[dict[str, float]]
    """One dictionary a pair, in the order given, with the keys `METRICS`."""
    empty_predictions: int
    """How many predictions `is_empty`; their scores, all 0, are in `scores` too."""


def is_empty(text: str) -> bool:
    """Whether `text` holds no letter and no digit of any script.

    True of "", white space, punctuation, symbols and undecodable bytes (U+FFFD).
    """
    return not any(character.isalnum() for character in text)


def score_pair(prediction: str, reference: str) -> dict[str, float]:
    """Every metric of one generated text against its one reference.

    BLEU and ROUGE are ratios 0 to 1, `fuzzy` is a whole number 0 to 100 (`UNITS`).
    All are 0 if the prediction or the reference `is_empty`: "..." is no answer,
    although as a string it may be like the reference.

    Raises UserError if either is not a string.
    """
    _check_text(prediction, "prediction")
    _check_text(reference, "reference")
    if is_empty(prediction) or is_empty(reference):
        return dict.fromkeys(METRICS, 0.0)
    return {
        **_bleu(prediction, reference),
        **_rouge(prediction, reference),
        "fuzzy": _fuzzy(prediction, reference),
    }


def score_pairs(predictions: Sequence[str], references: Sequence[str]) -> PairScores:
    """`score_pair` of each prediction and the reference at the same place.

    Raises UserError if the two differ in length or hold anything but strings.
    """
    _check_texts(predictions, references)
    scores = [
        score_pair(prediction, reference)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return PairScores(scores, sum(map(is_empty, predictions)))


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of all pairs taken as one text: a ratio 0 to 1.

    N-grams are counted over all pairs before precisions are taken (sacrebleu's
    defaults: exponential smoothing, no effective order), so smoothing weighs far less
    than in a mean of sentences' BLEU-4, and a floor shows. It is 0 if no token matches
    anywhere or no prediction has four tokens.

    Texts that are empty count as having no tokens, so an empty prediction still
    costs its reference's length in the brevity penalty.

    Raises UserError if the two differ in length, hold anything but strings, or are
    empty lists.
    """
    _check_texts(predictions, references)
    if len(predictions) == 0:  # also true of an empty array, which has no truth value
        raise UserError("corpus BLEU: found no pairs, expected at least one")
    blanked = [
        ["" if is_empty(text) else text for text in texts]
        for texts in (predictions, references)
    ]
    score = _corpus_metric().corpus_score(blanked[0], [blanked[1]]).score
    return _ratio(score)


def signature() -> str:
    """What the scores were made with: sacrebleu's signatures, options, versions."""
    return "; ".join(
        (
            f"BLEU-1 to 4: {_sentence_metric().get_signature()}",
            f"corpus BLEU-4: {_corpus_metric().get_signature()}",
            f"ROUGE-1, 2, L: F1, no stemming, rouge-score {version('rouge-score')}",
            # thefuzz only rounds; the number is rapidfuzz's.
            f"fuzzy: ratio, thefuzz {version('thefuzz')}, "
            f"rapidfuzz {version('rapidfuzz')}",
        )
    )


def _bleu(prediction: str, reference: str) -> dict[str, float]:
    """Sentence BLEU-1 to BLEU-4, ratios 0 to 1."""
    metric, longest = _sentence_metric(), max(_BLEU_ORDERS.values())
    found, due = _bleu_tokens(prediction), _bleu_tokens(reference)
    # The counts of BLEU-4 contain those of the lower orders.
    correct = shared_ngrams(found, due, longest)
    total = [ngram_count(found, n) for n in range(1, longest + 1)]
    return {
        name: _ratio(
            metric.compute_bleu(
                correct=correct[:order],
                total=total[:order],
                sys_len=len(found),
                ref_len=len(due),
                smooth_method=metric.smooth_method,
                smooth_value=metric.smooth_value,
                effective_order=metric.effective_order,
                max_ngram_order=order,
            ).score
        )
        for name, order in _BLEU_ORDERS.items()
    }


def _bleu_tokens(text: str) -> list[str]:
    """What sacrebleu's tokenizer makes of `text`, in less time.

    The tokenizer puts spaces around punctuation, looking no further than the next
    character, so the words between spaces can be handed to it one by one. It remembers
    them, and most words come often; plain ones it would leave as they are.
    """
    tokenize = _sentence_metric().tokenizer
    words = text.rstrip().split(" ")
    cut = [word if word.isalnum() else tokenize(word) for word in words]
    return " ".join(cut).split()


def _rouge(prediction: str, reference: str) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1, ratios 0 to 1.

    rouge-score's tokenizer and F1. Its scorer fills a table in Python for ROUGE-L, and
    importing it takes longer than scoring a study's samples.
    """
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenize import tokenize

    # No stemming: it is rouge-score's default, and TRACE's package has none.
    found, due = tokenize(prediction, None), tokenize(reference, None)
    ones, twos = shared_ngrams(found, due, 2)
    common = longest_common_subsequence(found, due)
    scores = {}
    counted = ((ones, 1), (twos, 2), (common, 1))  # matches, length of the n-grams
    for name, (matches, n) in zip(_ROUGE_TYPES, counted, strict=True):
        precision = matches / max(ngram_count(found, n), 1)
        recall = matches / max(ngram_count(due, n), 1)
        scores[name] = float(fmeasure(precision, recall))
    return scores


def _fuzzy(prediction: str, reference: str) -> float:
    """Similarity of the raw strings from insertions and deletions, 0 to 100."""
    from thefuzz import fuzz

    return float(fuzz.ratio(prediction, reference))


@functools.cache
def _sentence_metric() -> BLEU:
    from sacrebleu.metrics import BLEU

    # Short answers are common here. Without the effective order, a right answer of
    # fewer than four tokens would have BLEU-4 0; with it, orders that the prediction
    # is too short to have are left out. Exponential smoothing is sacrebleu's default.
    return _counting_one_reference(BLEU(smooth_method="exp", effective_order=True))


@functools.cache
def _corpus_metric() -> BLEU:
    from sacrebleu.metrics import BLEU

    # sacrebleu's defaults, the ones that other papers report. `force` only silences
    # its warning about texts ending in " .", which small models do write.
    return _counting_one_reference(BLEU(force=True))


def _counting_one_reference(metric: BLEU) -> BLEU:
    """Return `metric` after a first use, without which it has no signature."""
    metric.corpus_score(["a"], [["a"]])
    return metric


def _ratio(score: float) -> float:
    """Turn sacrebleu's 0 to 100 into 0 to 1; its rounding can exceed 100."""
    return min(score / 100, 1.0)


def _check_texts(predictions: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("predictions", predictions), ("references", references)):
        # A string is a sequence of strings, so it would be scored by the letter.
        if isinstance(texts, str):
            raise UserError(f"{name}: found one text, expected a list of texts")
        for place, text in enumerate(texts):
            _check_text(text, f"{name}[{place}]")
    if len(predictions) != len(references):
        raise UserError(
            f"predictions and references: found {len(predictions)} and "
            f"{len(references)}, expected as many of both"
        )


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name}: found {type(text).__name__}, expected a text")
