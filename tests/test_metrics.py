"""Text metrics: worked by hand, against the packages, and against TRACE's own."""

import difflib
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from thefuzz import fuzz

import trace_metrics
from shallower.errors import UserError
from shallower.evaluation import metrics
from shallower.evaluation.metrics import (
    METRICS,
    corpus_bleu,
    is_empty,
    score_pair,
    score_pairs,
    signature,
)
from shallower.evaluation.units import UNITS, unit_of

BLEUS = METRICS[:4]
ROUGES = METRICS[4:7]
ZERO = dict.fromkeys(METRICS, 0.0)
WORDLESS = [
    "",
    " ",
    "\n",
    "\t \r\n",
    ".",
    "...",
    " . , !",
    "—«»…",
    "⁇",
    "\ufffd",
    "+ $",
]
# Includes lone surrogates, which no decoder yields but a test of "any text" should.
any_text = st.text(st.characters(), max_size=60)
words = st.lists(
    st.sampled_from(["a", "the", "city", "of", "Ulm", "1879", "no."]), min_size=1
)
wordy_text = words.map(" ".join)
text = st.one_of(any_text, wordy_text)
few = settings(max_examples=100, deadline=None)


def test_names_and_units() -> None:
    assert METRICS == (
        "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL", "fuzzy",
    )  # fmt: skip
    assert tuple(score_pair("a b", "a c")) == METRICS
    assert tuple(score_pair("", "")) == METRICS
    assert unit_of("fuzzy") == unit_of("fuzzy.mismatched") == "percent"
    assert unit_of("rougeL") == unit_of("rougeL.mismatched") == "ratio"
    with pytest.raises(KeyError):
        unit_of("meteor")


# Worked by hand


def test_bleu_by_hand() -> None:
    # prediction: the cat the dog          4 tokens
    # reference:  the cat sat on a mat     6 tokens
    # 1-grams: the (once: clipped to the reference's one), cat     2 of 4
    # 2-grams: the cat; not cat the, the dog                       1 of 3
    # 3-grams: none of 2, smoothed to 1 / 2  matches               1/2 of 2 = 1/4
    # 4-grams: none of 1, smoothed to 1 / 4  matches               1/4 of 1 = 1/4
    # brevity penalty: 4 < 6, exp(1 - 6/4) = exp(-1/2) = 0.60653
    scores = score_pair("the cat the dog", "the cat sat on a mat")
    brevity = math.exp(-1 / 2)
    assert scores["bleu1"] == pytest.approx(brevity * 2 / 4)
    assert scores["bleu1"] == pytest.approx(0.30327, abs=5e-6)
    assert scores["bleu2"] == pytest.approx(brevity * (2 / 4 * 1 / 3) ** (1 / 2))
    assert scores["bleu2"] == pytest.approx(0.24762, abs=5e-6)
    assert scores["bleu3"] == pytest.approx(brevity * (1 / 6 * 1 / 4) ** (1 / 3))
    assert scores["bleu4"] == pytest.approx(brevity * (1 / 6 * 1 / 16) ** (1 / 4))


def test_bleu_has_no_penalty_for_length_but_loses_precision() -> None:
    # prediction: sat on and on a mat; reference: sat on a mat
    # 1-grams: sat, on (clipped to one), a, mat, 4 of 6
    # 2-grams: sat on, on a, a mat, 3 of 5
    scores = score_pair("sat on and on a mat", "sat on a mat")
    assert scores["bleu1"] == pytest.approx(4 / 6)
    assert scores["bleu2"] == pytest.approx(math.sqrt(4 / 6 * 3 / 5))
    # The other way round every word matches, and brevity costs exp(1 - 6/4).
    turned = score_pair("sat on a mat", "sat on and on a mat")
    assert turned["bleu1"] == pytest.approx(math.exp(-1 / 2))


def test_bleu_leaves_out_orders_that_a_short_prediction_cannot_have() -> None:
    # One token of two: precision 1, brevity exp(1 - 2/1); no 2-, 3-, 4-grams exist.
    scores = score_pair("yes", "yes sir")
    assert [scores[name] for name in BLEUS] == pytest.approx([math.exp(-1)] * 4)


def test_bleu_keeps_case_and_splits_punctuation() -> None:
    # "Cat" is not "cat"; the comma is a token of its own: the , cat against the cat
    assert score_pair("the Cat", "the cat")["bleu1"] == pytest.approx(1 / 2)
    assert score_pair("the, cat", "the cat")["bleu1"] == pytest.approx(2 / 3)


def test_rouge_by_hand() -> None:
    # Lin (2004), section 3.1, reference: police killed the gunman
    #   police kill the gunman   common subsequence: police the gunman   3 of 4 and 4
    #   the gunman kill police   common subsequence: the gunman          2 of 4 and 4
    reference = "police killed the gunman"
    first = score_pair("police kill the gunman", reference)
    assert first["rougeL"] == pytest.approx(3 / 4)
    assert first["rouge1"] == pytest.approx(3 / 4)  # kill is not killed: no stemming
    assert first["rouge2"] == pytest.approx(1 / 3)  # the gunman, of 3 and 3
    second = score_pair("the gunman kill police", reference)
    assert second["rougeL"] == pytest.approx(2 / 4)
    assert second["rouge1"] == pytest.approx(3 / 4)  # order does not matter here


def test_rouge_is_f1_and_counts_repeats() -> None:
    # the the the cat: 2 of its 4 words are among the 3 of: the cat sat
    # precision 2/4, recall 2/3, F1 = 2 x 1/3 / (7/6) = 4/7
    scores = score_pair("the the the cat", "the cat sat")
    assert scores["rouge1"] == pytest.approx(4 / 7)
    assert scores["rougeL"] == pytest.approx(4 / 7)


def test_rouge_ignores_case_and_punctuation() -> None:
    assert score_pair("The CAT!", "the, cat")["rouge2"] == 1


def test_rouge_knows_only_latin_letters_without_accents() -> None:
    # As docs/metrics.md says: Zürich is "z" and "rich".
    assert score_pair("rich", "Zürich")["rouge1"] == pytest.approx(2 / 3)
    cyrillic = score_pair("Привет мир", "Привет мир")
    assert [cyrillic[name] for name in METRICS] == [1] * 4 + [0] * 3 + [100]


def test_fuzzy_by_hand() -> None:
    # kitten (6), sitting (7): the longest common subsequence i t t n has 4 letters, so
    # d = 6 + 7 - 2 x 4 = 5 and 100 x (1 - 5/13) = 61.5, rounded to 62. Levenshtein's
    # distance with replacements, 3, would give 57 (of 7) or 77 (of 13).
    assert score_pair("kitten", "sitting")["fuzzy"] == 62
    assert score_pair("yes", "YES")["fuzzy"] == 0  # raw strings: case counts
    assert score_pair(" yes ", "yes")["fuzzy"] == 75  # and so does space: 6 of 8


def test_fuzzy_is_not_difflibs() -> None:
    # The longest common subsequence is i e, 2 x 2 of 8 letters. difflib takes the first
    # of the longest blocks, t, and finds nothing to the left or right of it.
    assert score_pair("tide", "diet")["fuzzy"] == 50
    assert difflib.SequenceMatcher(None, "tide", "diet").ratio() == 0.25


@pytest.mark.parametrize("same", ["Ulm is a city on the Danube.", "Yes, sir. No."])
def test_identical_texts_are_perfect(same: str) -> None:
    # Exactly 1: sacrebleu itself gives 100.00000000000004.
    assert score_pair(same, same) == {**dict.fromkeys(METRICS, 1.0), "fuzzy": 100.0}
    assert corpus_bleu([same], [same]) == 1


def test_identical_single_words_have_no_pairs_of_words() -> None:
    perfect = {**dict.fromkeys(METRICS, 1.0), "fuzzy": 100.0}
    assert score_pair("Yes.", "Yes.") == {**perfect, "rouge2": 0.0}


def test_nothing_in_common_is_zero() -> None:
    assert score_pair("aa bb cc dd", "xx-yy-zz") == ZERO
    assert corpus_bleu(["aa bb cc dd"], ["xx yy zz"]) == 0


# Texts without words


@pytest.mark.parametrize("wordless", WORDLESS)
def test_wordless_texts_score_zero_on_everything(wordless: str) -> None:
    assert is_empty(wordless)
    assert score_pair(wordless, "Yes. No.") == ZERO
    assert score_pair("Yes. No.", wordless) == ZERO
    assert score_pair(wordless, wordless) == ZERO


@pytest.mark.parametrize("wordy", ["a", "0", "...a", "é", "мир", "½", "Ⅷ", "_1_"])
def test_a_letter_or_digit_of_any_script_is_a_word(wordy: str) -> None:
    assert not is_empty(wordy)
    assert score_pair(wordy, wordy)["fuzzy"] == 100


def test_lists_keep_order() -> None:
    predictions = ["yes sir", ".", "no", "", "yes"]
    references = ["yes", "no.", "...", "yes", "yes"]
    scores = score_pairs(predictions, references)
    assert scores == list(map(score_pair, predictions, references))
    assert [row["bleu1"] > 0 for row in scores] == [True, False, False, False, True]
    assert score_pairs([], []) == []


def test_several_processes_give_the_same_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(0)
    words = ["the", "city", "of", "Ulm", "1,879", "no."]
    texts = [[" ".join(draw.choices(words, k=9)) for _ in range(40)] for _ in "ab"]
    alone = score_pairs(*texts, processes=2)
    assert len({row["bleu2"] for row in alone}) > 10
    monkeypatch.setattr(metrics, "_PER_PROCESS", 20)
    pools: list[int] = []
    pool = metrics.ProcessPoolExecutor
    monkeypatch.setattr(
        metrics,
        "ProcessPoolExecutor",
        lambda count, context: pools.append(count) or pool(count, context),
    )
    assert score_pairs(*texts, processes=3) == alone
    assert pools == [2]  # 40 pairs pay for two


# Corpus BLEU


def test_corpus_bleu_by_hand() -> None:
    # a b c d of a b c d e; x y z of a y z
    # 1-grams 4 + 2 of 4 + 3, 2-grams 3 + 1 of 3 + 2, 3-grams 2 + 0 of 2 + 1,
    # 4-grams 1 + 0 of 1 + 0; lengths 7 < 8: exp(1 - 8/7)
    found = corpus_bleu(["a b c d", "x y z"], ["a b c d e", "a y z"])
    product = 6 / 7 * 4 / 5 * 2 / 3 * 1 / 1
    assert found == pytest.approx(math.exp(-1 / 7) * product ** (1 / 4))


def test_corpus_bleu_is_smoothed() -> None:
    # 4 tokens, 2 in place: 2/4, 1/3, then 1/2 of 2 and 1/4 of 1
    found = corpus_bleu(["a b x y"], ["a b c d"])
    assert found == pytest.approx((2 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** (1 / 4))


def test_corpus_bleu_without_four_tokens_anywhere_is_zero() -> None:
    assert corpus_bleu(["yes", "no"], ["yes", "no"]) == 0


@pytest.mark.parametrize("wordless", WORDLESS)
def test_corpus_bleu_counts_an_empty_prediction_as_missing_length(
    wordless: str,
) -> None:
    # Every n-gram matches; 5 tokens for 5 + 3: exp(1 - 8/5). The full stop of the
    # second reference must not match either, so it is no token of the prediction.
    found = corpus_bleu(["a b c d e", wordless], ["a b c d e", "x y."])
    assert found == pytest.approx(math.exp(-3 / 5))
    assert corpus_bleu([wordless], ["a b c d e"]) == 0


def test_corpus_bleu_gives_nothing_for_an_empty_reference() -> None:
    # The prediction's 2 words are 2 misses: 4/6, 3/4, 2/2, 1/1, longer than 4.
    found = corpus_bleu(["a b c d", "x ."], ["a b c d", "."])
    assert found == pytest.approx((4 / 6 * 3 / 4) ** (1 / 4))


def test_scoring_is_silent() -> None:
    # In a process of its own, because sacrebleu warns when a metric is first used.
    script = """
from shallower.evaluation.metrics import corpus_bleu, score_pair, signature
assert signature()  # also before anything was scored
texts = ["many lines that end in a full stop ."] * 120
corpus_bleu(texts, texts), score_pair("yes", "no")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")


# Against the packages, used directly


BLEU_OF = {
    name: BLEU(max_ngram_order=order, smooth_method="exp", effective_order=True)
    for order, name in enumerate(BLEUS, start=1)
}
ROUGE = RougeScorer(list(ROUGES), use_stemmer=False)


def plain(prediction: str, reference: str) -> dict[str, float]:
    """What the packages give, used as their documentation says."""
    rouge = ROUGE.score(target=reference, prediction=prediction)
    bleu = {
        name: min(metric.sentence_score(prediction, [reference]).score / 100, 1.0)
        for name, metric in BLEU_OF.items()
    }
    return {
        **bleu,
        **{name: score.fmeasure for name, score in rouge.items()},
        "fuzzy": fuzz.ratio(prediction, reference),
    }


@few
@given(wordy_text, wordy_text)
@example(*trace_metrics.PAIRS["F"])
@example("He said: 1,000.5 &quot;x&quot; <skipped> well-\nknown", "1,000.5 well-known")
@example("Zürich liegt am See", "Zürich lies on a lake")
def test_scores_are_the_packages_own(prediction: str, reference: str) -> None:
    assert score_pair(prediction, reference) == plain(prediction, reference)


def test_corpus_bleu_equal_to_the_package() -> None:
    pairs = list(trace_metrics.PAIRS.values())[:-1]
    predictions, references = map(list, zip(*pairs, strict=True))
    expected = BLEU().corpus_score(predictions, [references]).score / 100
    assert corpus_bleu(predictions, references) == pytest.approx(expected)


def test_signature_names_options_and_versions() -> None:
    sentence = BLEU(effective_order=True)
    sentence.corpus_score(["a"], [["a"]])
    corpus = BLEU()
    corpus.corpus_score(["a"], [["a"]])
    found = signature()
    assert str(sentence.get_signature()) in found
    assert str(corpus.get_signature()) in found
    assert f"version:{version('sacrebleu')}" in found
    assert "no stemming" in found
    for package in ("rouge-score", "thefuzz", "rapidfuzz"):
        assert f"{package} {version(package)}" in found
    assert "\n" not in found


# Properties


@few
@given(text, text)
def test_any_text_is_scored_within_range(prediction: str, reference: str) -> None:
    scores = score_pair(prediction, reference)
    for name in METRICS:
        assert type(scores[name]) is float
        assert 0 <= scores[name] <= (1 if UNITS[name] == "ratio" else 100)
    assert 0 <= corpus_bleu([prediction], [reference]) <= 1


@few
@given(text, text)
def test_rouge_and_fuzzy_are_symmetric(left: str, right: str) -> None:
    # BLEU is not: precision and brevity look at the prediction only.
    there, back = score_pair(left, right), score_pair(right, left)
    for name in (*ROUGES, "fuzzy"):
        assert there[name] == pytest.approx(back[name])


@few
@given(wordy_text)
def test_any_wordy_text_is_perfect_against_itself(same: str) -> None:
    scores = score_pair(same, same)
    del scores["rouge2"]  # 0 for one word, see above
    assert scores.pop("fuzzy") == 100
    assert set(scores.values()) == {1.0}


# Bad input


def both(predictions: Any, references: Any) -> Iterator[str]:
    for function in (score_pairs, corpus_bleu):
        with pytest.raises(UserError) as error:
            function(predictions, references)
        yield str(error.value)


def test_lists_of_different_length_are_refused() -> None:
    for message in both(["a", "b"], ["a"]):
        assert "found 2 and 1" in message


@pytest.mark.parametrize("wrong", [None, float("nan"), b"a", 3])
def test_what_is_not_text_is_refused(wrong: Any) -> None:
    for message in both(["a", "b"], ["a", wrong]):
        assert message.startswith("references[1]: found ")
        assert type(wrong).__name__ in message
    for message in both([wrong], ["a"]):
        assert message.startswith("predictions[0]: ")
    with pytest.raises(UserError, match="prediction: found"):
        score_pair(wrong, "a")
    with pytest.raises(UserError, match="reference: found"):
        score_pair("a", wrong)


def test_a_single_text_is_not_a_list_of_texts() -> None:
    for message in both("ab", ["a", "b"]):
        assert message.startswith("predictions: found one text")
    for message in both(["a", "b"], "ab"):
        assert message.startswith("references: found one text")


def test_corpus_bleu_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no pairs"):
        corpus_bleu([], [])


# Cost


def test_imports_are_late_and_never_torch() -> None:
    script = """
import sys
from shallower.evaluation import metrics
slow = {"sacrebleu", "rouge_score", "nltk", "thefuzz", "rapidfuzz", "numpy"}
assert not slow & set(sys.modules), slow & set(sys.modules)
metrics.score_pair("", "a")
assert not slow & set(sys.modules), "scoring an empty text needs no package"
metrics.score_pair("a", "a"), metrics.corpus_bleu(["a"], ["a"]), metrics.signature()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
