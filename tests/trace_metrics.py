"""The metrics of TRACE, the benchmark code that the original paper scored with.

Rewritten from the definitions in `metrics.py` of github.com/BeyonderXX/TRACE at
commit 462e39f (Apache-2.0), for comparison in tests and in `docs/metrics.md` only:
nothing in the pipeline uses it. `python tests/trace_metrics.py` prints the tables of
that page.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

from shallower.evaluation.metrics import score_pair

with warnings.catch_warnings():
    # fuzzywuzzy warns that it falls back to difflib, which is the case TRACE's own
    # requirements give (no python-Levenshtein).
    warnings.simplefilter("ignore")
    from fuzzywuzzy import fuzz  # type: ignore[import-untyped]
    from nltk.translate.bleu_score import (  # type: ignore[import-untyped]
        sentence_bleu,
    )
    from rouge import Rouge  # type: ignore[import-untyped]

PAIRS: dict[str, tuple[str, str]] = {
    "A": ("Paris.", "Paris."),
    "B": ("the cat, sat on the mat", "The cat sat on the mat."),
    "C": (
        "He was a member of the House of Representatives.",
        "Ulm is a city on the river Danube in the south of Germany.",
    ),
    "D": (
        "the city of the city of the city of the city of the city",
        "Ulm is a city on the river Danube in the south of Germany.",
    ),
    "E": (
        "Ulm is in Germany",
        "Ulm is a city on the river Danube in the south of Germany.",
    ),
    "F": (
        "It was the first time in the history of the United States that a member of "
        "the party was elected to the House of Representatives. He was a member of "
        "the House of Representatives from the state of New York.",
        "Ulm is a city on the river Danube in the south of Germany. It is known for "
        "its minster, whose steeple is the tallest of any church, and as the place "
        "where Albert Einstein was born in 1879. The university opened in 1967.",
    ),
    "G": ("...", "I do not know..."),
}
"""Prediction and reference, by the letter that `docs/metrics.md` gives them."""


def tokenize(text: str) -> list[str]:
    """Split at every white-space character and full stop; keep case and the rest."""
    return [token for token in re.split(r"\s|\.", text) if token]


def bleu(prediction: str, reference: str, order: int) -> float:
    """NLTK's sentence BLEU, uniform weights, no smoothing; a ratio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per missing order: that is the point
        return float(
            sentence_bleu(
                [tokenize(reference)],
                tokenize(prediction),
                tuple([1 / order] * order),
            )
        )


def rouge_l(prediction: str, reference: str) -> float:
    """F of package rouge's ROUGE-L; TRACE passes the reference as the hypothesis.

    Raises ValueError (in the package) if either text has only full stops.
    """
    scores = Rouge(metrics=["rouge-l"]).get_scores(reference, prediction, avg=True)
    return float(scores["rouge-l"]["f"])


def fuzzy(prediction: str, reference: str) -> float:
    """The ratio of package fuzzywuzzy, with difflib: a whole number 0 to 100."""
    return float(fuzz.ratio(prediction, reference))


def mean(
    metric: Callable[[str, str], float], predictions: list[str], references: list[str]
) -> float:
    """Mean as TRACE takes it: pairs with "" are left out of the sum, not the count."""
    scores = [
        metric(prediction, reference)
        for prediction, reference in zip(predictions, references, strict=True)
        if prediction != "" and reference != ""
    ]
    return sum(scores) / len(predictions)


def _shown(
    metric: Callable[[str, str], float], pair: tuple[str, str], digits: int
) -> str:
    try:
        value = metric(*pair)
    except ValueError:
        return "error"
    return f"{value:.0e}" if 0 < value < 0.0005 else f"{value:.{digits}f}"


def pairs_table() -> str:
    """The texts of `PAIRS` as a Markdown table."""
    lines = ["| | prediction | reference |", "|---|---|---|"]
    lines += [f"| {name} | {p} | {r} |" for name, (p, r) in PAIRS.items()]
    return "\n".join(lines) + "\n"


def comparison_table() -> str:
    """Our and TRACE's scores of `PAIRS` as a Markdown table."""
    theirs: dict[str, Callable[[str, str], float]] = {
        "bleu1": lambda p, r: bleu(p, r, 1),
        "bleu4": lambda p, r: bleu(p, r, 4),
        "rougeL": rouge_l,
        "fuzzy": fuzzy,
    }
    titles = [title for name in theirs for title in (f"{name} ours", "TRACE")]
    rows = [["", *titles], ["---", *["---:"] * len(titles)]]
    for letter, pair in PAIRS.items():
        ours = score_pair(*pair)
        rows.append([letter])
        for name, metric in theirs.items():
            digits = 0 if name == "fuzzy" else 3
            rows[-1] += [f"{ours[name]:.{digits}f}", _shown(metric, pair, digits)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(pairs_table())
    print(comparison_table())
