"""Contamination: shared runs of 8 words or 50 characters."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shallower.corpus.overlap import (
    CHARACTERS,
    WORDS,
    Overlap,
    _runs,
    character_runs,
    word_runs,
)

TRAINING = "The quick brown fox jumps over the lazy dog and then it sleeps. Yes."


def shares(texts, training=TRAINING, runs=word_runs):
    overlap = Overlap(texts, runs)
    for text in [training] if isinstance(training, str) else training:
        overlap.see(text)
    return overlap.shares()


def test_eight_words_count_and_seven_do_not():
    eight = "zig zag quick brown fox jumps over the lazy dog zig zag"
    seven = "zig zag quick brown fox jumps over the lazy cat zig zag"
    found = shares([eight, seven])
    assert found[0] > 0
    assert found[1] == 0


def test_case_punctuation_and_line_breaks_do_not_hide_a_run():
    assert shares(["QUICK, brown (fox)\njumps - over the LAZY dog!"]) == [1.0]


def test_fifty_characters_count_and_forty_nine_do_not():
    text = "".join(chr(0x4E00 + number) for number in range(200))
    inside, short = f"!{text[20:70]}?", f"!{text[20:69]}?"
    found = shares([inside, short], text, character_runs)
    assert found[0] > 0
    assert found[1] == 0


def test_sorts_of_white_space_are_the_same_to_characters():
    text = "a fine line of some fifty letters, or rather more of them"
    assert shares([text.replace(" ", "\n  ")], text.upper(), character_runs) == [1.0]


def test_bare_substrings_are_innocent():
    for runs in (word_runs, character_runs):
        assert shares(["Yes.", "the lazy dog", ""], TRAINING, runs) == [0, 0, 0]


def test_markers_of_a_conversation_do_not_count():
    item = "\n\nHuman: a b c\n\nAssistant: d e\n\nHuman: f g h"
    assert shares([item], "a b c d e f g h") == [1.0]
    ours = "\n\nHuman: Hi\n\nAssistant: Hi\n\nHuman: So\n\nAssistant: So\n\nHuman: Bye"
    theirs = ours.replace("Hi", "No").replace("So", "Go").replace("Bye", "Off")
    for runs in (word_runs, character_runs):
        assert shares([ours], theirs, runs) == [0.0]


def test_share_is_of_the_texts_own_runs():
    text = " ".join(map(str, range(16)))  # nine runs
    assert shares([text], [" ".join(map(str, range(10)))]) == [3 / 9]
    apart = [" ".join(map(str, range(8))), " ".join(map(str, range(8, 16)))]
    assert shares([text], apart) == [2 / 9]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=70), st.integers(1, 60))
def test_runs_are_polynomial_hashes(values, size):
    base, modulus = 0x9E3779B97F4A7C15, 2**64
    due = [
        sum(
            value * base ** (size - 1 - place)
            for place, value in enumerate(values[start : start + size])
        )
        % modulus
        for start in range(len(values) - size + 1)
    ]
    assert _runs(np.array(values, np.uint64), size).tolist() == due


def test_no_run_is_lost_among_many():
    texts = [" ".join(map(str, range(n, n + 20))) for n in range(0, 40_000, 20)]
    assert shares(texts, texts) == [1.0] * len(texts)
    apart = [" ".join(map(str, range(n, n + 20))) for n in range(50_000, 90_000, 20)]
    assert shares(texts, apart) == [0.0] * len(texts)


def test_nothing_to_compare():
    assert shares([]) == []
    assert shares(["a b c d e f g h i"], []) == [0.0]


words = st.lists(st.sampled_from("abcd"), max_size=30)


@settings(deadline=None)
@given(words, words)
def test_agrees_with_the_plain_definition(ours, theirs):
    def runs(sequence):
        count = len(sequence) - WORDS + 1
        return {tuple(sequence[i : i + WORDS]) for i in range(count)}

    found = shares([" ".join(ours)], " ".join(theirs))[0]
    own = runs(ours)
    expected = len(own & runs(theirs)) / len(own) if own else 0.0
    assert abs(found - expected) < 1e-12


@settings(deadline=None)
@given(st.text(alphabet="ab", max_size=120), st.text(alphabet="ab", max_size=120))
def test_characters_agree_with_the_plain_definition(ours, theirs):
    def runs(text):
        return {text[i : i + CHARACTERS] for i in range(len(text) - CHARACTERS + 1)}

    found = shares([ours], theirs, character_runs)[0]
    assert (found > 0) == bool(runs(ours) & runs(theirs))
