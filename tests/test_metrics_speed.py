"""Scores are counted in a faster way than the packages do: the same values come out."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from thefuzz import fuzz

import trace_metrics
from shallower.evaluation.matching import longest_common_subsequence, shared_ngrams
from shallower.evaluation.metrics import METRICS, is_empty, score_pair, score_pairs

ORDERS = {
    f"bleu{order}": BLEU(
        max_ngram_order=order, smooth_method="exp", effective_order=True
    )
    for order in range(1, 5)
}
ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
# What sacrebleu's tokenizer looks for, spaces that str.split knows and it does not,
# digits and letters of other scripts, and letters that change when made small.
PIECES = [
    *" .,-\n\t'\"&<>:;/(){}[]_`~@#$%^*+=|\\!?…—«»",
    *("\u00a0", "\u2003", "\u2028", "\x1c", "\u0085", "\r\n", "-\n", "\ufffd"),
    *("<skipped>", "&quot;", "&amp;", "&lt;", "&gt;", "&amp;lt;", "<skip", "ped>"),
    *"aA7ßİΣςéǅ٣½²",
    *("the", "cat", "1,000.5", "e.g.", "U.S.", "10-15", "well-known", "3.", ".5"),
]
adversarial = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
few_words = st.lists(st.sampled_from(["a", "b", "the", "cat."]), max_size=30)
texts = st.one_of(st.text(st.characters(), max_size=60), adversarial)
pairs = st.one_of(
    st.tuples(texts, texts),
    st.tuples(few_words.map(" ".join), few_words.map(" ".join)),
    texts.map(lambda text: (text, text)),
)


def plain(prediction: str, reference: str) -> dict[str, float]:
    """What the packages give, used as their documentation says."""
    if is_empty(prediction) or is_empty(reference):
        return dict.fromkeys(METRICS, 0.0)
    rouge = ROUGE.score(target=reference, prediction=prediction)
    bleu = {
        name: min(metric.sentence_score(prediction, [reference]).score / 100, 1.0)
        for name, metric in ORDERS.items()
    }
    return {
        **bleu,
        **{name: score.fmeasure for name, score in rouge.items()},
        "fuzzy": fuzz.ratio(prediction, reference),
    }


@given(pairs)
@example(("a-\n b", "ab"))
@example(("x-\n", "x-"))
@example((" a\n", "a"))
@example(("5,.-5 .,", "5 , . - 5"))
@example(("a" * 70 + " b", "b " * 70))
def test_scores_are_the_packages_own(pair: tuple[str, str]) -> None:
    assert score_pair(*pair) == plain(*pair)


def test_scores_of_prose_are_the_packages_own() -> None:
    """Texts cut out of real sentences, some of them altered."""
    draw = random.Random(0)
    words = " ".join(text for pair in trace_metrics.PAIRS.values() for text in pair)
    bag = [*words.split(), "U.S.", "1,000", "(born", "1879)", "“so”", "10-15", "Łódź"]
    for _ in range(400):
        prediction = draw.choices(bag, k=draw.randint(1, 90))
        start = draw.randrange(len(prediction))
        reference = draw.choices(bag, k=draw.randint(0, 20)) + prediction[start:]
        pair = " ".join(prediction), " ".join(reference)
        assert score_pair(*pair) == plain(*pair)


def test_lists_are_scored_as_the_packages_would() -> None:
    chosen = list(trace_metrics.PAIRS.values())
    predictions, references = zip(*chosen, strict=True)
    expected = [plain(*pair) for pair in chosen]
    assert score_pairs(predictions, references).scores == expected


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_common_subsequence_by_a_table(size: int) -> None:
    draw = random.Random(size)
    left, right = (draw.choices(["a", "b", "cd", "e"], k=size) for _ in range(2))
    table = [[0] * (size + 1) for _ in range(size + 1)]
    for i, ours in enumerate(left):
        for j, theirs in enumerate(right):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if ours == theirs else longer
    assert longest_common_subsequence(left, right) == table[size][size]
    assert longest_common_subsequence(left, []) == 0


def test_shared_ngrams_by_hand() -> None:
    # 1: the, cat, the, cat; 2: the cat twice, cat the; 3: the cat the
    found = ["the", "cat", "the", "cat", "sat"]
    due = ["the", "cat", "on", "the", "cat", "the"]
    assert shared_ngrams(found, due, 4) == [4, 3, 1, 0]
    assert shared_ngrams(due, found, 3) == [4, 3, 1]
    assert shared_ngrams(["a"] * 5, ["a"] * 2, 3) == [2, 1, 0]
    assert shared_ngrams([], ["a"], 2) == [0, 0]


def test_scoring_imports_no_package_that_it_can_do_without() -> None:
    """rouge-score's scorer brings nltk: more than a second in every evaluation."""
    script = """
import sys
from shallower.evaluation.metrics import corpus_bleu, score_pairs
score_pairs(["a b"], ["a c"]), corpus_bleu(["a b"], ["a c"])
assert not {"nltk", "rouge_score.rouge_scorer", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_ngram_counts_as_often_as_the_reference_has_it() -> None:
    assert shared_ngrams(["a", "a", "a", "b"], ["a", "b", "a"], 3) == [3, 1, 0]
    assert shared_ngrams([], ["a"], 2) == [0, 0]
