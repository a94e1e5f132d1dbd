"""How close a generated text is to its reference: BLEU, ROUGE and string similarity.

Definitions, options and the comparison with the original's code (TRACE) are in
`docs/metrics.md`. sacrebleu, rouge-score and thefuzz compute everything here. They are
imported when the first pair is scored. Free of torch.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from shallower.errors import UserError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

_BLEU_ORDERS = {"bleu1": 1, "bleu2": 2, "bleu3": 3, "bleu4": 4}
_ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
_PER_PROCESS = 4000  # pairs that take longer than starting a process


class Metric(NamedTuple):
    """What is known of a metric of one pair, beside how `score_pair` computes it."""

    unit: str  # ratio or percent
    printed: str = ""  # its name in tables and figures; in neither without one


TEXT_METRICS: dict[str, Metric] = {
    "bleu1": Metric("ratio", "BLEU-1"),
    "bleu2": Metric("ratio", "BLEU-2"),
    "bleu3": Metric("ratio", "BLEU-3"),
    "bleu4": Metric("ratio", "BLEU-4"),
    "rouge1": Metric("ratio", "ROUGE-1"),
    "rouge2": Metric("ratio", "ROUGE-2"),
    "rougeL": Metric("ratio", "ROUGE-L"),
    "fuzzy": Metric("percent", "FuzzyWuzzy"),
}
METRICS = tuple(TEXT_METRICS)  # in the order in which tables show them
# Of an item: each metric against its own reference and another's, `empty`,
# `generated_tokens`.
ROWS_OF_ITEM = 2 * len(METRICS) + 2


def is_empty(text: str) -> bool:
    """Whether `text` has no letter and no digit of any script.

    True of "", white space, punctuation, symbols and undecodable bytes (U+FFFD).
    """
    return not any(character.isalnum() for character in text)


def score_pair(prediction: str, reference: str) -> dict[str, float]:
    """Every metric of one generated text against its one reference.

    BLEU and ROUGE are ratios 0 to 1, `fuzzy` is a whole number 0 to 100. All are 0 if
    the prediction or the reference `is_empty`: "..." is no answer, although as a string
    it may be like the reference. Raises UserError if either is not a string.
    """
    _check_text(prediction, "prediction")
    _check_text(reference, "reference")
    if is_empty(prediction) or is_empty(reference):
        return dict.fromkeys(METRICS, 0.0)
    from thefuzz import fuzz

    bleu = {
        name: _ratio(_sentence_bleu(n).sentence_score(prediction, [reference]).score)
        for name, n in _BLEU_ORDERS.items()
    }
    rouge = _rouge().score(target=reference, prediction=prediction)
    return {
        **bleu,
        **{name: float(rouge[name].fmeasure) for name in _ROUGE_TYPES},
        "fuzzy": float(fuzz.ratio(prediction, reference)),
    }


def score_pairs(
    predictions: Sequence[str], references: Sequence[str], processes: int = 1
) -> list[dict[str, float]]:
    """`score_pair` of each prediction and its reference, in the order given.

    Over at most `processes` processes, if there are enough pairs to pay for starting
    them. Raises UserError if the two differ in length or have anything but strings.
    """
    _check_texts(predictions, references)
    processes = min(processes, len(predictions) // _PER_PROCESS)
    if processes < 2:
        return list(map(score_pair, predictions, references))
    # Not forked: the caller's process may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        scores = pool.map(score_pair, predictions, references, chunksize=500)
        return list(scores)


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of all pairs taken as one text: a ratio 0 to 1.

    N-grams are counted over all pairs before precisions are taken (sacrebleu's
    defaults: exponential smoothing, no effective order), so smoothing weighs far less
    than in a mean of sentences' BLEU-4. It is 0 if no token matches anywhere or no
    prediction has four tokens. Empty texts count as having no tokens, so an empty
    prediction still costs its reference's length in the brevity penalty.

    Raises UserError if the two differ in length, have anything but strings, or are
    empty lists.
    """
    _check_texts(predictions, references)
    if len(predictions) == 0:  # also true of an empty array, which has no truth value
        raise UserError("corpus BLEU: found no pairs, expected at least one")
    blanked = [
        ["" if is_empty(text) else text for text in texts]
        for texts in (predictions, references)
    ]
    return _ratio(_corpus_bleu().corpus_score(blanked[0], [blanked[1]]).score)


def signature() -> str:
    """What the scores were made with: sacrebleu's signatures, options, versions."""
    return "; ".join(
        (
            f"BLEU-1 to 4: {_sentence_bleu(4).get_signature()}",
            f"corpus BLEU-4: {_corpus_bleu().get_signature()}",
            f"ROUGE-1, 2, L: F1, no stemming, rouge-score {version('rouge-score')}",
            # thefuzz only rounds; the number is rapidfuzz's.
            f"fuzzy: ratio, thefuzz {version('thefuzz')}, "
            f"rapidfuzz {version('rapidfuzz')}",
        )
    )


@functools.cache
def _sentence_bleu(order: int) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # Short answers are common here. Without the effective order, a right answer of
    # fewer than four tokens would have BLEU-4 0; with it, orders that the prediction
    # is too short to have are left out. Exponential smoothing is sacrebleu's default.
    return _used(BLEU(max_ngram_order=order, smooth_method="exp", effective_order=True))


@functools.cache
def _corpus_bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # sacrebleu's defaults, the ones that other papers report. `force` only silences
    # its warning about texts ending in " .", which small models do write.
    return _used(BLEU(force=True))


def _used(metric: BLEU) -> BLEU:
    """Return `metric` after a first use, without which it has no signature."""
    metric.corpus_score(["a"], [["a"]])
    return metric


@functools.cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    # No stemming: it is rouge-score's default, and TRACE's package has none.
    return RougeScorer(list(_ROUGE_TYPES))


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
