"""TRACE's own definitions, and what docs/metrics.md says about them."""

import difflib
import math
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import pytest
from sacrebleu.metrics import BLEU

import trace_metrics
from shallower.evaluation.metrics import (
    METRICS,
    corpus_bleu,
    score_pair,
    score_pairs,
)

BLEUS = METRICS[:4]
DOCS = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text("utf-8")
PROSE = " ".join(DOCS.split())


def test_trace_splits_at_space_and_full_stop_only() -> None:
    assert trace_metrics.tokenize("U.S. Bank,\n3.5 %") == [
        "U",
        "S",
        "Bank,",
        "3",
        "5",
        "%",
    ]
    # One comma: TRACE loses the word, we lose the comma.
    assert trace_metrics.bleu("the, cat", "the cat", 1) == pytest.approx(1 / 2)
    assert score_pair("the, cat", "the cat")["bleu1"] == pytest.approx(2 / 3)
    # Full stops vanish for TRACE and are tokens for us.
    assert trace_metrics.bleu("the cat.", "the cat", 1) == 1
    assert score_pair("the cat.", "the cat")["bleu1"] == pytest.approx(2 / 3)


def test_trace_bleu_agrees_where_tokens_agree_and_every_order_matches() -> None:
    prediction, reference = "a b c d e x", "a b c d e f g"
    for order, name in enumerate(BLEUS, start=1):
        assert trace_metrics.bleu(prediction, reference, order) == pytest.approx(
            score_pair(prediction, reference)[name]
        )


def test_trace_bleu_is_not_smoothed() -> None:
    # Only 4-grams miss: the fourth root of the smallest float, times the rest.
    assert 0 < trace_metrics.bleu("a b c x", "a b c d", 4) < 2e-77
    assert score_pair("a b c x", "a b c d")["bleu4"] > 0.4
    assert 0 < trace_metrics.bleu("Yes.", "Yes.", 4) < 1e-77
    assert 0 < trace_metrics.bleu("Yes sir now", "Yes sir now", 4) < 2e-77
    assert trace_metrics.bleu("a b", "x y", 4) == 0


def test_trace_rouge_keeps_case_and_punctuation() -> None:
    assert trace_metrics.rouge_l("The cat", "the cat") == pytest.approx(1 / 2)
    assert trace_metrics.rouge_l("the, cat", "the cat") == pytest.approx(1 / 2)
    assert trace_metrics.rouge_l("the.cat", "the cat") == pytest.approx(1)
    assert score_pair("The, cat", "the cat")["rougeL"] == 1


def test_trace_rouge_counts_each_word_once() -> None:
    # a a a b has two different words, both in a b. For us: 2 of 4 and 2 of 2.
    assert trace_metrics.rouge_l("a a a b", "a b") == pytest.approx(1)
    assert score_pair("a a a b", "a b")["rougeL"] == pytest.approx(2 / 3)


def test_trace_rouge_unites_matches_over_sentences() -> None:
    # Sentences in the other order: all words match; as one text only one of them.
    assert trace_metrics.rouge_l("b b. a a", "a a. b b") == pytest.approx(1)
    assert score_pair("b b. a a", "a a. b b")["rougeL"] == pytest.approx(1 / 2)


def test_trace_rouge_of_equal_texts_is_a_little_less_than_one() -> None:
    assert trace_metrics.rouge_l("a b c", "a b c") == pytest.approx(
        0.999999995, abs=1e-12
    )
    assert "Equal texts give 0.999999995." in PROSE


def test_trace_similarity_is_difflibs() -> None:
    assert trace_metrics.fuzz.SequenceMatcher is difflib.SequenceMatcher, (
        "python-Levenshtein is installed, which changes what fuzzywuzzy computes"
    )
    assert trace_metrics.fuzzy("tide", "diet") == 25
    assert trace_metrics.fuzzy("diet", "tide") == 50  # depends on the order
    assert score_pair("tide", "diet") == score_pair("diet", "tide")


def test_trace_similarity_breaks_down_at_200_characters() -> None:
    prediction, reference = trace_metrics.PAIRS["F"]
    assert len(reference) > 200
    assert trace_metrics.fuzzy(prediction, reference) < 10
    shorter = trace_metrics.fuzzy(prediction, reference[:199])
    assert shorter >= 30  # where 200 characters would give less than 10
    whole = score_pair(prediction, reference)["fuzzy"]
    cut = score_pair(prediction, reference[:199])["fuzzy"]
    assert abs(whole - cut) <= 2


def test_trace_without_words() -> None:
    assert trace_metrics.mean(trace_metrics.fuzzy, ["", "yes"], ["x", "yes"]) == 50
    # rouge would raise at "", so 0 shows that the pair was left out.
    assert trace_metrics.mean(trace_metrics.rouge_l, ["yes"], [""]) == 0
    # Only "" is left out: a space is one of the three letters of a b.
    assert trace_metrics.mean(trace_metrics.fuzzy, [" "], ["a b"]) == 50
    found = score_pairs(["", "yes"], ["x", "yes"])
    assert mean(row["fuzzy"] for row in found) == 50
    for full_stops in (".", "..."):
        with pytest.raises(ValueError, match="at least 1 sentence"):
            trace_metrics.rouge_l(full_stops, "a")
        assert trace_metrics.fuzzy(full_stops, "I do not know...") > 0
        assert trace_metrics.bleu(full_stops, "a.", 1) == 0


@pytest.mark.parametrize(
    "table", [trace_metrics.pairs_table, trace_metrics.comparison_table]
)
def test_tables_in_the_docs_are_what_the_code_gives(table: Callable[[], str]) -> None:
    assert f"\n\n{table()}\n" in DOCS, (
        "docs/metrics.md: run `python tests/trace_metrics.py` and paste its tables"
    )


def test_worked_numbers_in_the_docs() -> None:
    nats = 3.5
    bits = nats / math.log(2)
    assert f"perplexity is exp(3.5) = 2^{bits:.2f} = {math.exp(nats):.1f}" in PROSE
    assert f"3.5 nats are {bits:.2f} bits" in PROSE
    assert f"while 2^3.5 = {2**nats:.1f}" in PROSE
    assert f"2^nats = perplexity^{math.log(2):.3f}" in PROSE
    assert 2**nats == pytest.approx(math.exp(nats) ** math.log(2))
    assert f"3.5 nats per token at 4 bytes per token is {bits / 4:.2f}" in PROSE

    example = score_pair("the cat the dog", "the cat sat on a mat")
    assert (
        f"hence BLEU-1 {example['bleu1']:.3f}, BLEU-2 {example['bleu2']:.3f}" in PROSE
    )
    assert f"hence BLEU-4 {example['bleu4']:.3f}" in PROSE


def test_what_the_docs_say_about_tiny_models() -> None:
    scores = {name: score_pair(*pair) for name, pair in trace_metrics.PAIRS.items()}
    c, d, e, f = (scores[name] for name in "CDEF")
    assert c["fuzzy"] == e["fuzzy"] == 45
    assert all(c[name] > e[name] for name in BLEUS)
    assert {c["fuzzy"], f["fuzzy"]} == {44, 45}
    for name in ("bleu1", "rougeL"):
        assert 0.2 <= c[name] <= 0.3
        assert 0.2 <= f[name] <= 0.3
    assert all(d[name] > c[name] for name in ("bleu1", "rougeL", "fuzzy"))

    pairs = [trace_metrics.PAIRS[name] for name in "CDEF"]
    for prediction, reference in pairs:
        counts = BLEU(effective_order=True).sentence_score(prediction, [reference])
        assert counts.counts[2:] == [0, 0]
    together = corpus_bleu(*map(list, zip(*pairs, strict=True)))
    average = mean(row["bleu4"] for row in (c, d, e, f))
    assert f"mean is {average:.3f}, their corpus BLEU-4 {together:.3f}" in PROSE


@pytest.mark.parametrize(
    "package", ["sacrebleu", "rouge-score", "thefuzz", "rapidfuzz"]
)
def test_versions_in_the_docs_are_the_installed_ones(package: str) -> None:
    found = set(re.findall(rf"{package} (\d+(?:\.\d+)+)", DOCS))
    assert found == {version(package)}
